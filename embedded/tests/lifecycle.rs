//! The whole life of a private server, over the real `PostgreSQL` of this system.
//!
//! A process that has to die is this test program again: it runs [`helper`], told by the environment what to do.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use embedded::{
    Error, Interruption, Origin, Server, Settings, Status, find_binaries, start, start_throwaway,
    start_throwaway_in,
};
use tempfile::TempDir;

const ROLE: &str = "EMBEDDED_TEST_ROLE";
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that the user of the server can reach; its path is short enough for a socket.
fn home() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("its owner may");
    dir
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    println!("{what}: {} ms", begin.elapsed().as_millis());
    result
}

fn started(dir: &Path) -> Server {
    start(&Settings::new(dir)).expect("PostgreSQL starts")
}

/// What a statement answers.
fn ask(url: &str, sql: &str) -> String {
    let psql = find_binaries(None).expect("PostgreSQL is installed").dir.join("psql");
    let (url, mode) = url.split_once("sslmode=").expect("the mode comes last");
    assert_eq!(mode, "disable");
    let output = Command::new(psql)
        .args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--command",
            sql,
            url.trim_end_matches(['?', '&']),
        ])
        .output()
        .expect("psql runs");
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The processes that work in a directory.
fn processes_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir("/proc")
        .expect("these tests run on Linux")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .filter(|process| {
            // A zombie holds nothing, it only waits for its parent.
            fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
        })
        .collect()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill_9(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// Runs [`helper`] in a process of its own and returns it with the line it prints when it has done its part.
fn helper_process(role: &str, dir: &Path) -> (Child, String) {
    let program = std::env::current_exe().expect("this program has a path");
    run_helper(Command::new(program).env(ROLE, role).env("EMBEDDED_TEST_DIR", dir))
}

fn run_helper(command: &mut Command) -> (Child, String) {
    let mut child = command
        .args(["--exact", "helper", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let line = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("url=").map(|(_, url)| url.to_owned()))
        .expect("it prints the address");
    (child, line)
}

/// Not a test of its own: the part of the others that runs in another process.
#[test]
fn helper() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var_os("EMBEDDED_TEST_DIR").expect("it is set with the role"));
    let wait = || std::io::stdin().read_line(&mut String::new()).expect("it is piped");
    if role == "throwaway" {
        let throwaway = start_throwaway().expect("PostgreSQL starts");
        println!("url={}", throwaway.url());
        wait();
    } else {
        let mut settings = Settings::new(dir);
        settings.binaries = std::env::var_os("EMBEDDED_TEST_BINARIES").map(PathBuf::from);
        let server = start(&settings).expect("PostgreSQL starts");
        println!("url={}", server.url());
        wait();
        server.stop().expect("it stops");
    }
}

#[test]
fn starts_cold_stops_and_starts_again() {
    let dir = home();
    let server = timed("cold start", || started(dir.path()));
    assert_eq!((server.origin(), server.status()), (Origin::Created, Status::Ready));
    assert!(server.is_owner());
    assert!(server.pid().is_some());
    let url = server.url();
    for (setting, value) in [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on")] {
        assert_eq!(ask(&url, &format!("show {setting}")), value);
    }
    assert_eq!(ask(&url, "show server_encoding"), "UTF8");
    assert_eq!(ask(&url, "show listen_addresses"), "");
    ask(&url, "create table kept (id int); insert into kept values (7)");

    timed("stop", || server.stop()).expect("it stops");
    assert_eq!(processes_in(dir.path()), Vec::<PathBuf>::new());
    assert!(!dir.path().join("sock").exists());

    let server = timed("restart", || started(dir.path()));
    assert_eq!(server.origin(), Origin::Restarted);
    assert_eq!(ask(&server.url(), "select id from kept"), "7");
}

#[test]
fn only_the_password_opens_it() {
    let dir = home();
    let server = started(dir.path());
    let password = fs::metadata(server.directory().join("password")).expect("it is there");
    assert_eq!(password.permissions().mode() & 0o777, 0o600);
    let socket = server.directory().join("sock");
    let output = Command::new(find_binaries(None).expect("PostgreSQL is installed").dir.join("psql"))
        .args(["--no-password", "--username=iris", "--dbname=postgres", "--command=select 1", "--host"])
        .arg(socket)
        .output()
        .expect("psql runs");
    assert!(!output.status.success(), "without the password it must not answer");
}

#[test]
fn settings_reach_the_server() {
    let dir = home();
    let mut settings = Settings::new(dir.path());
    settings.extra_config.push(("max_connections".to_owned(), "37".to_owned()));
    settings.extra_config.push(("listen_addresses".to_owned(), "*".to_owned()));
    let server = start(&settings).expect("PostgreSQL starts");
    assert_eq!(ask(&server.url(), "show max_connections"), "37");
    assert_eq!(ask(&server.url(), "show listen_addresses"), "", "no setting opens the server to the network");
}

#[test]
fn a_wrong_setting_is_named() {
    let dir = home();
    let mut settings = Settings::new(dir.path());
    settings.extra_config.push(("shared_buffers".to_owned(), "lots".to_owned()));
    let error = start(&settings).expect_err("it cannot start");
    assert!(error.to_string().contains("shared_buffers"), "{error}");
    assert_eq!(processes_in(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn adopts_the_server_of_a_killed_process() {
    let dir = home();
    let (mut first, url) = helper_process("holder", dir.path());
    ask(&url, "create table kept (id int)");
    first.kill().and_then(|()| first.wait()).expect("it can be killed");
    assert!(!processes_in(dir.path()).is_empty(), "the server runs on");

    let server = timed("adopt", || started(dir.path()));
    assert_eq!((server.origin(), server.is_owner()), (Origin::Adopted, true));
    assert_eq!(server.url(), url);
    assert_eq!(ask(&url, "select count(*) from kept"), "0");
    server.stop().expect("it stops");
    assert_eq!(processes_in(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_second_process_shares_the_server_and_inherits_it() {
    let dir = home();
    let (mut first, url) = helper_process("holder", dir.path());
    let second = started(dir.path());
    assert_eq!((second.origin(), second.is_owner()), (Origin::Adopted, false));
    assert_eq!(second.url(), url);
    second.stop().expect("there is nothing to do");
    assert_eq!(ask(&url, "select 1"), "1", "the owner's server runs on");

    let mut second = started(dir.path());
    first.kill().and_then(|()| first.wait()).expect("it can be killed");
    assert!(!second.ensure_running().expect("it runs"), "there is nothing to start");
    kill_9(second.pid().expect("it runs"));
    wait_until("the server is gone", || second.status() == Status::Gone);
    assert!(second.ensure_running().expect("it starts"));
    assert!(second.is_owner());
    assert_eq!(second.url(), url);
    second.stop().expect("it stops");
    assert_eq!(processes_in(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn two_starts_at_once_make_one_server() {
    let dir = home();
    let servers: Vec<Server> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| started(dir.path()))).collect();
        starts.into_iter().map(|start| start.join().expect("it starts")).collect()
    });
    assert_eq!(servers.iter().filter(|server| server.is_owner()).count(), 1);
    assert!(servers.iter().all(|server| server.pid() == servers[0].pid()));
}

#[test]
fn recovers_from_the_death_of_everything() {
    let dir = home();
    let (mut first, url) = helper_process("holder", dir.path());
    ask(&url, "create table kept (id int); insert into kept select generate_series(1, 1000)");
    let pid = fs::read_to_string(dir.path().join("data/postmaster.pid")).expect("it runs");
    kill_9(pid.lines().next().and_then(|pid| pid.parse().ok()).expect("a process id"));
    // The owner does not look after its child, which stays a zombie until the owner dies.
    wait_until("the server's processes are gone", || processes_in(dir.path()).is_empty());
    first.kill().and_then(|()| first.wait()).expect("it can be killed");
    assert!(dir.path().join("data/postmaster.pid").exists());

    let server = timed("recover", || started(dir.path()));
    assert_eq!(server.origin(), Origin::Restarted);
    assert_eq!(ask(&server.url(), "select count(*) from kept"), "1000");
}

#[test]
fn starts_again_in_place_after_the_server_was_killed() {
    let dir = home();
    let mut server = started(dir.path());
    let url = server.url();
    ask(&url, "create table kept (id int)");
    kill_9(server.pid().expect("it runs"));
    wait_until("the server is gone", || server.status() == Status::Gone);
    assert!(timed("start again", || server.ensure_running()).expect("it starts"));
    assert_eq!((server.status(), server.url()), (Status::Ready, url.clone()));
    assert_eq!(ask(&url, "select count(*) from kept"), "0");
    assert!(!server.ensure_running().expect("it runs"));
}

#[test]
fn a_zombie_in_the_pid_file_is_no_server() {
    let dir = home();
    started(dir.path()).stop().expect("it stops");
    let mut zombie = Command::new("true").spawn().expect("it runs");
    let data = dir.path().join("data");
    let stat = format!("/proc/{}/stat", zombie.id());
    wait_until("it is a zombie", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")));
    let pid_file =
        format!("{}\n{}\n1\n5432\n{}/sock\n\n\nready\n", zombie.id(), data.display(), dir.path().display());
    fs::write(data.join("postmaster.pid"), pid_file).expect("it can be written");

    let server = started(dir.path());
    assert_eq!((server.origin(), server.status()), (Origin::Restarted, Status::Ready));
    zombie.wait().expect("it can be waited for");
}

#[test]
fn a_strangers_process_id_is_no_server() {
    let dir = home();
    started(dir.path()).stop().expect("it stops");
    let pid_file = format!("{}\n", std::process::id());
    fs::write(dir.path().join("data/postmaster.pid"), pid_file).expect("it can be written");
    assert_eq!(started(dir.path()).origin(), Origin::Restarted);
}

#[test]
fn half_a_cluster_is_made_anew() {
    let dir = home();
    fs::create_dir_all(dir.path().join("data.new/base")).expect("it can be made");
    fs::write(dir.path().join("data.new/PG_VERSION"), "15\n").expect("it can be written");
    assert_eq!(started(dir.path()).origin(), Origin::Created);
    assert!(!dir.path().join("data.new").exists());
}

#[test]
fn a_long_path_is_served_on_a_loopback_port() {
    let dir = home();
    let mut server = started(&dir.path().join("n".repeat(100)));
    let url = server.url();
    assert!(url.contains("@127.0.0.1:"), "{url}");
    assert_eq!(ask(&url, "show listen_addresses"), "127.0.0.1");
    kill_9(server.pid().expect("it runs"));
    wait_until("the server is gone", || server.status() == Status::Gone);
    server.ensure_running().expect("it starts");
    assert_eq!(server.url(), url, "clients keep the address");
    assert_eq!(ask(&url, "select 1"), "1");
}

#[test]
fn a_path_may_hold_any_character() {
    let dir = home();
    let server = started(&dir.path().join("it's a \"home\" & ü?"));
    assert!(server.url().contains("?host=/"), "{}", server.url());
    assert_eq!(ask(&server.url(), "select 1"), "1");
}

#[test]
fn root_keeps_the_data_where_the_server_can_reach_it() {
    let dir = home();
    let private = dir.path().join("private");
    fs::create_dir(&private).expect("it can be made");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("its owner may");
    let wanted = private.join("postgres");
    let server = started(&wanted);
    let real = server.directory().to_path_buf();
    assert_eq!(ask(&server.url(), "show fsync"), "on");
    ask(&server.url(), "create table kept (id int)");
    server.stop().expect("it stops");
    if real.starts_with(dir.path()) {
        // Not root: the server runs as this user, who can reach the place.
        return;
    }
    let location = fs::read_to_string(wanted.join("location")).expect("the home says where");
    assert_eq!(location.trim(), real.to_str().expect("it is plain"));
    let server = started(&wanted);
    assert_eq!((server.origin(), server.directory()), (Origin::Restarted, real.as_path()));
    assert_eq!(ask(&server.url(), "select count(*) from kept"), "0");
    server.stop().expect("it stops");
    fs::remove_dir_all(&real).expect("it can be removed");
    assert!(matches!(start(&Settings::new(&wanted)), Err(Error::LostData { .. })));
}

#[test]
fn a_server_whose_directory_was_moved_is_stopped() {
    let dir = home();
    let server = started(&dir.path().join("before"));
    fs::rename(dir.path().join("before"), dir.path().join("after")).expect("it can be moved");
    server.stop().expect("it stops");
    assert_eq!(processes_in(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(started(&dir.path().join("after")).origin(), Origin::Restarted);
}

#[test]
fn the_data_of_another_version_is_left_alone() {
    let dir = home();
    fs::create_dir(dir.path().join("data")).expect("it can be made");
    fs::write(dir.path().join("data/PG_VERSION"), "9\n").expect("it can be written");
    let error = start(&Settings::new(dir.path())).expect_err("9 is not installed");
    assert!(error.to_string().contains("was made by PostgreSQL 9 and only"), "{error}");
}

#[test]
fn an_upgrade_under_a_running_server_restarts_it() {
    let dir = home();
    let installed = find_binaries(None).expect("PostgreSQL is installed").dir;
    let copy = dir.path().join("bin");
    fs::create_dir(&copy).expect("it can be made");
    // A server looks for its libraries beside its program.
    let lib = installed.parent().expect("it has one").join("lib");
    std::os::unix::fs::symlink(lib, dir.path().join("lib")).expect("it can be made");
    for name in ["postgres", "initdb"] {
        fs::copy(installed.join(name), copy.join(name)).expect("it can be copied");
    }
    let data_dir = dir.path().join("postgres");
    let mut settings = Settings::new(&data_dir);
    settings.binaries = Some(copy.clone());
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.env(ROLE, "holder").env("EMBEDDED_TEST_DIR", &data_dir).env("EMBEDDED_TEST_BINARIES", &copy);
    let (mut first, _) = run_helper(&mut command);
    first.kill().and_then(|()| first.wait()).expect("it can be killed");

    fs::copy(installed.join("postgres"), copy.join("new")).expect("it can be copied");
    fs::rename(copy.join("new"), copy.join("postgres")).expect("it can be renamed");
    let server = start(&settings).expect("PostgreSQL starts");
    assert_eq!(server.origin(), Origin::Restarted);
    assert_eq!(ask(&server.url(), "select 1"), "1");
}

#[test]
fn a_throwaway_leaves_nothing() {
    let throwaway = timed("throwaway", start_throwaway).expect("PostgreSQL starts");
    let url = throwaway.url().to_owned();
    assert_eq!(ask(&url, "show fsync"), "on");
    let dir = PathBuf::from(ask(&url, "show data_directory")).parent().expect("it has one").to_path_buf();
    timed("stop throwaway", || throwaway.stop()).expect("it stops");
    assert!(!dir.exists());
    assert_eq!(processes_in(&dir), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupted_throwaway_goes_on_at_the_same_address() {
    let dir = home();
    let mut throwaway = start_throwaway_in(dir.path(), &[]).expect("PostgreSQL starts");
    let url = throwaway.url().to_owned();
    ask(&url, "create table kept (id int); insert into kept values (7)");
    for how in [Interruption::Stop, Interruption::Kill] {
        throwaway.interrupt(how).expect("it can be ended");
        assert!(throwaway.resume().expect("it starts"), "{how:?} has ended it");
        assert_eq!(throwaway.url(), url);
        assert_eq!(ask(&url, "select id from kept"), "7");
    }
    assert!(!throwaway.resume().expect("it runs"));
    throwaway.stop().expect("it stops");
    assert_eq!(processes_in(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_throwaway_ends_with_its_process() {
    let (mut process, url) = helper_process("throwaway", Path::new("unused"));
    let dir = PathBuf::from(ask(&url, "show data_directory")).parent().expect("it has one").to_path_buf();
    assert!(!processes_in(&dir).is_empty());
    process.kill().and_then(|()| process.wait()).expect("it can be killed");
    let begin = Instant::now();
    wait_until("the server stops", || processes_in(&dir).is_empty() && !dir.exists());
    println!("guardian: {} ms", begin.elapsed().as_millis());
}

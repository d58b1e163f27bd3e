//! A broken configuration stops the start with one line that says what and where.

use std::process::Output;

fn fails(environment: &[(&str, &str)], args: &[&str]) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let output = tests::iris_command()
        .args(args)
        .env("IRIS_HOME", home.path())
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .env("IRIS_SECRET_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
        .envs(environment.iter().copied())
        .output()
        .expect("iris runs");
    assert!(!output.status.success(), "{args:?} with {environment:?}");
    assert!(output.stdout.is_empty());
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// Settings, arguments, and the variable that is to be named.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static str);

#[test]
fn every_wrong_setting_is_named() {
    let cases: [Case; 9] = [
        (
            &[
                ("IRIS_SMTP_URL", "smpt://ana:hunter2@mail.example.com\n"),
                ("IRIS_SMTP_FROM", "a@example.com"),
            ],
            &["worker"],
            "IRIS_SMTP_URL",
        ),
        (&[("IRIS_SECRET_KEY", "short")], &["api"], "IRIS_SECRET_KEY"),
        (&[("IRIS_API_ADDR", "here")], &["api"], "IRIS_API_ADDR"),
        (&[("IRIS_API_ADDR", "192.0.2.1:80")], &["api"], "IRIS_API_ADDR"),
        (&[("IRIS_DAY", "soon")], &["worker"], "IRIS_DAY"),
        (&[("IRIS_WEBHOOK_ALLOW", "127.0.0.0/99")], &["dispatcher"], "IRIS_WEBHOOK_ALLOW"),
        (&[("IRIS_LOG", "loud=very")], &["migrate"], "IRIS_LOG"),
        (
            &[("IRIS_SMTP_URL", "smtp://127.0.0.1:25"), ("IRIS_SMTP_FROM", "nobody")],
            &["worker"],
            "IRIS_SMTP_FROM",
        ),
        (&[("DATABASE_URL", "mysql://127.0.0.1/x")], &["worker"], "DATABASE_URL"),
    ];
    for (environment, args, variable) in cases {
        let line = fails(environment, args);
        assert!(line.contains(variable), "{variable} is not in: {line}");
        for (_, value) in environment {
            if *value == "short" || value.contains("hunter2") {
                assert!(!line.contains("short") && !line.contains("hunter2"), "a secret is shown: {line}");
            }
        }
    }
}

#[test]
fn an_unknown_command_is_one_line() {
    fails(&[], &["campaigns"]);
}

/// Runs iris in an empty directory without any setting.
fn bare(directory: &std::path::Path, args: &[&str]) -> Output {
    let mut command = tests::iris_command();
    command.args(args).current_dir(directory).env_remove("IRIS_HOME").env("DATABASE_URL", "");
    command.output().expect("iris runs")
}

#[test]
fn help_and_mistakes_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    for args in
        [&["--help"][..], &["--version"], &["worker", "--help"], &["campaigns"], &["api", "--nonsense"], &[]]
    {
        let asked = args.iter().any(|arg| arg.starts_with("--help") || arg.starts_with("--version"));
        let output = bare(directory.path(), args);
        assert_eq!(output.status.success(), asked, "{args:?} {output:?}");
        assert_eq!(output.stdout.is_empty(), !asked, "{args:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{args:?} made a home");
    }
    let nowhere = tests::iris_command().arg("--help").env("IRIS_HOME", "/dev/null/home").output().unwrap();
    assert!(nowhere.status.success(), "{nowhere:?}");
}

#[test]
fn an_empty_database_url_is_one_that_is_not_set() {
    let directory = tempfile::tempdir().unwrap();
    // The private database cannot be started from there: that is how it is seen to be meant.
    let mut command = tests::iris_command();
    command
        .args(["migrate"])
        .env("DATABASE_URL", "")
        .env("IRIS_PG_BIN", "/nowhere")
        .env("IRIS_HOME", directory.path());
    let output = command.output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && line.contains("/nowhere"), "{line}");
}

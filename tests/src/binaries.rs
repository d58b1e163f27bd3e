//! Where the programs under test are.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The binary of iris: IRIS_BIN, or one built now.
pub fn iris() -> PathBuf {
    std::env::var_os("IRIS_BIN").map_or_else(|| built().join("iris"), PathBuf::from)
}

/// The binary of iris with nothing of the settings of whoever runs the tests.
pub fn iris_command() -> Command {
    let mut command = Command::new(iris());
    without_settings(&mut command);
    command
}

/// Takes the settings of whoever runs the tests from a command, but for what is about the machine: an API key among them
/// would be paid for, and any other would make the test another one.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text == "DATABASE_URL" || text.starts_with("IRIS_") && !OF_THE_MACHINE.contains(&&*text) {
            command.env_remove(&name);
        }
    }
}

/// The settings that say where programs and files are on one machine.
pub const OF_THE_MACHINE: [&str; 3] = ["IRIS_HOME", "IRIS_PG_BIN", "IRIS_WORLD_BIN"];

/// The binary of the simulated outside: IRIS_WORLD_BIN, or one built now.
pub fn world() -> PathBuf {
    std::env::var_os("IRIS_WORLD_BIN").map_or_else(|| built().join("iris-world"), PathBuf::from)
}

/// Builds both, once, into the directory that this test was built into.
fn built() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let test = std::env::current_exe().expect("the test's own path");
        let profile = test.parent().and_then(Path::parent).expect("a target directory").to_owned();
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "iris", "--package", "world", "--target-dir"])
            .arg(profile.parent().expect("a target directory"))
            .current_dir(repository())
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the programs under test do not build");
        profile
    })
}

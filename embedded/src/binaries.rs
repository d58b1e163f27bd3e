//! Finds the server binaries of the system.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, MAJOR_MIN};

/// A directory with `postgres` and `initdb` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub dir: PathBuf,
    /// The major version, such as 15.
    pub major: u32,
}

impl Binaries {
    /// The path of one program of this installation.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Asks the `postgres` in `dir` for its version; the error says why the directory does not serve.
    fn read(dir: &Path) -> Result<Self, String> {
        for name in ["postgres", "initdb"] {
            if !dir.join(name).is_file() {
                return Err(format!("there is no `{name}` in it"));
            }
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("`postgres --version` does not run: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let major =
            parse_major(&text).ok_or_else(|| format!("`postgres --version` says {:?}", text.trim()))?;
        Ok(Self { dir: dir.to_path_buf(), major })
    }
}

/// Finds a `PostgreSQL` server of version 15 or newer.
///
/// With `explicit` (`IRIS_PG_BIN`) only that directory counts. Otherwise the order is: `pg_config --bindir`, the
/// newest of the directories where distributions put their versions side by side, PATH, Homebrew, Postgres.app.
pub fn find_binaries(explicit: Option<&Path>) -> Result<Binaries, Error> {
    find_binaries_of(explicit, None)
}

/// As [`find_binaries`], but of one major version when a cluster exists already and asks for it.
pub(crate) fn find_binaries_of(
    explicit: Option<&Path>,
    cluster: Option<(u32, &Path)>,
) -> Result<Binaries, Error> {
    let mut found = Vec::new();
    if let Some(dir) = explicit {
        let bad = |reason| Error::BadBinaries { dir: dir.to_path_buf(), reason };
        let binaries = Binaries::read(dir).map_err(bad)?;
        if binaries.major < MAJOR_MIN {
            return Err(bad(format!("it is PostgreSQL {}, {MAJOR_MIN} or newer is needed", binaries.major)));
        }
        found.push(binaries);
    } else {
        found.extend(places().iter().filter_map(|dir| Binaries::read(dir).ok()));
    }
    choose(found, cluster)
}

fn choose(found: Vec<Binaries>, cluster: Option<(u32, &Path)>) -> Result<Binaries, Error> {
    let (usable, old): (Vec<_>, Vec<_>) = found.into_iter().partition(|binaries| binaries.major >= MAJOR_MIN);
    if usable.is_empty() {
        let found = if old.is_empty() { String::new() } else { format!(" (found {})", describe(&old)) };
        return Err(Error::NoBinaries { found });
    }
    let Some((data, dir)) = cluster else {
        return usable.into_iter().next().ok_or(Error::NoBinaries { found: String::new() });
    };
    let found = describe(&usable);
    let same = usable.into_iter().find(|binaries| binaries.major == data);
    same.ok_or_else(|| Error::DataVersion { dir: dir.to_path_buf(), data, found })
}

fn describe(binaries: &[Binaries]) -> String {
    let each = binaries.iter().map(|binaries| format!("{} in {}", binaries.major, binaries.dir.display()));
    each.collect::<Vec<_>>().join(", ")
}

/// Every directory that may hold a server, in the order of preference, each once.
fn places() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    dirs.extend(pg_config_dir());
    // Debian, then the RPMs of postgresql.org, then Alpine.
    dirs.extend(versioned("/usr/lib/postgresql", "", "bin"));
    dirs.extend(versioned("/usr", "pgsql-", "bin"));
    dirs.extend(versioned("/usr/libexec", "postgresql", ""));
    dirs.extend(path_dirs());
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt"] {
        dirs.extend(versioned(homebrew, "postgresql@", "bin"));
        dirs.push(Path::new(homebrew).join("postgresql/bin"));
    }
    dirs.extend(versioned("/Applications/Postgres.app/Contents/Versions", "", "bin"));

    let mut seen = Vec::new();
    for dir in dirs {
        if dir.join("postgres").is_file() && !seen.contains(&dir) {
            seen.push(dir);
        }
    }
    seen
}

fn pg_config_dir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().ok()?;
    let dir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!dir.is_empty()).then(|| PathBuf::from(dir))
}

/// `<parent>/<prefix><number>/<child>` for every number there is, the newest first.
fn versioned(parent: &str, prefix: &str, child: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut dirs: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, if child.is_empty() { entry.path() } else { entry.path().join(child) }))
        })
        .collect();
    dirs.sort_by(|(a, _), (b, _)| b.cmp(a));
    dirs.into_iter().map(|(_, dir)| dir).collect()
}

/// The directories of the `postgres` programs on PATH, links followed: a server looks for its files beside itself.
fn path_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter_map(|dir| dir.join("postgres").canonicalize().ok())
        .filter_map(|program| program.parent().map(Path::to_path_buf))
        .collect()
}

/// The 15 of `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)` and the 18 of `postgres (PostgreSQL) 18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binaries(major: u32) -> Binaries {
        Binaries { dir: PathBuf::from(format!("/pg/{major}")), major }
    }

    #[test]
    fn reads_the_major_version() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("postgres: command not found", None),
        ] {
            assert_eq!(parse_major(text), major, "{text:?}");
        }
    }

    #[test]
    fn takes_the_first_that_is_new_enough() {
        let chosen =
            choose(vec![binaries(13), binaries(16), binaries(17)], None).expect("one of them serves");
        assert_eq!(chosen, binaries(16));
    }

    #[test]
    fn takes_the_version_of_an_existing_cluster() {
        let found = vec![binaries(17), binaries(15)];
        let chosen = choose(found, Some((15, Path::new("/data")))).expect("15 is there");
        assert_eq!(chosen, binaries(15));
        let error = choose(vec![binaries(17)], Some((15, Path::new("/data")))).expect_err("15 is not there");
        assert!(error.to_string().contains("made by PostgreSQL 15"), "{error}");
    }

    #[test]
    fn names_what_it_found_when_nothing_serves() {
        let error = choose(vec![binaries(13)], None).expect_err("13 is too old");
        assert!(error.to_string().contains("(found 13 in /pg/13); install them:"), "{error}");
        let error = choose(Vec::new(), None).expect_err("there is none");
        assert!(
            error.to_string().starts_with("no PostgreSQL server binaries (15 or newer) found;"),
            "{error}"
        );
    }

    #[test]
    fn an_explicit_directory_must_serve() {
        let error = find_binaries(Some(Path::new("/nonexistent"))).expect_err("it does not exist");
        assert_eq!(error.to_string(), "IRIS_PG_BIN=/nonexistent: there is no `postgres` in it");
    }
}

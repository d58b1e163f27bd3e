//! The directory of one private server, and where it is when the obvious place cannot be reached.
//!
//! ```text
//! <root>/lock       held by the process that owns the server
//! <root>/password   of the database user, readable by the owner only
//! <root>/log        what the server says
//! <root>/sock/      the unix socket
//! <root>/data/      the cluster itself
//! ```
//!
//! The root is the directory that the caller asked for. Only when the caller is root and the user that `PostgreSQL`
//! runs as cannot enter that directory (it lies under `/root`, say) is it elsewhere, and then the directory asked
//! for holds a file `location` that names the place.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::cannot;
use crate::user::{Access, User, is_root};

/// The log is put aside at a start when it has grown past this.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The directory of one server and the user it runs as.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) root: PathBuf,
    pub(crate) user: User,
}

impl Home {
    /// Finds or makes the directory for the server that the caller wants in `wanted`.
    pub(crate) fn resolve(wanted: &Path) -> Result<Self, Error> {
        fs::create_dir_all(wanted).map_err(cannot("create", wanted))?;
        let location = wanted.join("location");
        if let Ok(text) = fs::read_to_string(&location) {
            let root = PathBuf::from(text.trim_end_matches('\n'));
            if !root.is_dir() {
                return Err(Error::LostData { file: location, dir: root });
            }
            return Self::at(&root);
        }
        let home = Self::at(wanted)?;
        if home.user.can(Access::Enter, &home.root) {
            return Ok(home);
        }
        // A cluster that is here already is never left behind for an empty one elsewhere.
        if home.has_cluster() {
            return Err(Error::Unreachable { user: home.user.name().to_owned(), path: home.root });
        }
        let root = fallback(&home.root)?;
        tracing::warn!(
            "{} cannot enter {}, so the database is kept in {}",
            home.user.name(),
            home.root.display(),
            root.display()
        );
        fs::write(&location, format!("{}\n", root.display())).map_err(cannot("write", &location))?;
        Self::at(&root)
    }

    /// The home in `root`, which exists, with the mode it needs.
    fn at(root: &Path) -> Result<Self, Error> {
        // The system names the working directory of a server without links, and it is compared with this.
        let root = root.canonicalize().map_err(cannot("find", root))?;
        let user = User::choose(&root.join("data"))?;
        // Another user passes through to its socket and its data, but sees no names.
        let mode = if matches!(user, User::Same) { 0o700 } else { 0o711 };
        set_mode(&root, mode)?;
        Ok(Self { root, user })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn socket_dir(&self) -> PathBuf {
        self.root.join("sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn has_cluster(&self) -> bool {
        self.data().join("PG_VERSION").is_file()
    }

    /// The major version that made the cluster; `None` when there is no cluster yet.
    pub(crate) fn cluster_version(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// The lock of the owner, or `None` while another process holds it. The system frees it when its holder dies.
    pub(crate) fn try_lock(&self) -> Result<Option<File>, Error> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(cannot("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::Io { action: "lock", path, source }),
        }
    }

    /// The password of the database user, made on the first call.
    pub(crate) fn password(&self) -> Result<String, Error> {
        let path = self.root.join("password");
        if !path.exists() && !self.has_cluster() {
            write_private(&path, &random_hex()?)?;
        }
        let text = fs::read_to_string(&path).map_err(cannot("read", &path))?;
        Ok(text.trim().to_owned())
    }

    /// The server's log, open for appending.
    pub(crate) fn open_log(&self) -> Result<File, Error> {
        let path = self.log();
        if path.metadata().is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            let old = self.root.join("log.old");
            fs::rename(&path, &old).map_err(cannot("rename", &path))?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(cannot("open", &path))
    }

    /// A directory of this home that belongs to the server's user, made when it is missing.
    pub(crate) fn own_dir(&self, dir: &Path, mode: u32) -> Result<(), Error> {
        fs::create_dir_all(dir).map_err(cannot("create", dir))?;
        set_mode(dir, mode)?;
        self.user.own(dir)
    }
}

/// A file with a secret: written beside its place and renamed, so that it is whole or absent.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_extension("new");
    remove_if_there(&new)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(cannot("create", &new))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot("write", &new))?;
    fs::rename(&new, path).map_err(cannot("rename", &new))
}

/// Removes a file or a directory with all that is in it, if it is there.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), Error> {
    let removed = match path.symlink_metadata() {
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", path)(error)),
        _ => Ok(()),
    }
}

/// 32 random hexadecimal digits.
pub(crate) fn random_hex() -> Result<String, Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).map_err(cannot("read", source))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(cannot("set the mode of", path))
}

/// A directory outside of the home, with a name that depends on the home's path alone.
fn fallback(wanted: &Path) -> Result<PathBuf, Error> {
    let name = format!("iris-{:016x}", fnv1a(wanted.as_os_str().as_encoded_bytes()));
    let library = Path::new("/var/lib").join(&name);
    let root = if make_dir(&library).is_ok() {
        library
    } else {
        // Some systems keep /var/lib read-only, even for root.
        let root = std::env::temp_dir().join(&name);
        make_dir(&root).map_err(cannot("create", &root))?;
        root
    };
    // The name can be guessed, and in a temporary directory anybody could have put a directory or a link there.
    let metadata = root.symlink_metadata().map_err(cannot("read", &root))?;
    if is_root() && metadata.is_dir() && metadata.uid() == 0 {
        Ok(root)
    } else {
        Err(Error::NotOurs { path: root })
    }
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// FNV-1a, because the standard library's hash may change with its version and this one names a directory.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("password");
        write_private(&path, "secret").expect("it can be written");
        assert_eq!(fs::read_to_string(&path).expect("it can be read"), "secret");
        assert_eq!(path.metadata().expect("it exists").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_lock_has_one_holder() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home { root: dir.path().to_path_buf(), user: User::Same };
        let held = home.try_lock().expect("it can be opened").expect("it is free");
        assert!(home.try_lock().expect("it can be opened").is_none());
        drop(held);
        assert!(home.try_lock().expect("it can be opened").is_some());
    }

    #[test]
    fn data_that_moved_away_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("location"), "/nonexistent/iris\n").expect("it can be written");
        let error = Home::resolve(dir.path()).expect_err("the place is gone");
        assert!(matches!(error, Error::LostData { .. }), "{error}");
    }
}

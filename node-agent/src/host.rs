//! What the agent does to a directory of its host, one system call at a time.
//!
//! Everything that is written passes through [`Host`], so that tests can let each single step fail, or end the process
//! there. Paths are relative to the directory that was opened, and no part of one is ever followed through a symbolic
//! link: whoever may write into the directory cannot make the agent write outside of it.

#[cfg(test)]
pub(crate) mod memory;
mod real;

use std::fmt;
use std::io;

use secrecy::SecretSlice;

pub use real::{Identity, RealHost};

/// One directory of the host. Paths are `name` or `directory/name`, without `.`, `..` and empty parts; anything else is
/// [`io::ErrorKind::InvalidInput`].
pub trait Host {
    /// A file that is being written.
    type File;

    /// What is there, with the content of a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// What the system says; that nothing is there is no error.
    fn read(&self, path: &str, limit: usize) -> io::Result<Found>;

    /// The names in a directory, sorted; `""` is the directory that was opened. None where it is not there.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;

    /// Creates a file with exactly these permissions, to be written.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if anything is there; what else the system says.
    fn create(&self, path: &str, mode: u32) -> io::Result<Self::File>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the system says; a part may have been written.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;

    /// Waits until what was written would survive a loss of power.
    ///
    /// # Errors
    /// What the system says; what has been written is in doubt then.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Renames.
    ///
    /// # Errors
    /// What the system says. Nothing has changed then.
    fn rename(&self, from: &str, to: &str, rename: Rename) -> io::Result<()>;

    /// Removes what is no directory. Returns whether it was there.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &str) -> io::Result<bool>;

    /// Creates a directory. Returns whether it was not there.
    ///
    /// # Errors
    /// What the system says.
    fn create_directory(&self, path: &str, mode: u32) -> io::Result<bool>;

    /// Removes an empty directory. Returns whether it was there.
    ///
    /// # Errors
    /// [`io::ErrorKind::DirectoryNotEmpty`]; what else the system says.
    fn remove_directory(&self, path: &str) -> io::Result<bool>;

    /// Waits until the directory's names would survive a loss of power; `""` is the directory that was opened.
    ///
    /// # Errors
    /// What the system says.
    fn sync_directory(&self, directory: &str) -> io::Result<()>;
}

/// What becomes of a file that has the new name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// It is replaced.
    Replace,
    /// Nothing is renamed: [`io::ErrorKind::AlreadyExists`].
    Keep,
    /// It gets the old name. Some file systems cannot do so: [`io::ErrorKind::InvalidInput`].
    Exchange,
}

/// What is found under a name.
#[derive(Debug, Default)]
pub enum Found {
    /// Nothing.
    #[default]
    Nothing,
    /// A regular file.
    File(FoundFile),
    /// A regular file with more than the limit.
    TooLarge,
    /// Something that is neither read nor replaced.
    Other(Kind),
}

/// A regular file.
pub struct FoundFile {
    /// What it holds.
    pub content: SecretSlice<u8>,
    /// Its permissions, without the type.
    pub mode: u32,
    /// Whether it belongs to the user and group that this process writes as.
    pub owned: bool,
}

impl fmt::Debug for FoundFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundFile")
            .field("mode", &format_args!("{:04o}", self.mode))
            .field("owned", &self.owned)
            .finish_non_exhaustive()
    }
}

/// What is there instead of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link, wherever it leads.
    SymbolicLink,
    /// A FIFO, socket or device.
    Special,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::SymbolicLink => "a symbolic link",
            Self::Special => "a FIFO, socket or device",
        })
    }
}

/// The parts of a path: the directories, and the last name.
fn parts(path: &str) -> io::Result<(Vec<&str>, &str)> {
    let mut parts = directories(path)?;
    let last = parts.pop().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((parts, last))
}

/// The parts of a directory's path; none for the one that was opened.
fn directories(path: &str) -> io::Result<Vec<&str>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    path.split('/')
        .map(|part| {
            let is_name = !matches!(part, "" | "." | "..") && !part.contains('\0');
            is_name
                .then_some(part)
                .ok_or(io::ErrorKind::InvalidInput.into())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_downwards_only() {
        assert_eq!(parts("config.json").unwrap(), (vec![], "config.json"));
        assert_eq!(parts("a/b/c").unwrap(), (vec!["a", "b"], "c"));
        assert_eq!(directories("").unwrap(), Vec::<&str>::new());
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\0b",
        ] {
            let refused = parts(path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
    }

    #[test]
    fn content_is_not_printed() {
        let found = Found::File(FoundFile {
            content: b"CANARY".to_vec().into(),
            mode: 0o600,
            owned: true,
        });
        let printed = format!("{found:?}");
        assert!(
            printed.contains("0600") && !printed.contains("CANARY"),
            "{printed}"
        );
    }
}

//! A real directory.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, fchmod, flock,
    fstat, fsync, mkdirat, openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use zeroize::Zeroizing;

use super::{Found, FoundFile, Host, Kind, Rename, directories, parts};

/// Of a file's mode: all but the type.
const PERMISSIONS: u32 = 0o7777;

/// A directory of the host, held open: whatever is renamed or linked above it meanwhile, it stays the same one.
#[derive(Debug)]
pub struct RealHost {
    root: OwnedFd,
    user: (u32, u32),
}

/// Which directory of the machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl RealHost {
    /// Opens a directory.
    ///
    /// # Errors
    /// What the system says; among it, that there is none, or that the last part of its path is a symbolic link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = openat(CWD, path, DIRECTORY, Mode::empty())?;
        Ok(Self {
            root,
            user: (geteuid().as_raw(), getegid().as_raw()),
        })
    }

    /// Takes the directory for this process alone among all agents, until it is dropped. Returns false where another one
    /// has it, as happens while one pod follows another.
    ///
    /// # Errors
    /// What the system says.
    pub fn lock(&self) -> io::Result<bool> {
        match flock(&self.root, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Which directory this is.
    ///
    /// # Errors
    /// What the system says.
    pub fn identity(&self) -> io::Result<Identity> {
        let stat = fstat(&self.root)?;
        Ok(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Whether the directory has no name any more: it was deleted, and perhaps another one was made in its place, which
    /// a mount does not show.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_deleted(&self) -> io::Result<bool> {
        Ok(fstat(&self.root)?.st_nlink == 0)
    }

    /// A directory below, one name at a time: `openat2` with `RESOLVE_NO_SYMLINKS` would do the same in one call, but older
    /// container runtimes refuse it.
    fn directory(&self, parts: &[&str]) -> io::Result<OwnedFd> {
        let mut at = self.root.try_clone()?;
        for part in parts {
            at = openat(&at, *part, DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    fn found(&self, at: &OwnedFd, name: &str, limit: usize) -> io::Result<Found> {
        let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(other) = other(&stat) {
            // not even opened: to open a device may do something already
            return Ok(Found::Other(other));
        }
        // another one may be there by now: a FIFO would otherwise hold up the opening for ever
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(at, name, flags, Mode::empty())?);
        let stat = fstat(&file)?;
        if let Some(other) = other(&stat) {
            return Ok(Found::Other(other));
        }
        let bound = limit as u64 + 1;
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX).min(bound);
        // room for all of it, so that no part is left behind in memory that was given back
        let mut content = Zeroizing::new(Vec::with_capacity(
            usize::try_from(size).unwrap_or(limit) + 1,
        ));
        file.take(bound).read_to_end(&mut content)?;
        if content.len() > limit {
            return Ok(Found::TooLarge);
        }
        Ok(Found::File(FoundFile {
            content: std::mem::take(&mut *content).into(),
            mode: stat.st_mode & PERMISSIONS,
            owned: (stat.st_uid, stat.st_gid) == self.user,
        }))
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn other(stat: &Stat) -> Option<Kind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::SymbolicLink),
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Some(Kind::Special),
    }
}

/// `false` where the system says that it is so already.
fn unless(done: rustix::io::Result<()>, already: Errno) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error == already => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Host for RealHost {
    type File = File;

    fn read(&self, path: &str, limit: usize) -> io::Result<Found> {
        let (above, name) = parts(path)?;
        let found = self
            .directory(&above)
            .and_then(|at| self.found(&at, name, limit));
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            found => found,
        }
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let at = match self.directory(&directories(directory)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            at => at?,
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(at)? {
            // what is not UTF-8 was not named by us
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &str, mode: u32) -> io::Result<File> {
        let (above, name) = parts(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = openat(self.directory(&above)?, name, flags, mode)?;
        // the process's mask may have taken some away
        fchmod(&file, mode)?;
        Ok(file.into())
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        Ok(fsync(file.as_fd())?)
    }

    fn rename(&self, from: &str, to: &str, rename: Rename) -> io::Result<()> {
        let (above_from, from) = parts(from)?;
        let (above_to, to) = parts(to)?;
        let flags = match rename {
            Rename::Replace => RenameFlags::empty(),
            Rename::Keep => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        let (from_at, to_at) = (self.directory(&above_from)?, self.directory(&above_to)?);
        Ok(renameat_with(from_at, from, to_at, to, flags)?)
    }

    fn remove(&self, path: &str) -> io::Result<bool> {
        let (above, name) = parts(path)?;
        let at = self.directory(&above)?;
        unless(unlinkat(at, name, AtFlags::empty()), Errno::NOENT)
    }

    fn create_directory(&self, path: &str, mode: u32) -> io::Result<bool> {
        let (above, name) = parts(path)?;
        let at = self.directory(&above)?;
        unless(mkdirat(at, name, Mode::from_raw_mode(mode)), Errno::EXIST)
    }

    fn remove_directory(&self, path: &str) -> io::Result<bool> {
        let (above, name) = parts(path)?;
        let at = self.directory(&above)?;
        unless(unlinkat(at, name, AtFlags::REMOVEDIR), Errno::NOENT)
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        Ok(fsync(self.directory(&directories(directory)?)?)?)
    }
}

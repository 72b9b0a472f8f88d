//! Files that change as a whole: whoever reads one, at whatever moment, finds the old content or the new.
//!
//! `atomic-write-file` and its like know paths and not [`Host`]: they follow symbolic links above the file, do not wait for
//! the directory, and replace whatever another program has written a moment before. So the steps are made here, each of
//! them one that a test can cut.

use std::io;

use secrecy::ExposeSecret as _;

use crate::host::{Found, Host, Rename};

/// Whether a conditional change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was.
    Made,
    /// Another program has changed the file meanwhile: it is as that one left it.
    Overtaken,
}

/// Writes a file that nobody else writes, by way of `temporary`, which lies in the same directory and is removed where it
/// is there already.
///
/// # Errors
/// What the system says. The file is as it was, or has the new content and may lose it with the power.
pub fn replace<H: Host>(
    host: &H,
    path: &str,
    temporary: &str,
    content: &[u8],
    mode: u32,
) -> io::Result<()> {
    write(host, temporary, content, mode)?;
    host.rename(temporary, path, Rename::Replace)?;
    host.sync_directory(above(path))
}

/// Writes a file that other programs write too, if it still holds what the caller has read in it (`None`: if it is not
/// there). The file is exchanged with the new one, so that what was displaced can be looked at, and put back if it
/// is not what was expected: between a look and a plain rename another program's change would be lost. Where the file
/// system cannot exchange, the look comes right before the rename.
///
/// # Errors
/// As [`replace`]; `temporary` may be left over, with what was displaced.
pub fn swap<H: Host>(
    host: &H,
    path: &str,
    temporary: &str,
    content: &[u8],
    mode: u32,
    expected: Option<&[u8]>,
) -> io::Result<Change> {
    write(host, temporary, content, mode)?;
    let change = match expected {
        None => match host.rename(temporary, path, Rename::Keep) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Change::Overtaken,
            renamed => renamed.map(|()| Change::Made)?,
        },
        Some(expected) => match host.rename(temporary, path, Rename::Exchange) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Change::Overtaken,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                if holds(host, path, expected)? {
                    host.rename(temporary, path, Rename::Replace)?;
                    Change::Made
                } else {
                    Change::Overtaken
                }
            }
            exchanged => {
                exchanged?;
                if holds(host, temporary, expected)? {
                    Change::Made
                } else {
                    put_back(host, path, temporary, content)?;
                    Change::Overtaken
                }
            }
        },
    };
    host.remove(temporary)?;
    host.sync_directory(above(path))?;
    Ok(change)
}

/// Puts what was displaced back, unless somebody has written once more since the exchange: then the newest stays. A single
/// program that writes twice knows what it has written first.
fn put_back<H: Host>(host: &H, path: &str, temporary: &str, ours: &[u8]) -> io::Result<()> {
    match host.rename(temporary, path, Rename::Exchange) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return host.rename(temporary, path, Rename::Keep);
        }
        exchanged => exchanged?,
    }
    if holds(host, temporary, ours)? {
        Ok(())
    } else {
        host.rename(temporary, path, Rename::Exchange)
    }
}

/// Gives what `temporary` holds its name back, if the file still holds what the caller has read in it (`None`: if it is not
/// there).
///
/// # Errors
/// What the system says.
pub fn restore<H: Host>(
    host: &H,
    path: &str,
    temporary: &str,
    expected: Option<&[u8]>,
) -> io::Result<Change> {
    let rename = expected.map_or(Rename::Keep, |_| Rename::Exchange);
    match host.rename(temporary, path, rename) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
            ) =>
        {
            return Ok(Change::Overtaken);
        }
        renamed => renamed?,
    }
    let change = match expected {
        Some(expected) if !holds(host, temporary, expected)? => {
            host.rename(temporary, path, Rename::Exchange)?;
            Change::Overtaken
        }
        Some(_) | None => Change::Made,
    };
    host.sync_directory(above(path))?;
    Ok(change)
}

/// Removes a file that other programs write too, if it still holds what the caller has read in it.
///
/// # Errors
/// As [`swap`].
pub fn remove<H: Host>(
    host: &H,
    path: &str,
    temporary: &str,
    expected: &[u8],
) -> io::Result<Change> {
    host.remove(temporary)?;
    match host.rename(path, temporary, Rename::Keep) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Change::Overtaken),
        renamed => renamed?,
    }
    let change = if holds(host, temporary, expected)? {
        Change::Made
    } else {
        match host.rename(temporary, path, Rename::Keep) {
            // somebody has begun a new one already, and the newest stays
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => renamed?,
        }
        Change::Overtaken
    };
    host.remove(temporary)?;
    host.sync_directory(above(path))?;
    Ok(change)
}

fn write<H: Host>(host: &H, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    host.remove(path)?;
    let mut file = host.create(path, mode)?;
    host.write(&mut file, content)?;
    host.sync(&file)
}

fn holds<H: Host>(host: &H, path: &str, expected: &[u8]) -> io::Result<bool> {
    Ok(match host.read(path, expected.len())? {
        Found::File(file) => file.content.expose_secret() == expected,
        Found::Nothing | Found::TooLarge | Found::Other(_) => false,
    })
}

fn above(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

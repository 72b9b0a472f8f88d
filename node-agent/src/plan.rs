//! What is to be done on the node: from what the bundle says and what is there, to operations; and those, carried out.
//!
//! Each operation leaves the node in a state from which the next look leads to the end: the process may be killed, and
//! another program may write, between any two system calls.

use std::fmt;
use std::io;

use pullpass_core::docker_config::Entries;
use pullpass_core::key::RegistryKey;
use secrecy::{ExposeSecret as _, SecretSlice};

use crate::atomic_file::{self, Change};
use crate::docker_config::{MODE, Unusable, merge};
use crate::host::{Found, FoundFile, Host, Kind};
use crate::json_object::Object;
use crate::state_file::{Digest, STATE, State};

/// Kubelet's docker config.
pub const CONFIG: &str = "config.json";

/// What replaces it, or what it has displaced.
const CONFIG_TEMPORARY: &str = ".config.json.pullpass";

/// What replaces the state file.
const STATE_TEMPORARY: &str = ".pullpass.json.new";

/// The bundle is at most 1 MiB, as every Secret; and what others have in the file is small beside that.
const MAX_BYTES: usize = 4 << 20;

/// Looks and operations until the node is as it should be. Five are needed at most, after a process that was killed; each
/// change that another program makes in between takes one more.
const ROUNDS: usize = 12;

/// What is there.
#[derive(Debug, Default)]
pub struct Observed {
    /// Kubelet's docker config.
    pub config: Found,
    /// What a process that was killed has left of it.
    pub config_temporary: Found,
    /// The state file.
    pub state: Found,
    /// What a process that was killed has left of it.
    pub state_temporary: Found,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// In this order; none where the node is as it should be.
    pub operations: Vec<Operation>,
    /// Keys that the node has another login for, of its administrator's, which stay.
    pub kept: Vec<RegistryKey>,
}

/// One change of the node.
pub enum Operation {
    /// Removes what a process that was killed has left.
    RemoveLeftover(&'static str),
    /// Puts back what a process that was killed has displaced, if the docker config still is what was found.
    Restore {
        /// What was found; `None`: nothing.
        found: Option<SecretSlice<u8>>,
    },
    /// Writes the state file.
    WriteState(Vec<u8>),
    /// Removes the state file.
    RemoveState,
    /// Writes the docker config, if it still is what was found.
    WriteConfig {
        /// The content.
        content: SecretSlice<u8>,
        /// The permissions.
        mode: u32,
        /// What was found; `None`: nothing.
        found: Option<SecretSlice<u8>>,
    },
    /// Removes the docker config, if it still is what was found.
    RemoveConfig {
        /// What was found.
        found: SecretSlice<u8>,
    },
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveLeftover(path) => write!(f, "RemoveLeftover({path})"),
            Self::Restore { .. } => f.write_str("Restore"),
            Self::WriteState(_) => f.write_str("WriteState"),
            Self::RemoveState => f.write_str("RemoveState"),
            Self::WriteConfig { mode, .. } => write!(f, "WriteConfig({mode:04o})"),
            Self::RemoveConfig { .. } => f.write_str("RemoveConfig"),
        }
    }
}

/// Why nothing is done: what is there is not touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something that is no file.
    #[error(
        "{path} is {kind}, which Pullpass neither follows nor replaces: put a regular file there, or nothing"
    )]
    NoFile {
        /// Which one.
        path: &'static str,
        /// What it is.
        kind: Kind,
    },
    /// Not a docker config that may have entries of ours.
    #[error("{CONFIG} cannot have entries added: {0}")]
    Unusable(#[from] Unusable),
    /// More than anybody has written by hand.
    #[error("{0} has more than {MAX_BYTES} bytes")]
    TooLarge(&'static str),
    /// Whoever owns it would not own it any more.
    #[error("{0} does not belong to root, who alone should be able to write it: change its owner")]
    Owner(&'static str),
    /// What is ours cannot be told from what is not.
    #[error(
        "{STATE} was not written by this release of Pullpass: install the one that has, or remove the file and Pullpass's entries from {CONFIG}"
    )]
    State,
}

/// What has to be done so that the docker config holds these entries of ours, and no others.
///
/// # Errors
/// [`Refusal`].
pub fn plan(wanted: &Entries, observed: &Observed) -> Result<Plan, Refusal> {
    let state = match file(STATE, &observed.state)? {
        None => None,
        Some(file) => Some(State::parse(file.content.expose_secret()).map_err(|_| Refusal::State)?),
    };
    let mut operations = leftovers(observed, state.as_ref())?;
    if matches!(operations.last(), Some(Operation::Restore { .. })) {
        // what comes next depends on what is there then
        return Ok(Plan {
            operations,
            ..Plan::default()
        });
    }
    if wanted.is_empty() && state.is_none() {
        // whatever is there, it is none of ours
        return Ok(Plan {
            operations,
            ..Plan::default()
        });
    }
    let found = file(CONFIG, &observed.config)?;
    let text = found.map(text).transpose()?;
    let merged = merge(text, state.as_ref(), wanted)?;
    let content = merged.content.as_ref().map(|text| text.as_bytes());
    let as_it_should_be = match (found, content) {
        (None, None) => true,
        (Some(found), Some(content)) => {
            found.content.expose_secret() == content && found.mode == merged.mode
        }
        (None, Some(_)) | (Some(_), None) => false,
    };
    let wanted_state = if as_it_should_be {
        merged.state.as_ref()
    } else {
        Some(&merged.ahead)
    };
    // what was written last is of no interest while nothing is to be written
    let is_known = match (state.as_ref(), wanted_state) {
        (Some(state), Some(wanted)) if as_it_should_be => {
            state.before == wanted.before && state.entries == wanted.entries
        }
        (state, wanted) => state == wanted,
    };
    if !is_known {
        operations.push(wanted_state.map_or(Operation::RemoveState, |state| {
            Operation::WriteState(state.write())
        }));
    }
    if !as_it_should_be {
        match (found, content) {
            (found, Some(content)) => operations.push(Operation::WriteConfig {
                content: content.to_vec().into(),
                mode: merged.mode,
                found: found.map(copy),
            }),
            (Some(found), None) => operations.push(Operation::RemoveConfig { found: copy(found) }),
            (None, None) => {}
        }
    }
    Ok(Plan {
        operations,
        kept: merged.kept,
    })
}

/// What a process that was killed has left is removed; but what it had displaced, and had no time to look at, is put back.
fn leftovers(observed: &Observed, state: Option<&State>) -> Result<Vec<Operation>, Refusal> {
    let mut operations = Vec::new();
    if is_leftover(STATE_TEMPORARY, &observed.state_temporary)? {
        operations.push(Operation::RemoveLeftover(STATE_TEMPORARY));
    }
    if is_leftover(CONFIG_TEMPORARY, &observed.config_temporary)? {
        operations.push(if is_displaced(observed, state) {
            Operation::Restore {
                found: match &observed.config {
                    Found::File(config) => Some(copy(config)),
                    Found::Nothing | Found::TooLarge | Found::Other(_) => None,
                },
            }
        } else {
            Operation::RemoveLeftover(CONFIG_TEMPORARY)
        });
    }
    Ok(operations)
}

fn is_leftover(path: &'static str, found: &Found) -> Result<bool, Refusal> {
    match found {
        Found::Nothing => Ok(false),
        // what is unlinked is not followed
        Found::File(_) | Found::TooLarge | Found::Other(Kind::SymbolicLink | Kind::Special) => {
            Ok(true)
        }
        Found::Other(kind @ Kind::Directory) => Err(Refusal::NoFile { path, kind: *kind }),
    }
}

/// Whether the leftover has been the docker config: ours is in its place or nothing is, and the leftover is neither ours nor
/// half of it.
fn is_displaced(observed: &Observed, state: Option<&State>) -> bool {
    let (Some(state), Found::File(leftover)) = (state, &observed.config_temporary) else {
        return false;
    };
    let leftover = leftover.content.expose_secret();
    let is_ours = |content: &[u8]| Digest::of(content) == state.written;
    let in_its_place = match &observed.config {
        Found::Nothing => true,
        Found::File(config) => is_ours(config.content.expose_secret()),
        Found::TooLarge | Found::Other(_) => false,
    };
    let is_whole = std::str::from_utf8(leftover)
        .is_ok_and(|text| Object::parse(text.trim_matches([' ', '\t', '\n', '\r'])).is_ok());
    in_its_place && is_whole && !is_ours(leftover)
}

fn file<'a>(path: &'static str, found: &'a Found) -> Result<Option<&'a FoundFile>, Refusal> {
    match found {
        Found::Nothing => Ok(None),
        Found::File(file) if file.owned => Ok(Some(file)),
        Found::File(_) => Err(Refusal::Owner(path)),
        Found::TooLarge => Err(Refusal::TooLarge(path)),
        Found::Other(kind) => Err(Refusal::NoFile { path, kind: *kind }),
    }
}

fn copy(file: &FoundFile) -> SecretSlice<u8> {
    file.content.expose_secret().to_vec().into()
}

fn text(file: &FoundFile) -> Result<(&str, u32), Refusal> {
    let text = std::str::from_utf8(file.content.expose_secret()).map_err(|_| Unusable::Json)?;
    Ok((text, file.mode))
}

/// What there is on the host.
///
/// # Errors
/// What the system says.
pub fn observe<H: Host>(host: &H) -> io::Result<Observed> {
    Ok(Observed {
        config: host.read(CONFIG, MAX_BYTES)?,
        config_temporary: host.read(CONFIG_TEMPORARY, MAX_BYTES)?,
        state: host.read(STATE, MAX_BYTES)?,
        state_temporary: host.read(STATE_TEMPORARY, MAX_BYTES)?,
    })
}

/// Carries out operations, one after the other, as far as another program does not come in between.
///
/// # Errors
/// What the system says; the remaining operations are not carried out.
pub fn carry_out<H: Host>(host: &H, operations: &[Operation]) -> io::Result<Change> {
    for operation in operations {
        let change = match operation {
            Operation::RemoveLeftover(path) => host.remove(path).map(|_| Change::Made),
            Operation::Restore { found } => {
                let found = found.as_ref().map(|found| found.expose_secret());
                atomic_file::restore(host, CONFIG, CONFIG_TEMPORARY, found)
            }
            Operation::WriteState(content) => {
                atomic_file::replace(host, STATE, STATE_TEMPORARY, content, MODE)
                    .map(|()| Change::Made)
            }
            Operation::RemoveState => host
                .remove(STATE)
                .and_then(|_| host.sync_directory(""))
                .map(|()| Change::Made),
            Operation::WriteConfig {
                content,
                mode,
                found,
            } => {
                let found = found.as_ref().map(|found| found.expose_secret());
                let content = content.expose_secret();
                atomic_file::swap(host, CONFIG, CONFIG_TEMPORARY, content, *mode, found)
            }
            Operation::RemoveConfig { found } => {
                atomic_file::remove(host, CONFIG, CONFIG_TEMPORARY, found.expose_secret())
            }
        }?;
        if change == Change::Overtaken {
            return Ok(change);
        }
    }
    Ok(Change::Made)
}

/// The node is as it should be, as the last look at it has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converged {
    /// Whether something had to be done.
    pub changed: bool,
    /// Keys that the node has another login for, of its administrator's, which stay.
    pub kept: Vec<RegistryKey>,
}

/// Why the node is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ConvergeError {
    /// What is there is not touched.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another program changes the files faster than they can be looked at.
    #[error("another program changes {CONFIG} all the time")]
    Contested,
}

/// Looks only: that anything has to be done is [`ConvergeError::Contested`].
///
/// # Errors
/// [`ConvergeError`].
pub fn look<H: Host>(host: &H, wanted: &Entries) -> Result<Converged, ConvergeError> {
    let plan = plan(wanted, &observe(host)?)?;
    if !plan.operations.is_empty() {
        return Err(ConvergeError::Contested);
    }
    Ok(Converged {
        changed: false,
        kept: plan.kept,
    })
}

/// Looks, plans and carries out until nothing is left to be done.
///
/// # Errors
/// [`ConvergeError`].
pub fn converge<H: Host>(host: &H, wanted: &Entries) -> Result<Converged, ConvergeError> {
    for round in 0..ROUNDS {
        let plan = plan(wanted, &observe(host)?)?;
        if plan.operations.is_empty() {
            return Ok(Converged {
                changed: round > 0,
                kept: plan.kept,
            });
        }
        tracing::debug!(operations = ?plan.operations, "to be done");
        carry_out(host, &plan.operations)?;
    }
    Err(ConvergeError::Contested)
}

#[cfg(test)]
mod tests;

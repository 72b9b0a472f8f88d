//! A directory in memory, for tests: every step can fail, be the process's last, or be preceded by what another program
//! does; and the power may go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use super::{Found, FoundFile, Host, Kind, Rename, directories, parts};

type Names = BTreeMap<String, Node>;

#[derive(Clone)]
enum Node {
    Directory,
    File(Rc<RefCell<Data>>),
    Other(Kind),
}

#[derive(Clone, Default)]
struct Data {
    bytes: Vec<u8>,
    /// What a loss of power leaves.
    synced: Vec<u8>,
    mode: u32,
    foreign: bool,
}

/// What happens at a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// It fails, and the process goes on.
    Error(io::ErrorKind),
    /// It is not done, and nothing is after it.
    Death,
}

type Interference = Box<dyn FnOnce(&MemoryHost)>;

#[derive(Default)]
struct State {
    names: Names,
    /// The names as they were before each change that is not synced.
    unsynced: Vec<Names>,
    steps: usize,
    failure: Option<(usize, Failure)>,
    dead: bool,
    interferences: Vec<(usize, Interference)>,
}

/// A directory in memory. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct MemoryHost {
    state: Rc<RefCell<State>>,
    cannot_exchange: bool,
}

impl MemoryHost {
    /// On a file system that can exchange files, or not.
    pub(crate) fn exchanging(self, can: bool) -> Self {
        Self {
            cannot_exchange: !can,
            ..self
        }
    }

    pub(crate) fn put(&self, path: &str, content: &[u8], mode: u32) {
        let data = Data {
            bytes: content.to_vec(),
            synced: content.to_vec(),
            mode,
            foreign: false,
        };
        self.put_node(path, Node::File(Rc::new(RefCell::new(data))));
    }

    pub(crate) fn put_foreign(&self, path: &str, content: &[u8]) {
        self.put(path, content, 0o600);
        if let Some(Node::File(data)) = self.state.borrow().names.get(path) {
            data.borrow_mut().foreign = true;
        }
    }

    pub(crate) fn put_other(&self, path: &str, kind: Kind) {
        self.put_node(path, Node::Other(kind));
    }

    fn put_node(&self, path: &str, node: Node) {
        let mut state = self.state.borrow_mut();
        state.names.insert(path.to_owned(), node);
        // other programs sync what they write
        state.unsynced.clear();
    }

    pub(crate) fn delete(&self, path: &str) {
        self.change(|names| {
            names.remove(path);
        });
    }

    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        match self.state.borrow().names.get(path) {
            Some(Node::File(data)) => Some(data.borrow().bytes.clone()),
            Some(Node::Directory | Node::Other(_)) | None => None,
        }
    }

    pub(crate) fn mode(&self, path: &str) -> Option<u32> {
        match self.state.borrow().names.get(path) {
            Some(Node::File(data)) => Some(data.borrow().mode),
            Some(Node::Directory | Node::Other(_)) | None => None,
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.borrow().names.keys().cloned().collect()
    }

    /// How many steps were made.
    pub(crate) fn steps(&self) -> usize {
        self.state.borrow().steps
    }

    /// The step after `steps` more fails.
    pub(crate) fn fail_after(&self, steps: usize, failure: Failure) {
        let mut state = self.state.borrow_mut();
        state.failure = Some((state.steps + steps, failure));
    }

    /// Before the step after `steps` more, another program does this.
    pub(crate) fn interfere_after(&self, steps: usize, what: impl FnOnce(&MemoryHost) + 'static) {
        let mut state = self.state.borrow_mut();
        let at = state.steps + steps;
        state.interferences.push((at, Box::new(what)));
    }

    /// The process begins anew.
    pub(crate) fn restart(&self) {
        let mut state = self.state.borrow_mut();
        state.dead = false;
        state.failure = None;
    }

    /// The machine begins anew. Of the changes of names that are not synced the first `kept` have survived, and of a file
    /// nothing that is not synced.
    pub(crate) fn lose_power(&self, kept: usize) {
        self.restart();
        let mut state = self.state.borrow_mut();
        let unsynced = std::mem::take(&mut state.unsynced);
        if let Some(survived) = unsynced.into_iter().nth(kept) {
            state.names = survived;
        }
        for node in state.names.values() {
            if let Node::File(data) = node {
                let mut data = data.borrow_mut();
                data.bytes = data.synced.clone();
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Names) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let before = state.names.clone();
        state.unsynced.push(before);
        change(&mut state.names)
    }

    fn step(&self) -> io::Result<()> {
        let due: Vec<Interference> = {
            let mut state = self.state.borrow_mut();
            if state.dead {
                return Err(io::Error::other("the process has ended"));
            }
            let now = state.steps;
            let (due, later) = std::mem::take(&mut state.interferences)
                .into_iter()
                .partition(|(at, _)| *at <= now);
            state.interferences = later;
            let due: Vec<(usize, Interference)> = due;
            due.into_iter().map(|(_, what)| what).collect()
        };
        for what in due {
            what(self);
        }
        let mut state = self.state.borrow_mut();
        let now = state.steps;
        state.steps += 1;
        match state.failure {
            Some((at, failure)) if at == now => {
                state.failure = None;
                match failure {
                    Failure::Error(kind) => Err(kind.into()),
                    Failure::Death => {
                        state.dead = true;
                        Err(io::Error::other("the process ends"))
                    }
                }
            }
            _ => Ok(()),
        }
    }

    fn is_directory(&self, parts: &[&str]) -> io::Result<()> {
        let state = self.state.borrow();
        for depth in 1..=parts.len() {
            let path = parts.get(..depth).unwrap_or_default().join("/");
            match state.names.get(&path) {
                Some(Node::Directory) => {}
                Some(Node::File(_) | Node::Other(_)) => {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
                None => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        Ok(())
    }

    fn checked(&self, path: &str) -> io::Result<()> {
        self.is_directory(&parts(path)?.0)
    }
}

impl Host for MemoryHost {
    type File = MemoryFile;

    fn read(&self, path: &str, limit: usize) -> io::Result<Found> {
        self.step()?;
        match self.checked(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            checked => checked?,
        }
        Ok(match self.state.borrow().names.get(path) {
            None => Found::Nothing,
            Some(Node::Directory) => Found::Other(Kind::Directory),
            Some(Node::Other(kind)) => Found::Other(*kind),
            Some(Node::File(data)) if data.borrow().bytes.len() > limit => Found::TooLarge,
            Some(Node::File(data)) => {
                let data = data.borrow();
                Found::File(FoundFile {
                    content: data.bytes.clone().into(),
                    mode: data.mode,
                    owned: !data.foreign,
                })
            }
        })
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        self.step()?;
        let parts = directories(directory)?;
        if self.is_directory(&parts).is_err() {
            return Ok(Vec::new());
        }
        let prefix = if directory.is_empty() {
            String::new()
        } else {
            format!("{directory}/")
        };
        Ok(self
            .names()
            .iter()
            .filter_map(|name| name.strip_prefix(&prefix))
            .filter(|name| !name.contains('/'))
            .map(ToOwned::to_owned)
            .collect())
    }

    fn create(&self, path: &str, mode: u32) -> io::Result<MemoryFile> {
        self.step()?;
        self.checked(path)?;
        let data = Rc::new(RefCell::new(Data {
            mode,
            ..Data::default()
        }));
        self.change(|names| {
            if names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            names.insert(path.to_owned(), Node::File(Rc::clone(&data)));
            Ok(MemoryFile(data))
        })
    }

    fn write(&self, file: &mut MemoryFile, bytes: &[u8]) -> io::Result<()> {
        let done = self.step();
        let written = if done.is_ok() {
            bytes
        } else {
            // a disk that is full takes some of it
            bytes.get(..bytes.len() / 2).unwrap_or_default()
        };
        file.0.borrow_mut().bytes.extend_from_slice(written);
        done
    }

    fn sync(&self, file: &MemoryFile) -> io::Result<()> {
        self.step()?;
        let mut data = file.0.borrow_mut();
        data.synced = data.bytes.clone();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str, rename: Rename) -> io::Result<()> {
        self.step()?;
        self.checked(from)?;
        self.checked(to)?;
        if rename == Rename::Exchange && self.cannot_exchange {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.change(|names| {
            let moved = names.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
            match (rename, names.get(to).cloned()) {
                (Rename::Keep, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                (Rename::Exchange, None) => return Err(io::ErrorKind::NotFound.into()),
                (Rename::Exchange, Some(other)) => {
                    names.insert(from.to_owned(), other);
                }
                (Rename::Replace, Some(Node::Directory)) => {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                (Rename::Replace | Rename::Keep, _) => {
                    names.remove(from);
                }
            }
            names.insert(to.to_owned(), moved);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<bool> {
        self.step()?;
        self.checked(path)?;
        self.change(|names| match names.get(path) {
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            found => Ok(found.is_some() && names.remove(path).is_some()),
        })
    }

    fn create_directory(&self, path: &str, _mode: u32) -> io::Result<bool> {
        self.step()?;
        self.checked(path)?;
        Ok(self.change(|names| {
            let is_new = !names.contains_key(path);
            names.entry(path.to_owned()).or_insert(Node::Directory);
            is_new
        }))
    }

    fn remove_directory(&self, path: &str) -> io::Result<bool> {
        self.step()?;
        self.checked(path)?;
        self.change(|names| {
            let below = format!("{path}/");
            if names.keys().any(|name| name.starts_with(&below)) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            match names.get(path) {
                Some(Node::File(_) | Node::Other(_)) => Err(io::ErrorKind::NotADirectory.into()),
                found => Ok(found.is_some() && names.remove(path).is_some()),
            }
        })
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        self.step()?;
        self.is_directory(&directories(directory)?)?;
        // of all directories, which is more than is asked for; tests that lose power have one
        self.state.borrow_mut().unsynced.clear();
        Ok(())
    }
}

/// A file that is being written.
pub(crate) struct MemoryFile(Rc<RefCell<Data>>);

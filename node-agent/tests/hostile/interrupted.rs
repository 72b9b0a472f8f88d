//! A real directory in which one step does not come about.

use std::cell::Cell;
use std::io;

use pullpass_node_agent::host::{Found, Host, RealHost, Rename};

/// Calls `at` in place of the step after `steps` others.
pub(crate) struct Interrupted<F> {
    host: RealHost,
    steps: Cell<usize>,
    at: F,
}

impl<F: Fn() -> io::Error> Interrupted<F> {
    pub(crate) fn new(host: RealHost, steps: usize, at: F) -> Self {
        Self {
            host,
            steps: Cell::new(steps),
            at,
        }
    }

    fn step(&self) -> io::Result<()> {
        match self.steps.get().checked_sub(1) {
            // all later steps pass again
            None => {
                self.steps.set(usize::MAX);
                Err((self.at)())
            }
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
        }
    }
}

impl<F: Fn() -> io::Error> Host for Interrupted<F> {
    type File = <RealHost as Host>::File;

    fn read(&self, path: &str, limit: usize) -> io::Result<Found> {
        self.step()?;
        self.host.read(path, limit)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        self.step()?;
        self.host.list(directory)
    }

    fn create(&self, path: &str, mode: u32) -> io::Result<Self::File> {
        self.step()?;
        self.host.create(path, mode)
    }

    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()> {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        self.host.write(file, first)?;
        self.step()?;
        self.host.write(file, second)
    }

    fn sync(&self, file: &Self::File) -> io::Result<()> {
        self.step()?;
        self.host.sync(file)
    }

    fn rename(&self, from: &str, to: &str, rename: Rename) -> io::Result<()> {
        self.step()?;
        self.host.rename(from, to, rename)
    }

    fn remove(&self, path: &str) -> io::Result<bool> {
        self.step()?;
        self.host.remove(path)
    }

    fn create_directory(&self, path: &str, mode: u32) -> io::Result<bool> {
        self.step()?;
        self.host.create_directory(path, mode)
    }

    fn remove_directory(&self, path: &str) -> io::Result<bool> {
        self.step()?;
        self.host.remove_directory(path)
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        self.step()?;
        self.host.sync_directory(directory)
    }
}

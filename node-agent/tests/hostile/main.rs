//! The node's files on a real file system that is hostile: links, devices, races, full and read-only disks, processes that
//! are killed. Whatever is there: nothing is written outside of the directory, no reader finds half a file, and nothing
//! of somebody else is lost. Run as root: some of it mounts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod disk;
mod faults;
mod interrupted;
mod killed;
mod links;
mod place;
mod races;
mod runtime;
mod uninstall;

//! What both test binaries put together: Registries, their sources and what becomes of them.
// A test helper reports by failing the test.
#![allow(clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

pub mod copies;
pub mod documentation;
pub mod pods;
pub mod registries;
pub mod tenants;

//! The examples of the documentation, which users copy.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

/// An object that a page shows.
#[derive(Clone, Debug)]
pub struct Example {
    /// The page, below `docs`, such as `providers/quay.md`.
    pub page: String,
    /// The object.
    pub object: Value,
}

impl Example {
    /// Its name, where it has one.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// All objects of a kind in the YAML blocks of all pages, page by page and in the pages' order.
///
/// # Panics
/// If a page cannot be read, or a block is no YAML.
pub fn examples(kind: &str) -> Vec<Example> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut found = Vec::new();
    for page in pages(&docs) {
        let text = std::fs::read_to_string(&page)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", page.display()));
        let name = page.strip_prefix(&docs).expect("a page below docs");
        let blocks = text.split("```yaml\n").skip(1);
        for block in blocks.filter_map(|rest| rest.split("```").next()) {
            for document in serde_yaml_ng::Deserializer::from_str(block) {
                let object = Value::deserialize(document)
                    .unwrap_or_else(|error| panic!("{}: {error}", page.display()));
                if object["kind"] == kind {
                    found.push(Example {
                        page: name.display().to_string(),
                        object,
                    });
                }
            }
        }
    }
    found
}

fn pages(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", directory.display()));
    let mut entries: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory's entry").path())
        .collect();
    entries.sort();
    let mut pages = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            pages.extend(self::pages(&entry));
        } else {
            pages.push(entry);
        }
    }
    pages
}

//! What a node's containerd is told about a registry that a test brings along.

use std::path::PathBuf;

use anyhow::Result;

use crate::full::Full;

/// The first node's files about a registry; they go when this is dropped.
pub(crate) struct ToldRegistry {
    directory: PathBuf,
}

impl ToldRegistry {
    /// Tells the node these files, by their names, about the registry that images name `host`.
    pub(crate) fn tell(cluster: &Full, host: &str, files: &[(&str, &str)]) -> Result<Self> {
        let directory = cluster.cluster().registry_config("node-1", host);
        std::fs::create_dir_all(&directory)?;
        let told = Self { directory };
        for (name, content) in files {
            std::fs::write(told.directory.join(name), content)?;
        }
        Ok(told)
    }
}

impl Drop for ToldRegistry {
    fn drop(&mut self) {
        // a node that keeps them does not find the registry, which is not there any more
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

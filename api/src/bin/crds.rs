//! Writes the custom resource definitions, one file each, into the directory that is given.

use std::path::PathBuf;

use anyhow::Context as _;
use pullpass_api::definitions::definitions;

fn main() -> anyhow::Result<()> {
    let directory: PathBuf = std::env::args_os()
        .nth(1)
        .context("usage: crds DIRECTORY")?
        .into();
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for crd in definitions()? {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let file = directory.join(name);
        std::fs::write(&file, serde_yaml_ng::to_string(&crd)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

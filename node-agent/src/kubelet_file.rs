//! Mode `dockerConfig`: the node-wide entries, in the docker config that kubelet reads.

use std::io;
use std::path::Path;
use std::time::Duration;

use pullpass_core::bundle::{Bundle, KUBELET_CACHE, NODE_WIDE_SECRET};
use pullpass_core::docker_config::{self, Entries};
use pullpass_core::reason::Reason;
use secrecy::ExposeSecret as _;

use crate::config::{AgentOptions, HostDirectory};
use crate::delivery::{Bundles, Delivered, Delivery, Effort, Remark, Trouble};
use crate::host::{Found, Host as _, RealHost};
use crate::plan::{self, CONFIG, ConvergeError};
use crate::state_file::STATE;

/// Kubelet makes this directory in its root directory when it starts.
const PODS: &str = "pods";

/// The last name of a directory that is not kubelet's root: `$HOME/.docker` and `/.docker`.
const DOT_DOCKER: &str = ".docker";

/// Enough for any docker config that people write.
const MAX_MASKED_BYTES: usize = 1 << 20;

/// The docker config in one directory of the host.
#[derive(Clone, Debug)]
pub struct KubeletFile {
    directory: HostDirectory,
    masked: Vec<HostDirectory>,
}

impl KubeletFile {
    /// In this directory. `masked` are those that kubelet looks into only where that one has no docker config.
    pub fn new(directory: HostDirectory, masked: Vec<HostDirectory>) -> Self {
        Self { directory, masked }
    }

    fn converge(&self, wanted: &Entries, effort: Effort) -> Result<Delivered, Trouble> {
        let host = self.open()?;
        let masked = if wanted.is_empty() {
            None
        } else {
            self.check_place(&host)?;
            self.masked()
        };
        if let Some(masked) = &masked
            && is_without_config(&host).map_err(|error| self.io(&error))?
        {
            return Err(Trouble::blocked(
                Reason::NodeFileMasked,
                format!(
                    "kubelet uses {0} at present, and would not any more: move its entries to {1}, or remove it",
                    masked.display(),
                    self.directory.named.join(CONFIG).display(),
                ),
            ));
        }
        let converged = match effort {
            Effort::Write => plan::converge(&host, wanted),
            Effort::Look => plan::look(&host, wanted),
        };
        let converged = converged.map_err(|error| match error {
            ConvergeError::Refused(refusal) => {
                Trouble::blocked(Reason::NodeFileUnusable, self.placed(&refusal))
            }
            ConvergeError::Io(error) => self.io(&error),
            ConvergeError::Contested => {
                Trouble::blocked(Reason::NodeFileContested, self.placed(&error))
            }
        })?;
        Ok(Delivered {
            changed: converged.changed,
            kept: converged.kept,
            remark: masked.map(|masked| Remark {
                reason: Reason::NodeFileMasked,
                message: format!(
                    "kubelet does not use {}, since it looks into {} first",
                    masked.display(),
                    self.directory.named.display()
                ),
            }),
        })
    }

    fn open(&self) -> Result<RealHost, Trouble> {
        let host = RealHost::open(&self.directory.mounted).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Trouble::blocked(
                    Reason::NodePathMissing,
                    self.placed(&"there is no such directory on this node"),
                )
            } else {
                self.io(&error)
            }
        })?;
        match host.lock() {
            Ok(true) => Ok(host),
            Ok(false) => Err(Trouble::pending(
                Reason::NodePending,
                self.placed(&"another node agent is at work in it"),
            )),
            Err(error) => Err(self.io(&error)),
        }
    }

    /// A file in a directory that kubelet does not read would be written for nobody.
    fn check_place(&self, host: &RealHost) -> Result<(), Trouble> {
        if self.directory.named.ends_with(DOT_DOCKER) {
            return Ok(());
        }
        match host.read(PODS, 0) {
            Ok(Found::Other(crate::host::Kind::Directory)) => Ok(()),
            Ok(Found::Nothing | Found::File(_) | Found::TooLarge | Found::Other(_)) => {
                Err(Trouble::blocked(
                    Reason::NodePathMissing,
                    self.placed(&"it is not the root directory of a kubelet, which has a directory \"pods\" in it"),
                ))
            }
            Err(error) => Err(self.io(&error)),
        }
    }

    /// A docker config with credentials that kubelet would use if there were none here.
    fn masked(&self) -> Option<&Path> {
        let has_entries = |directory: &&HostDirectory| {
            let host = RealHost::open(&directory.mounted).ok();
            let found = host.and_then(|host| host.read(CONFIG, MAX_MASKED_BYTES).ok());
            // one that cannot be read is no loss: kubelet cannot read it either
            matches!(found, Some(Found::File(file)) if docker_config::parse(file.content.expose_secret()).is_ok())
        };
        let found = self.masked.iter().find(has_entries);
        found.map(|directory| directory.named.as_path())
    }

    fn io(&self, error: &io::Error) -> Trouble {
        let is_refused = matches!(
            error.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        );
        if is_refused {
            Trouble::blocked(
                Reason::NodeReadOnly,
                self.placed(&format_args!("it cannot be written: {error}")),
            )
        } else {
            Trouble::pending(Reason::NodeWriteFailed, self.placed(error))
        }
    }

    fn placed(&self, what: &dyn std::fmt::Display) -> String {
        format!("{}: {what}", self.directory.named.display())
    }
}

/// Whether kubelet finds no docker config here, and we have put none here.
fn is_without_config(host: &RealHost) -> io::Result<bool> {
    let is_nothing = |path| {
        host.read(path, 0)
            .map(|found| matches!(found, Found::Nothing))
    };
    Ok(is_nothing(CONFIG)? && is_nothing(STATE)?)
}

/// The node-wide entries of a bundle: of two registries with one key the first has it.
fn node_wide(bundle: &Bundle) -> Entries {
    let mut entries = Entries::new();
    let open = bundle
        .registries
        .iter()
        .filter(|registry| registry.access.is_none());
    for (key, login) in open.flat_map(|registry| &registry.entries) {
        entries.entry(key.clone()).or_insert_with(|| login.clone());
    }
    entries
}

impl Delivery for KubeletFile {
    fn secrets(&self) -> &'static [&'static str] {
        &[NODE_WIDE_SECRET]
    }

    fn directories(&self) -> Vec<&Path> {
        vec![&self.directory.mounted]
    }

    fn is_kept_by(&self, successor: &AgentOptions) -> bool {
        self.directory.named == successor.docker_config_directory
    }

    fn takes_effect_after(&self) -> Duration {
        KUBELET_CACHE
    }

    fn deliver(&self, bundles: &Bundles, effort: Effort) -> Result<Delivered, Trouble> {
        let wanted = bundles
            .get(NODE_WIDE_SECRET)
            .map(|bundle| node_wide(bundle))
            .unwrap_or_default();
        self.converge(&wanted, effort)
    }

    fn withdraw(&self) -> Result<Delivered, Trouble> {
        self.converge(&Entries::new(), Effort::Write)
    }
}

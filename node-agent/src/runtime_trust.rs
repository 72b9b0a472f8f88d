//! The plan for the container runtime's directory, carried out: how the runtime reaches registries that the node does not
//! trust by itself.
//!
//! What an agent that was killed has begun is found by its mark and completed or taken away. Only a host's directory that
//! was empty when it was killed stays, since an empty one of an administrator's looks the same; runtimes pass it over.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use pullpass_core::bundle::RuntimeHost;
use pullpass_core::glob::Glob;
use pullpass_core::reason::Reason;
use secrecy::ExposeSecret as _;

use crate::atomic_file;
use crate::config::{AgentOptions, HostDirectory};
use crate::containerd_config::{ContainerdConfig, containerd_config};
use crate::delivery::{Delivered, Remark, Trouble};
use crate::host::{Found, Host, Kind, RealHost};
use crate::hosts_toml::{
    AUTHORITY_FILE, FoundHost, HOSTS_FILE, Operation, Runtime, TrustError, plan,
};

/// The runtime may not be root, and nothing here is secret.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// Enough for any number of authorities, and for any configuration that people write.
const MAX_BYTES: usize = 1 << 20;

/// Looks until the directory is as it should be: one does it, and a second one sees that it is done. Each change that
/// another program makes in between takes one more.
const ROUNDS: usize = 4;

/// What tells the runtime of one node.
#[derive(Clone, Debug)]
pub struct RuntimeTrust {
    runtime: Runtime,
    directory: HostDirectory,
    /// containerd's configuration: its directory, and its name in it.
    containerd_config: (HostDirectory, PathBuf),
}

impl RuntimeTrust {
    /// In this directory, with containerd's configuration in another one.
    pub fn new(
        runtime: Runtime,
        directory: HostDirectory,
        containerd_config: (HostDirectory, PathBuf),
    ) -> Self {
        Self {
            runtime,
            directory,
            containerd_config,
        }
    }

    /// The directory in which a change is worth another look.
    pub fn directory(&self) -> &Path {
        &self.directory.mounted
    }

    /// Whether an agent with these options looks after what this one has written.
    pub fn is_kept_by(&self, successor: &AgentOptions) -> bool {
        let next = &successor.trust;
        next.runtime == Some(self.runtime) && self.directory.named == next.runtime_directory
    }

    /// Has the runtime reach these registries so, and no others in a way of Pullpass's. Repeating it changes nothing.
    ///
    /// # Errors
    /// What is in the way. What the runtime cannot be told is a remark: credentials are of use all the same.
    pub fn keep(&self, wanted: &BTreeMap<String, RuntimeHost>) -> Result<Delivered, Trouble> {
        let unread = if wanted.is_empty() {
            None
        } else {
            self.unread()?
        };
        let nothing = BTreeMap::new();
        let wanted = if unread.is_some() { &nothing } else { wanted };
        let host = self.open()?;
        let converged =
            converge(&host, self.runtime, wanted).map_err(|error| io(&self.directory, &error))?;
        Ok(Delivered {
            changed: converged.changed,
            kept: Vec::new(),
            remark: unread.or_else(|| untold(&converged.blocked)),
        })
    }

    fn open(&self) -> Result<RealHost, Trouble> {
        let host =
            RealHost::open(&self.directory.mounted).map_err(|error| io(&self.directory, &error))?;
        match host.lock() {
            Ok(true) => Ok(host),
            Ok(false) => Err(Trouble::pending(
                Reason::NodePending,
                placed(&self.directory, &"another node agent is at work in it"),
            )),
            Err(error) => Err(io(&self.directory, &error)),
        }
    }

    /// Why the runtime does not read the directory.
    fn unread(&self) -> Result<Option<Remark>, Trouble> {
        if self.runtime == Runtime::CriO {
            return Ok(None);
        }
        let (place, name) = &self.containerd_config;
        let config_path = match RealHost::open(&place.mounted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(host) => config_path(&host, &place.named, name.as_os_str()),
        };
        let config_path = config_path.map_err(|error| io(place, &error))?;
        // containerd uses the first of them that has a directory for the host
        let why = match config_path.first() {
            Some(first) if Path::new(first) == self.directory.named => return Ok(None),
            Some(first) => format!(
                "containerd looks into {first} before {}",
                self.directory.named.display()
            ),
            None => "containerd's configuration names no config_path".to_owned(),
        };
        Ok(Some(Remark {
            reason: Reason::RuntimeConfigPathUnset,
            message: format!(
                "{}: {why}, so registries with an authority of their own, or with none, cannot be reached",
                place.named.join(name).display()
            ),
        }))
    }
}

/// The directories that containerd looks into. Of several files the last one that has the registry's plugin settles all of
/// that plugin (`mergeConfig` in containerd's `cmd/containerd/server/config`). Files that lie elsewhere are not seen.
fn config_path<H: Host>(host: &H, place: &Path, name: &OsStr) -> io::Result<Vec<String>> {
    let Some(name) = name.to_str() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let read = |path: &str| match host.read(path, MAX_BYTES)? {
        Found::File(file) => std::str::from_utf8(file.content.expose_secret())
            .ok()
            .and_then(|content| containerd_config(content).ok())
            .ok_or_else(|| invalid(format!("{path} is no TOML"))),
        Found::Nothing => Ok(ContainerdConfig::default()),
        Found::TooLarge => Err(invalid(format!("{path} has more than {MAX_BYTES} bytes"))),
        Found::Other(kind) => Err(invalid(format!("{path} is {kind}"))),
    };
    let main = read(name)?;
    let mut settled = main.config_path;
    for import in &main.imports {
        let Ok(below) = place.join(import).strip_prefix(place).map(Path::to_owned) else {
            tracing::debug!(
                import,
                "this part of containerd's configuration is not seen"
            );
            continue;
        };
        let Some(below) = below.to_str() else {
            continue;
        };
        let (directory, pattern) = below.rsplit_once('/').unwrap_or(("", below));
        let pattern = Glob::new(pattern);
        for file in host.list(directory)? {
            if pattern.matches(&file) {
                let path = if directory.is_empty() {
                    file
                } else {
                    format!("{directory}/{file}")
                };
                settled = read(&path)?.config_path.or(settled);
            }
        }
    }
    Ok(settled.unwrap_or_default())
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The directory is as it should be, as the last look at it has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converged {
    /// Whether something had to be done.
    pub changed: bool,
    /// Hosts that are left as they are, as the bundle names them.
    pub blocked: BTreeMap<String, TrustError>,
}

/// Looks, plans and carries out until nothing is left to be done.
///
/// # Errors
/// What the system says.
pub fn converge<H: Host>(
    host: &H,
    runtime: Runtime,
    wanted: &BTreeMap<String, RuntimeHost>,
) -> io::Result<Converged> {
    for round in 0..ROUNDS {
        let observed = observe(host)?;
        let plan = plan(runtime, wanted, &observed.hosts);
        if plan.operations.is_empty() && observed.leftovers.is_empty() {
            return Ok(Converged {
                changed: round > 0,
                blocked: plan.blocked,
            });
        }
        tracing::debug!(operations = plan.operations.len(), "to be done");
        for directory in &observed.leftovers {
            clear(host, directory)?;
        }
        for operation in &plan.operations {
            carry_out(host, operation)?;
        }
    }
    Err(io::Error::other("another program changes it all the time"))
}

/// What is in the directory.
#[derive(Debug, Default)]
struct Observed {
    hosts: BTreeMap<String, FoundHost>,
    /// Directories with half a file that a process which was killed has left.
    leftovers: Vec<String>,
}

fn observe<H: Host>(host: &H) -> io::Result<Observed> {
    let mut observed = Observed::default();
    for name in host.list("")? {
        let found = match host.read(&name, 0)? {
            Found::Nothing => continue,
            Found::Other(Kind::Directory) => FoundHost {
                hosts: content(host, &format!("{name}/{HOSTS_FILE}"))?,
                authority: content(host, &format!("{name}/{AUTHORITY_FILE}"))?,
                is_no_directory: false,
            },
            Found::File(_) | Found::TooLarge | Found::Other(_) => FoundHost {
                is_no_directory: true,
                ..FoundHost::default()
            },
        };
        if !found.is_no_directory {
            for file in [HOSTS_FILE, AUTHORITY_FILE] {
                let left = host.read(&temporary(&format!("{name}/{file}")), 0)?;
                if !matches!(left, Found::Nothing) {
                    observed.leftovers.push(name.clone());
                    break;
                }
            }
        }
        observed.hosts.insert(name, found);
    }
    Ok(observed)
}

/// What a file holds; nothing of ours where it is no file.
fn content<H: Host>(host: &H, path: &str) -> io::Result<Option<Vec<u8>>> {
    Ok(match host.read(path, MAX_BYTES)? {
        Found::Nothing => None,
        Found::File(file) => Some(file.content.expose_secret().to_vec()),
        Found::TooLarge | Found::Other(_) => Some(Vec::new()),
    })
}

fn temporary(path: &str) -> String {
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    format!("{directory}/.{file}.pullpass")
}

fn clear<H: Host>(host: &H, directory: &str) -> io::Result<()> {
    for file in [HOSTS_FILE, AUTHORITY_FILE] {
        host.remove(&temporary(&format!("{directory}/{file}")))?;
    }
    // what comes next, if anything, makes it again
    remove_directory(host, directory)
}

fn carry_out<H: Host>(host: &H, operation: &Operation) -> io::Result<()> {
    match operation {
        Operation::CreateDirectory(directory) => make_directory(host, directory),
        Operation::Write { path, content } => {
            // with a leftover the directory may have gone, too
            make_directory(host, path.rsplit_once('/').map_or("", |(above, _)| above))?;
            atomic_file::replace(host, path, &temporary(path), content, FILE_MODE)
        }
        Operation::Remove(path) => host.remove(path).map(drop),
        Operation::RemoveDirectory(directory) => remove_directory(host, directory),
    }
}

fn make_directory<H: Host>(host: &H, directory: &str) -> io::Result<()> {
    if host.create_directory(directory, DIRECTORY_MODE)? {
        host.sync_directory("")?;
    }
    Ok(())
}

fn remove_directory<H: Host>(host: &H, directory: &str) -> io::Result<()> {
    match host.remove_directory(directory) {
        // an administrator has something in it too
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            host.sync_directory(directory)
        }
        removed => removed.and_then(|_| host.sync_directory("")),
    }
}

/// The NodePullAccess names no registry; the log does.
fn untold(blocked: &BTreeMap<String, TrustError>) -> Option<Remark> {
    for (host, error) in blocked {
        tracing::warn!(host, %error, "the container runtime is not told how to reach it");
    }
    let first = blocked
        .values()
        .find(|error| **error == TrustError::ForeignFile)
        .or_else(|| blocked.values().next())?;
    let like_it = blocked.values().filter(|error| *error == first).count();
    Some(Remark {
        reason: match first {
            TrustError::ForeignFile => Reason::ForeignRuntimeFile,
            TrustError::Pattern | TrustError::Name | TrustError::NotByCriO => {
                Reason::UnknownToRuntime
            }
        },
        message: format!(
            "{like_it} of the registries cannot be reached by the container runtime: {first} (the agent's log names each)"
        ),
    })
}

fn io(place: &HostDirectory, error: &io::Error) -> Trouble {
    let is_refused = matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    );
    if error.kind() == io::ErrorKind::NotFound {
        Trouble::blocked(
            Reason::NodePathMissing,
            placed(place, &"there is no such directory on this node"),
        )
    } else if is_refused {
        Trouble::blocked(
            Reason::NodeReadOnly,
            placed(place, &format_args!("it cannot be written: {error}")),
        )
    } else {
        Trouble::pending(Reason::NodeWriteFailed, placed(place, error))
    }
}

fn placed(place: &HostDirectory, what: &dyn std::fmt::Display) -> String {
    format!("{}: {what}", place.named.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryHost;
    use rstest::rstest;

    const SECTION: &str =
        "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/main\"\n";

    #[rstest]
    #[case::alone(SECTION, &[], &["/main"])]
    #[case::an_import_settles_it("imports = [\"/etc/containerd/conf.d/*.toml\"]\n", &[("conf.d/a.toml", SECTION)], &["/main"])]
    #[case::relative("imports = [\"conf.d/*.toml\"]\n", &[("conf.d/a.toml", SECTION)], &["/main"])]
    #[case::of_another_name("imports = [\"conf.d/*.toml\"]\n", &[("conf.d/a.toml.bak", SECTION)], &[])]
    #[case::elsewhere("imports = [\"/usr/share/a.toml\"]\n", &[], &[])]
    #[case::nothing("", &[], &[])]
    fn containerds_configuration_may_be_in_several_files(
        #[case] main: &str,
        #[case] imports: &[(&str, &str)],
        #[case] expected: &[&str],
    ) {
        let host = MemoryHost::default();
        host.put("config.toml", main.as_bytes(), 0o644);
        host.create_directory("conf.d", 0o755).unwrap();
        for (path, content) in imports {
            host.put(path, content.as_bytes(), 0o644);
        }
        let found = config_path(&host, Path::new("/etc/containerd"), "config.toml".as_ref());
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn an_import_that_has_the_plugin_settles_all_of_it() {
        let host = MemoryHost::default();
        let main = format!("imports = [\"/etc/containerd/conf.d/*.toml\"]\n{SECTION}");
        host.put("config.toml", main.as_bytes(), 0o644);
        host.create_directory("conf.d", 0o755).unwrap();
        let other = "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause\"\n";
        host.put("conf.d/a.toml", other.as_bytes(), 0o644);
        let found = config_path(&host, Path::new("/etc/containerd"), "config.toml".as_ref());
        assert!(found.unwrap().is_empty());
    }
}

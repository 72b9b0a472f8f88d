//! Mode `credentialProvider`: the plugin's program, its store, and its entry in kubelet's provider configuration.
//!
//! The order is such that kubelet could be started at any moment: the program is there before the entry that names it, and
//! goes after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use pullpass_core::bundle::Mode;
use pullpass_core::match_images::MatchImages;
use pullpass_core::reason::Reason;
use pullpass_credential_provider::store::{CONFIGURATION_FILE, SECRETS, called_by};
use secrecy::ExposeSecret as _;

use crate::atomic_file::{self, Change};
use crate::config::{AgentOptions, HostDirectory};
use crate::delivery::{Bundles, Delivered, Delivery, Effort, Remark, Trouble};
use crate::host::{Found, Host, RealHost};
use crate::kubelet_restart::{self, Policy};
use crate::provider_config::{
    self, Capabilities, FILE_NAME, PROVIDER_NAME, Provider, ProviderConfigError,
    UnsupportedKubelet, Without, capabilities,
};
use crate::store::{self, Kept, keep_file, remove_file};

/// More than any configuration that people write.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// More than the program has in any profile.
const MAX_PROGRAM_BYTES: usize = 256 << 20;

const CONFIG_MODE: u32 = 0o644;
const PROGRAM_MODE: u32 = 0o755;

/// In the store: the provider configuration as it was before our entry was added.
const ORIGINAL_FILE: &str = "original-configuration";

/// In the store: the provider configuration as it was before the last change of ours.
const PREVIOUS_FILE: &str = "previous-configuration";

/// In the store: the name of the configuration that kubelet did not come back with.
const REFUSED_FILE: &str = "refused";

/// Where things are on the node.
#[derive(Clone, Debug)]
pub struct ProviderNode {
    /// What kubelet's flag `--image-credential-provider-config` names: a directory of files, or the directory of the file.
    pub config_directory: HostDirectory,
    /// The file's name, where kubelet reads one file.
    pub config_file: Option<String>,
    /// What `--image-credential-provider-bin-dir` names.
    pub programs: HostDirectory,
    /// The store.
    pub store: HostDirectory,
    /// The program in this container.
    pub program: PathBuf,
    /// For which images it asks.
    pub match_images: MatchImages,
    /// kubelet's unit of systemd.
    pub unit: String,
    /// Whether the agent restarts it.
    pub restart: Policy,
}

/// The plugin on one node.
#[derive(Debug)]
pub struct ProviderFiles {
    node: ProviderNode,
    /// What this kubelet can do, once the API server has said which one it is.
    kubelet: RwLock<Option<Result<Capabilities, UnsupportedKubelet>>>,
    /// Why kubelet has not been restarted yet, as far as the agent is to do it.
    restart_waits_for: RwLock<Option<String>>,
}

/// What is in the way, as far as it is not the system.
enum Problem {
    Io(PathBuf, io::Error),
    Config(PathBuf, ProviderConfigError),
    /// Something is there that is no file, or too large for one.
    NoFile(PathBuf),
    /// It has to be changed, and may not be.
    Contested(PathBuf),
    /// The kubelet is not known yet.
    UnknownKubelet,
    TooOld(UnsupportedKubelet),
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Io(path, error) => {
                let message = format!("{}: {error}", path.display());
                let kind = error.kind();
                let is_refused = matches!(
                    kind,
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                );
                if kind == io::ErrorKind::NotFound {
                    Self::blocked(Reason::NodePathMissing, message)
                } else if is_refused {
                    Self::blocked(Reason::NodeReadOnly, message)
                } else {
                    Self::pending(Reason::NodeWriteFailed, message)
                }
            }
            Problem::Config(path, error) => Self::blocked(
                Reason::ForeignProviderConfig,
                format!("{}: {error}", path.display()),
            ),
            Problem::NoFile(path) => Self::blocked(
                Reason::NodeFileUnusable,
                format!("{} is no file, or too large for one", path.display()),
            ),
            Problem::Contested(path) => Self::blocked(
                Reason::NodeFileContested,
                format!("another program keeps changing {}", path.display()),
            ),
            Problem::UnknownKubelet => Self::pending(
                Reason::NodePending,
                "it waits for the API server to say which version its kubelet has",
            ),
            Problem::TooOld(error) => Self::blocked(Reason::KubeletTooOld, error.to_string()),
        }
    }
}

/// One of the directories, open.
struct Open<'a> {
    host: RealHost,
    named: &'a Path,
}

impl<'a> Open<'a> {
    fn directory(directory: &'a HostDirectory) -> Result<Self, Problem> {
        let host = RealHost::open(&directory.mounted)
            .map_err(|error| Problem::Io(directory.named.clone(), error))?;
        Ok(Self {
            host,
            named: &directory.named,
        })
    }

    fn io(&self, file: &str) -> impl Fn(io::Error) -> Problem {
        let path = self.named.join(file);
        move |error| Problem::Io(path.clone(), error)
    }
}

impl ProviderFiles {
    /// The plugin on this node.
    pub fn new(node: ProviderNode) -> Self {
        Self {
            node,
            kubelet: RwLock::new(None),
            restart_waits_for: RwLock::new(None),
        }
    }

    /// Takes note of the version that the node's kubelet has, as the Node's status spells it.
    pub fn set_kubelet(&self, version: &str) {
        let mut known = self.kubelet.write().unwrap_or_else(PoisonError::into_inner);
        *known = Some(capabilities(version));
    }

    /// Takes note of what kubelet's restart waits for, in half a sentence; of nothing where it is not needed or was made.
    pub fn set_restart_waits_for(&self, what: Option<String>) {
        let mut known = self
            .restart_waits_for
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = what;
    }

    fn capabilities(&self) -> Result<Capabilities, Problem> {
        let known = self.kubelet.read().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            None => Err(Problem::UnknownKubelet),
            Some(Ok(capabilities)) => Ok(*capabilities),
            Some(Err(unsupported)) => Err(Problem::TooOld(unsupported.clone())),
        }
    }

    fn provider(&self) -> Result<Provider, Problem> {
        let store = &self.node.store.named;
        let capabilities = self.capabilities()?;
        Ok(provider_config::provider(
            capabilities,
            &self.node.match_images,
            store,
        ))
    }

    /// The name of the configuration that kubelet is to read, once the kubelet is known.
    pub fn configuration(&self) -> Option<String> {
        self.provider().ok()?.configuration()
    }

    fn config_file(&self) -> &str {
        self.node.config_file.as_deref().unwrap_or(FILE_NAME)
    }

    fn config_path(&self) -> PathBuf {
        self.node.config_directory.named.join(self.config_file())
    }

    fn put(&self, bundles: &Bundles, effort: Effort) -> Result<Kept, Problem> {
        let programs = Open::directory(&self.node.programs)?;
        let config = Open::directory(&self.node.config_directory)?;
        let stored = Open::directory(&self.node.store)?;
        // before anything is written for a kubelet that cannot use it
        self.capabilities()?;
        let is_refused = self.is_refused(&stored)?;
        if effort == Effort::Look {
            // the store is ours alone; what another program changes is the configuration
            let (found, wanted) = self.config(&config)?;
            return if is_refused || found.as_deref() == Some(wanted.as_slice()) {
                Ok(Kept::Unchanged)
            } else {
                Err(Problem::Contested(self.config_path()))
            };
        }
        let bundle_of = |secret: &str| bundles.get(secret).map(|bundle| &**bundle);
        let kept = store::keep(&stored.host, bundle_of).map_err(stored.io(""))?;
        if is_refused {
            // what kubelet does not start with stays out; what it has read it goes on with
            return Ok(kept);
        }
        let program = fs::read(&self.node.program)
            .map_err(|error| Problem::Io(self.node.program.clone(), error))?;
        let installed = keep_file(
            &programs.host,
            PROVIDER_NAME,
            &program,
            PROGRAM_MODE,
            MAX_PROGRAM_BYTES,
        )
        .map_err(programs.io(PROVIDER_NAME))?;
        Ok(kept.and(installed).and(self.put_config(&config, &stored)?))
    }

    /// The configuration as it is, and as it is to be.
    fn config(&self, config: &Open<'_>) -> Result<(Option<Vec<u8>>, Vec<u8>), Problem> {
        let provider = self.provider()?;
        let found = read(config, self.config_file(), MAX_CONFIG_BYTES)?;
        let wanted = match (&found, &self.node.config_file) {
            (Some(existing), Some(_)) => provider_config::merge(existing, &provider)
                .map_err(|error| Problem::Config(self.config_path(), error))?,
            // our own file in a directory of them, or where there is none
            (_, None) | (None, _) => provider_config::alone(&provider),
        };
        Ok((found, wanted))
    }

    fn put_config(&self, config: &Open<'_>, stored: &Open<'_>) -> Result<Kept, Problem> {
        let file = self.config_file();
        let (found, wanted) = self.config(config)?;
        if found.as_deref() == Some(wanted.as_slice()) {
            return Ok(Kept::Unchanged);
        }
        if let Some(existing) = &found
            && provider_config::without(existing, None) == Ok(Without::Unchanged)
        {
            keep_file(
                &stored.host,
                ORIGINAL_FILE,
                existing,
                0o600,
                MAX_CONFIG_BYTES,
            )
            .map_err(stored.io(ORIGINAL_FILE))?;
        }
        match &found {
            Some(found) => keep_file(&stored.host, PREVIOUS_FILE, found, 0o600, MAX_CONFIG_BYTES),
            None => remove_file(&stored.host, PREVIOUS_FILE),
        }
        .map_err(stored.io(PREVIOUS_FILE))?;
        self.swap(config, file, &wanted, found.as_deref())?;
        Ok(Kept::Changed)
    }

    fn is_refused(&self, stored: &Open<'_>) -> Result<bool, Problem> {
        let refused = read(stored, REFUSED_FILE, MAX_CONFIG_BYTES)?;
        Ok(refused.is_some() && refused == self.configuration().map(String::into_bytes))
    }

    /// Whether kubelet has to be restarted to read what is there for it.
    ///
    /// # Errors
    /// What is in the way of looking.
    pub fn needs_restart(&self) -> Result<bool, Trouble> {
        let look = || -> Result<bool, Problem> {
            let config = Open::directory(&self.node.config_directory)?;
            let stored = Open::directory(&self.node.store)?;
            let (found, wanted) = self.config(&config)?;
            let is_put = found.as_deref() == Some(wanted.as_slice());
            // an entry that had to stay when all else was withdrawn is no reason to restart anything
            let is_used = store::is_kept(&stored.host).map_err(stored.io(""))?;
            Ok(is_put
                && is_used
                && !self.is_refused(&stored)?
                && self.called_by() != self.configuration())
        };
        Ok(look()?)
    }

    /// Notes that kubelet has read the configuration: it was started with it, and stays.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_read(&self) -> Result<(), Trouble> {
        self.note(CONFIGURATION_FILE)
    }

    /// Notes that kubelet does not start with the configuration, and puts the one before it in place.
    ///
    /// # Errors
    /// What the system says: kubelet cannot be started then.
    pub fn roll_back(&self) -> Result<(), Trouble> {
        self.note(REFUSED_FILE)?;
        let back = || -> Result<(), Problem> {
            let config = Open::directory(&self.node.config_directory)?;
            let stored = Open::directory(&self.node.store)?;
            let file = self.config_file();
            let Some(now) = read(&config, file, MAX_CONFIG_BYTES)? else {
                return Ok(());
            };
            match read(&stored, PREVIOUS_FILE, MAX_CONFIG_BYTES)? {
                Some(before) => self.swap(&config, file, &before, Some(&now)),
                None => remove_file(&config.host, file)
                    .map(drop)
                    .map_err(config.io(file)),
            }
        };
        Ok(back()?)
    }

    fn note(&self, file: &str) -> Result<(), Trouble> {
        let write = || -> Result<(), Problem> {
            let stored = Open::directory(&self.node.store)?;
            let name = self.configuration().unwrap_or_default();
            keep_file(&stored.host, file, name.as_bytes(), 0o600, MAX_CONFIG_BYTES)
                .map(drop)
                .map_err(stored.io(file))
        };
        Ok(write()?)
    }

    fn called_by(&self) -> Option<String> {
        called_by(&self.node.store.mounted).ok().flatten()
    }

    fn swap(
        &self,
        config: &Open<'_>,
        file: &str,
        content: &[u8],
        found: Option<&[u8]>,
    ) -> Result<(), Problem> {
        // not a name that kubelet would read beside it
        let temporary = format!(".{file}.pullpass");
        let swapped =
            atomic_file::swap(&config.host, file, &temporary, content, CONFIG_MODE, found);
        match swapped.map_err(config.io(file))? {
            Change::Made => Ok(()),
            // the next look starts from what is there then
            Change::Overtaken => Err(Problem::Io(
                self.config_path(),
                io::Error::other("another program has changed it meanwhile"),
            )),
        }
    }

    fn take_away(&self) -> Result<(Kept, bool), Problem> {
        let programs = Open::directory(&self.node.programs)?;
        let config = Open::directory(&self.node.config_directory)?;
        let stored = Open::directory(&self.node.store)?;
        let (mut kept, stays) = self.take_config_away(&config, &stored)?;
        if !stays {
            let removed = remove_file(&programs.host, PROVIDER_NAME);
            kept = kept.and(removed.map_err(programs.io(PROVIDER_NAME))?);
        }
        kept = kept.and(store::keep(&stored.host, |_| None).map_err(stored.io(""))?);
        for file in [
            ORIGINAL_FILE,
            PREVIOUS_FILE,
            REFUSED_FILE,
            CONFIGURATION_FILE,
        ] {
            let removed = remove_file(&stored.host, file).map_err(stored.io(file))?;
            kept = kept.and(removed);
        }
        Ok((kept, stays))
    }

    /// Takes the entry out, and tells whether it had to stay.
    fn take_config_away(
        &self,
        config: &Open<'_>,
        stored: &Open<'_>,
    ) -> Result<(Kept, bool), Problem> {
        let file = self.config_file();
        if self.node.config_file.is_none() {
            let others = config.host.list("").map_err(config.io(""))?;
            let is_read = |name: &String| {
                let ends = [".json", ".yaml", ".yml"];
                name != FILE_NAME && ends.iter().any(|end| name.ends_with(end))
            };
            if !others.iter().any(is_read) && others.iter().any(|name| name == FILE_NAME) {
                return Ok((Kept::Unchanged, true));
            }
            let removed = remove_file(&config.host, FILE_NAME).map_err(config.io(FILE_NAME))?;
            return Ok((removed, false));
        }
        let Some(current) = read(config, file, MAX_CONFIG_BYTES)? else {
            return Ok((Kept::Unchanged, false));
        };
        let original = read(stored, ORIGINAL_FILE, MAX_CONFIG_BYTES)?;
        let left = provider_config::without(&current, original.as_deref())
            .map_err(|error| Problem::Config(self.config_path(), error))?;
        match left {
            Without::Unchanged => Ok((Kept::Unchanged, false)),
            Without::WouldStopKubelet => Ok((Kept::Unchanged, true)),
            Without::Left(content) => {
                self.swap(config, file, &content, Some(&current))?;
                Ok((Kept::Changed, false))
            }
        }
    }

    /// Whether kubelet asks the plugin: with what there is to remark about that, or what is in the way. Where the agent does
    /// not restart kubelet it is known by the plugin's own note, so after kubelet's start it takes an image to be pulled.
    fn asked(&self) -> Result<Option<Remark>, Trouble> {
        let is_refused =
            Open::directory(&self.node.store).and_then(|stored| self.is_refused(&stored))?;
        let config = self.config_path();
        let called_by = self.called_by();
        let (reason, message) = if is_refused {
            let message = format!(
                "kubelet did not stay up with Pullpass's entry in {}, which was put back as it was: journalctl -u {} says why",
                config.display(),
                self.node.unit,
            );
            (Reason::KubeletRestartFailed, message)
        } else if called_by == self.configuration() {
            return Ok(self.tokens_unsupported());
        } else if self.node.restart == Policy::WhenNeeded {
            let mut message = format!("kubelet has not read {} yet", config.display());
            let waits_for = self.restart_waits_for.read();
            if let Some(what) = &*waits_for.unwrap_or_else(PoisonError::into_inner) {
                message.push_str(": ");
                message.push_str(what);
            }
            (Reason::KubeletRestartWaiting, message)
        } else {
            let message = format!(
                "kubelet has not asked the plugin by what is in {} yet: run '{}' on the node, unless kubelet was started since",
                config.display(),
                kubelet_restart::command(&self.node.unit),
            );
            (Reason::KubeletRestartNeeded, message)
        };
        if called_by.is_some() {
            // by an earlier configuration: the store is in use
            return Ok(Some(Remark { reason, message }));
        }
        Err(Trouble {
            passes: reason == Reason::KubeletRestartWaiting,
            reason,
            message,
        })
    }

    fn tokens_unsupported(&self) -> Option<Remark> {
        let lacks_tokens = self.capabilities().is_ok_and(|kubelet| !kubelet.tokens);
        lacks_tokens.then(|| Remark {
            reason: Reason::KubeletTokensUnsupported,
            message:
                "its kubelet is older than 1.34: registries for some namespaces are not served"
                    .into(),
        })
    }
}

fn read(directory: &Open<'_>, file: &str, limit: usize) -> Result<Option<Vec<u8>>, Problem> {
    match directory
        .host
        .read(file, limit)
        .map_err(directory.io(file))?
    {
        Found::Nothing => Ok(None),
        Found::File(found) => Ok(Some(found.content.expose_secret().to_vec())),
        Found::TooLarge | Found::Other(_) => Err(Problem::NoFile(directory.named.join(file))),
    }
}

impl Delivery for ProviderFiles {
    fn secrets(&self) -> &'static [&'static str] {
        &SECRETS
    }

    fn directories(&self) -> Vec<&Path> {
        vec![
            &self.node.config_directory.mounted,
            &self.node.programs.mounted,
            &self.node.store.mounted,
        ]
    }

    fn is_kept_by(&self, successor: &AgentOptions) -> bool {
        let next = &successor.provider;
        // only in its own mode does an agent reach these directories
        successor.mode == Mode::CredentialProvider
            && self.node.config_directory.named == next.provider_config_directory
            && self.node.config_file.as_deref().unwrap_or_default() == next.provider_config_file
            && self.node.programs.named == next.provider_programs
            && self.node.store.named == next.provider_store
    }

    fn takes_effect_after(&self) -> Duration {
        // kubelet keeps no answer
        Duration::ZERO
    }

    fn deliver(&self, bundles: &Bundles, effort: Effort) -> Result<Delivered, Trouble> {
        let kept = self.put(bundles, effort)?;
        let remark = self.asked()?;
        Ok(Delivered {
            changed: kept == Kept::Changed,
            kept: Vec::new(),
            remark,
        })
    }

    fn withdraw(&self) -> Result<Delivered, Trouble> {
        let (kept, stays) = self.take_away()?;
        Ok(Delivered {
            changed: kept == Kept::Changed,
            kept: Vec::new(),
            remark: stays.then(|| Remark {
                reason: Reason::KubeletRestartNeeded,
                message: format!(
                    "{} names no other provider, and kubelet does not start without one: start kubelet without --image-credential-provider-config, then remove the file and the program",
                    self.config_path().display()
                ),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullpass_core::bundle::{Bundle, NODE_WIDE_SECRET};
    use std::sync::Arc;

    const FOREIGN: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n  # of the cloud\n  - name: foreign\n    matchImages: [\"*.foreign.example\"]\n    defaultCacheDuration: 12h\n    apiVersion: credentialprovider.kubelet.k8s.io/v1\n";

    struct Scene {
        directory: tempfile::TempDir,
        files: ProviderFiles,
    }

    impl Scene {
        fn new(restart: Policy) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| {
                let path = directory.path().join(name);
                fs::create_dir(&path).unwrap();
                HostDirectory {
                    mounted: path.clone(),
                    named: path,
                }
            };
            let program = directory.path().join("plugin");
            fs::write(&program, "program").unwrap();
            let node = ProviderNode {
                config_directory: at("config"),
                config_file: Some("config.yaml".into()),
                programs: at("bin"),
                store: at("store"),
                program,
                match_images: MatchImages::new([5000]),
                unit: "kubelet.service".into(),
                restart,
            };
            let files = ProviderFiles::new(node);
            Self { directory, files }
        }

        fn path(&self, file: &str) -> PathBuf {
            self.directory.path().join(file)
        }

        fn read(&self, file: &str) -> Option<String> {
            fs::read_to_string(self.path(file)).ok()
        }

        fn deliver(&self, effort: Effort) -> Result<Delivered, Trouble> {
            let bundles = Bundles::from([(NODE_WIDE_SECRET, Arc::new(Bundle::default()))]);
            self.files.deliver(&bundles, effort)
        }

        /// As kubelet does once it has read the configuration.
        fn kubelet_asks(&self) {
            let name = self.files.configuration().unwrap();
            fs::write(self.path("store").join(CONFIGURATION_FILE), name).unwrap();
        }
    }

    #[test]
    fn nothing_is_written_for_a_kubelet_that_cannot_use_it() {
        let scene = Scene::new(Policy::Never);
        let unknown = scene.deliver(Effort::Write).unwrap_err();
        assert_eq!(
            (unknown.reason, unknown.passes),
            (Reason::NodePending, true)
        );
        scene.files.set_kubelet("v1.32.9");
        let old = scene.deliver(Effort::Write).unwrap_err();
        assert_eq!((old.reason, old.passes), (Reason::KubeletTooOld, false));
        for directory in ["config", "bin", "store"] {
            assert_eq!(fs::read_dir(scene.path(directory)).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_node_is_as_before_when_everything_is_taken_off() {
        let scene = Scene::new(Policy::Never);
        scene.files.set_kubelet("v1.37.2");
        fs::write(scene.path("config/config.yaml"), FOREIGN).unwrap();
        let needed = scene.deliver(Effort::Write).unwrap_err();
        assert_eq!(needed.reason, Reason::KubeletRestartNeeded);
        assert!(needed.message.contains("systemctl restart kubelet.service"));
        assert_eq!(
            scene.read("bin/pullpass-credential-provider").as_deref(),
            Some("program")
        );
        let config = scene.read("config/config.yaml").unwrap();
        assert!(config.contains("foreign") && config.contains(PROVIDER_NAME));
        scene.kubelet_asks();
        let delivered = scene.deliver(Effort::Write).unwrap();
        assert_eq!(delivered, Delivered::default());

        assert!(scene.files.withdraw().unwrap().changed);
        assert_eq!(scene.read("config/config.yaml").as_deref(), Some(FOREIGN));
        for directory in ["bin", "store"] {
            assert_eq!(fs::read_dir(scene.path(directory)).unwrap().count(), 0);
        }
        assert!(!scene.files.withdraw().unwrap().changed);
    }

    #[test]
    fn what_kubelet_did_not_take_goes_and_stays_away() {
        let scene = Scene::new(Policy::WhenNeeded);
        scene.files.set_kubelet("v1.37.2");
        fs::write(scene.path("config/config.yaml"), FOREIGN).unwrap();
        let waiting = scene.deliver(Effort::Write).unwrap_err();
        assert_eq!(waiting.reason, Reason::KubeletRestartWaiting);
        assert!(waiting.message.ends_with(" yet"), "{}", waiting.message);
        let why = "another node restarts its kubelet";
        scene.files.set_restart_waits_for(Some(why.into()));
        let waiting = scene.deliver(Effort::Write).unwrap_err();
        assert!(waiting.message.ends_with(why), "{}", waiting.message);
        assert!(scene.files.needs_restart().unwrap());
        scene.files.roll_back().unwrap();
        assert_eq!(scene.read("config/config.yaml").as_deref(), Some(FOREIGN));
        let failed = scene.deliver(Effort::Write).unwrap_err();
        assert_eq!(
            (failed.reason, failed.passes),
            (Reason::KubeletRestartFailed, false)
        );
        assert_eq!(scene.read("config/config.yaml").as_deref(), Some(FOREIGN));
        assert!(!scene.files.needs_restart().unwrap());
        let failed = scene.deliver(Effort::Look).unwrap_err();
        assert_eq!(failed.reason, Reason::KubeletRestartFailed);
    }

    #[test]
    fn a_restart_that_went_well_is_not_repeated() {
        let scene = Scene::new(Policy::WhenNeeded);
        scene.files.set_kubelet("v1.37.2");
        fs::write(scene.path("config/config.yaml"), FOREIGN).unwrap();
        assert!(!scene.files.needs_restart().unwrap());
        scene.deliver(Effort::Write).unwrap_err();
        assert!(scene.files.needs_restart().unwrap());
        scene.files.is_read().unwrap();
        assert!(!scene.files.needs_restart().unwrap());
        assert!(scene.deliver(Effort::Write).is_ok());
    }

    #[test]
    fn kubelet_is_not_left_without_a_provider() {
        let scene = Scene::new(Policy::WhenNeeded);
        scene.files.set_kubelet("v1.37.2");
        scene.deliver(Effort::Write).unwrap_err();
        scene.kubelet_asks();
        assert!(scene.deliver(Effort::Write).is_ok());
        let withdrawn = scene.files.withdraw().unwrap();
        let remark = withdrawn.remark.unwrap();
        assert!(
            remark
                .message
                .contains("--image-credential-provider-config")
        );
        assert!(scene.read("bin/pullpass-credential-provider").is_some());
        assert!(!scene.files.needs_restart().unwrap());
        // but what it would answer with is gone
        assert_eq!(fs::read_dir(scene.path("store")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_fought_over_is_told() {
        let scene = Scene::new(Policy::Never);
        scene.files.set_kubelet("v1.37.2");
        fs::write(scene.path("config/config.yaml"), FOREIGN).unwrap();
        scene.deliver(Effort::Write).unwrap_err();
        scene.kubelet_asks();
        assert!(scene.deliver(Effort::Look).is_ok());
        fs::write(scene.path("config/config.yaml"), FOREIGN).unwrap();
        let contested = scene.deliver(Effort::Look).unwrap_err();
        assert_eq!(contested.reason, Reason::NodeFileContested);
    }
}

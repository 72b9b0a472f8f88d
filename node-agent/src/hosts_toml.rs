//! How the container runtime reaches registries that the node does not trust by itself: files of the runtime's `certs.d`.
//!
//! containerd reads `<config_path>/<host>/hosts.toml` at each pull, where its configuration names a `config_path`; CRI-O
//! reads the authorities in `/etc/containers/certs.d/<host>`. Neither holds a credential. A file that is not of Pullpass is
//! never touched, even where it is in the way.

use std::collections::BTreeMap;

use pullpass_core::bundle::RuntimeHost;
use pullpass_core::key::DOCKER_HUB_HOST;
use toml_edit::{Array, DocumentMut, Item, Table, value};

/// What containerd reads in a host's directory.
pub const HOSTS_FILE: &str = "hosts.toml";

/// Our authorities in a host's directory. CRI-O reads every file that ends so.
pub const AUTHORITY_FILE: &str = "pullpass-ca.crt";

/// By this first line a file is known as ours.
const MARK: &str =
    "# Written by Pullpass, which overwrites changes. To write it yourself, remove this line.\n";

/// Docker Hub's directory, and the server behind it.
const DOCKER_HUB_DIRECTORY: &str = "docker.io";
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// Which runtime the node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// containerd, from 1.5.
    Containerd,
    /// CRI-O.
    CriO,
}

/// No runtime is called that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the runtime is containerd or CRI-O")]
pub struct UnknownRuntime;

impl std::str::FromStr for Runtime {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, UnknownRuntime> {
        match text {
            "containerd" => Ok(Self::Containerd),
            "CRI-O" => Ok(Self::CriO),
            _ => Err(UnknownRuntime),
        }
    }
}

/// Why the runtime is not told how to reach a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// An administrator or another program has written the file.
    #[error(
        "what is in its place was not written by Pullpass: add the authority there, or remove it"
    )]
    ForeignFile,
    /// The runtime has a directory for each host, and none for a pattern.
    #[error(
        "its host is a pattern, which the runtime cannot have settings for: make a Registry for each host"
    )]
    Pattern,
    /// The host cannot be the name of a directory.
    #[error("its host cannot be the name of a directory")]
    Name,
    /// CRI-O reads these elsewhere.
    #[error(
        "CRI-O reads mirrors and unverified hosts from /etc/containers/registries.conf.d: write a file there"
    )]
    NotByCriO,
}

/// What is in a host's directory, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundHost {
    /// The content of [`HOSTS_FILE`].
    pub hosts: Option<Vec<u8>>,
    /// The content of [`AUTHORITY_FILE`].
    pub authority: Option<Vec<u8>>,
    /// Whether it is something else than a directory, such as a link to one.
    pub is_no_directory: bool,
}

impl FoundHost {
    fn is_ours(&self) -> bool {
        self.authority.is_some() || self.hosts.as_ref().is_some_and(|content| has_mark(content))
    }
}

/// One change of the runtime's directory. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes a host's directory, where it is not there.
    CreateDirectory(String),
    /// Writes a file as a whole, with mode 0644: the runtime may not be root.
    Write {
        /// `<host>/<file>`.
        path: String,
        /// What it is to hold.
        content: Vec<u8>,
    },
    /// Removes a file of ours.
    Remove(String),
    /// Removes a host's directory, unless there is something in it.
    RemoveDirectory(String),
}

/// The changes that are to be made, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order: an authority is there before what names it, and goes after it.
    pub operations: Vec<Operation>,
    /// Hosts that are left as they are, as the bundle names them.
    pub blocked: BTreeMap<String, TrustError>,
}

/// The way from what is found to what the bundle wants, by host and port. Where that is so already, there is nothing to do.
pub fn plan(
    runtime: Runtime,
    wanted: &BTreeMap<String, RuntimeHost>,
    found: &BTreeMap<String, FoundHost>,
) -> Plan {
    let mut plan = Plan::default();
    let mut kept: BTreeMap<&str, FoundHost> = BTreeMap::new();
    for (host, settings) in wanted {
        match files(runtime, host, settings) {
            Ok((directory, files)) => {
                let existing = found.get(directory);
                let is_foreign = existing.is_some_and(|existing| {
                    let hosts = existing.hosts.as_ref().filter(|_| files.hosts.is_some());
                    existing.is_no_directory || hosts.is_some_and(|content| !has_mark(content))
                });
                if is_foreign {
                    plan.blocked.insert(host.clone(), TrustError::ForeignFile);
                } else {
                    kept.entry(directory).or_insert(files);
                }
            }
            Err(error) => {
                plan.blocked.insert(host.clone(), error);
            }
        }
    }
    for (&directory, files) in &kept {
        plan.put(directory, files, found.get(directory));
    }
    for (directory, existing) in found {
        if !kept.contains_key(directory.as_str()) && existing.is_ours() {
            plan.take_away(directory, existing);
        }
    }
    plan
}

impl Plan {
    fn put(&mut self, directory: &str, files: &FoundHost, existing: Option<&FoundHost>) {
        let nothing = FoundHost::default();
        if existing.is_none() {
            let path = directory.to_owned();
            self.operations.push(Operation::CreateDirectory(path));
        }
        let existing = existing.unwrap_or(&nothing);
        let mut removed = Vec::new();
        for (name, wanted, has) in [
            (AUTHORITY_FILE, &files.authority, &existing.authority),
            (HOSTS_FILE, &files.hosts, &existing.hosts),
        ] {
            let path = format!("{directory}/{name}");
            match (wanted, has) {
                (Some(content), _) if wanted != has => {
                    let content = content.clone();
                    self.operations.push(Operation::Write { path, content });
                }
                (None, Some(content)) if name == AUTHORITY_FILE || has_mark(content) => {
                    removed.push(Operation::Remove(path));
                }
                (Some(_) | None, _) => {}
            }
        }
        removed.reverse();
        self.operations.append(&mut removed);
    }

    fn take_away(&mut self, directory: &str, existing: &FoundHost) {
        if existing
            .hosts
            .as_ref()
            .is_some_and(|content| has_mark(content))
        {
            let path = format!("{directory}/{HOSTS_FILE}");
            self.operations.push(Operation::Remove(path));
        }
        if existing.authority.is_some() {
            let path = format!("{directory}/{AUTHORITY_FILE}");
            self.operations.push(Operation::Remove(path));
        }
        let path = directory.to_owned();
        self.operations.push(Operation::RemoveDirectory(path));
    }
}

fn has_mark(content: &[u8]) -> bool {
    content.starts_with(MARK.as_bytes())
}

/// A host's directory, and what is to be in it.
fn files<'a>(
    runtime: Runtime,
    host: &'a str,
    settings: &RuntimeHost,
) -> Result<(&'a str, FoundHost), TrustError> {
    if host.contains('*') {
        return Err(TrustError::Pattern);
    }
    let is_docker_hub = host == DOCKER_HUB_HOST || host == DOCKER_HUB_DIRECTORY;
    let directory = if is_docker_hub {
        DOCKER_HUB_DIRECTORY
    } else {
        host
    };
    if matches!(directory, "" | "." | "..") || directory.contains(['/', '\0']) {
        return Err(TrustError::Name);
    }
    let authority = settings.ca.as_ref().map(|pem| pem.clone().into_bytes());
    match runtime {
        Runtime::Containerd => {
            let server = if is_docker_hub {
                DOCKER_HUB_SERVER
            } else {
                host
            };
            let hosts = Some(hosts_file(server, settings).into_bytes());
            let files = FoundHost {
                hosts,
                authority,
                ..FoundHost::default()
            };
            Ok((directory, files))
        }
        Runtime::CriO if settings.insecure || !settings.mirrors.is_empty() => {
            Err(TrustError::NotByCriO)
        }
        Runtime::CriO => {
            let hosts = None;
            let files = FoundHost {
                hosts,
                authority,
                ..FoundHost::default()
            };
            Ok((directory, files))
        }
    }
}

/// As containerd's `docs/hosts.md` has it: the hosts that are asked, in order, the registry itself as the last of them.
/// What a registry needs stands in a block of its own, since containerd 1.6 does not heed `skip_verify` beside `server`.
/// A relative path is looked up beside the file, so that it does not matter where a node has the directory.
fn hosts_file(server: &str, settings: &RuntimeHost) -> String {
    let itself = format!("https://{server}");
    let mut hosts = Table::new();
    hosts.set_implicit(true);
    for url in &settings.mirrors {
        let mut mirror = host(settings);
        if names_the_api(url) {
            mirror.insert("override_path", value(true));
        }
        hosts.insert(url, Item::Table(mirror));
    }
    // a mirror of the same name would take its place
    hosts.remove(&itself);
    hosts.insert(&itself, Item::Table(host(settings)));
    let mut document = DocumentMut::new();
    document.insert("server", value(itself));
    document.insert("host", Item::Table(hosts));
    format!("{MARK}{document}")
}

/// A block of a host that images are pulled from.
fn host(settings: &RuntimeHost) -> Table {
    let mut host = Table::new();
    let capabilities = Array::from_iter(["pull", "resolve"]);
    host.insert("capabilities", value(capabilities));
    if settings.ca.is_some() {
        host.insert("ca", value(AUTHORITY_FILE));
    }
    if settings.insecure {
        host.insert("skip_verify", value(true));
    }
    host
}

/// Whether the path of a base URL says where the registry's API is, which containerd otherwise puts at its end.
fn names_the_api(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme.split_once('/').map_or("", |(_, path)| path);
    path.split('/').any(|part| part == "v2")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    fn private() -> RuntimeHost {
        RuntimeHost {
            ca: Some(CA.into()),
            ..RuntimeHost::default()
        }
    }

    fn one(host: &str, settings: RuntimeHost) -> BTreeMap<String, RuntimeHost> {
        BTreeMap::from([(host.to_owned(), settings)])
    }

    /// What the directory holds after the operations.
    fn carried_out(
        plan: &Plan,
        mut found: BTreeMap<String, FoundHost>,
    ) -> BTreeMap<String, FoundHost> {
        for operation in &plan.operations {
            match operation {
                Operation::CreateDirectory(path) => {
                    assert!(found.insert(path.clone(), FoundHost::default()).is_none());
                }
                Operation::Write { path, content } => {
                    *file(&mut found, path) = Some(content.clone());
                }
                Operation::Remove(path) => assert!(file(&mut found, path).take().is_some()),
                Operation::RemoveDirectory(path) => {
                    if found[path] == FoundHost::default() {
                        found.remove(path);
                    }
                }
            }
        }
        found
    }

    fn file<'a>(found: &'a mut BTreeMap<String, FoundHost>, path: &str) -> &'a mut Option<Vec<u8>> {
        let (directory, name) = path.split_once('/').unwrap();
        let host = found.get_mut(directory).unwrap();
        match name {
            HOSTS_FILE => &mut host.hosts,
            AUTHORITY_FILE => &mut host.authority,
            other => panic!("{other} is not ours"),
        }
    }

    fn hosts(host: &str, settings: RuntimeHost) -> String {
        let (_, files) = files(Runtime::Containerd, host, &settings).unwrap();
        let text = String::from_utf8(files.hosts.unwrap()).unwrap();
        text.strip_prefix(MARK).unwrap().to_owned()
    }

    #[test]
    fn containerd_is_told_the_authority() {
        assert_eq!(
            hosts("registry.example.com:5000", private()),
            "server = \"https://registry.example.com:5000\"\n\n[host.\"https://registry.example.com:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"pullpass-ca.crt\"\n"
        );
    }

    #[test]
    fn containerd_is_told_mirrors_in_their_order() {
        let settings = RuntimeHost {
            insecure: true,
            mirrors: vec![
                "https://z.example.com".into(),
                "https://a.example.com/v2/proxy".into(),
            ],
            ..RuntimeHost::default()
        };
        assert_eq!(
            hosts("index.docker.io", settings),
            "server = \"https://registry-1.docker.io\"\n\n[host.\"https://z.example.com\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n\n[host.\"https://a.example.com/v2/proxy\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\noverride_path = true\n\n[host.\"https://registry-1.docker.io\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n"
        );
    }

    #[test]
    fn the_authority_comes_first_and_goes_last() {
        let wanted = one("r.example.com", private());
        let plan = plan(Runtime::Containerd, &wanted, &BTreeMap::new());
        let paths: Vec<_> = plan
            .operations
            .iter()
            .map(|operation| match operation {
                Operation::CreateDirectory(path) | Operation::Write { path, .. } => path.as_str(),
                other @ (Operation::Remove(_) | Operation::RemoveDirectory(_)) => {
                    panic!("{other:?}")
                }
            })
            .collect();
        assert_eq!(
            paths,
            [
                "r.example.com",
                "r.example.com/pullpass-ca.crt",
                "r.example.com/hosts.toml"
            ]
        );
        let there = carried_out(&plan, BTreeMap::new());
        let gone = super::plan(Runtime::Containerd, &BTreeMap::new(), &there);
        assert_eq!(
            gone.operations,
            [
                Operation::Remove("r.example.com/hosts.toml".into()),
                Operation::Remove("r.example.com/pullpass-ca.crt".into()),
                Operation::RemoveDirectory("r.example.com".into()),
            ]
        );
    }

    #[test]
    fn a_foreign_file_is_not_touched() {
        let foreign = FoundHost {
            hosts: Some(b"server = \"https://r.example.com\"\n".to_vec()),
            ..FoundHost::default()
        };
        let found = BTreeMap::from([("r.example.com".to_owned(), foreign)]);
        let wanted = one("r.example.com", private());
        let planned = plan(Runtime::Containerd, &wanted, &found);
        assert_eq!(planned.operations, []);
        assert_eq!(planned.blocked["r.example.com"], TrustError::ForeignFile);
        // nor is it taken away
        let planned = plan(Runtime::Containerd, &BTreeMap::new(), &found);
        assert_eq!(planned, Plan::default());
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_touched() {
        let link = FoundHost {
            is_no_directory: true,
            ..FoundHost::default()
        };
        let found = BTreeMap::from([("r.example.com".to_owned(), link)]);
        for runtime in [Runtime::Containerd, Runtime::CriO] {
            let planned = plan(runtime, &one("r.example.com", private()), &found);
            assert_eq!(planned.operations, []);
            assert_eq!(planned.blocked["r.example.com"], TrustError::ForeignFile);
        }
    }

    #[test]
    fn cri_o_is_told_authorities_only() {
        let there = carried_out(
            &plan(
                Runtime::CriO,
                &one("r.example.com", private()),
                &BTreeMap::new(),
            ),
            BTreeMap::new(),
        );
        assert_eq!(
            there["r.example.com"],
            FoundHost {
                authority: Some(CA.into()),
                ..FoundHost::default()
            }
        );
        let insecure = RuntimeHost {
            insecure: true,
            ..private()
        };
        let wanted = one("r.example.com", insecure);
        let planned = plan(Runtime::CriO, &wanted, &BTreeMap::new());
        assert_eq!(planned.blocked["r.example.com"], TrustError::NotByCriO);
    }

    #[rstest]
    #[case("*.example.com", TrustError::Pattern)]
    #[case("..", TrustError::Name)]
    #[case(".", TrustError::Name)]
    #[case("", TrustError::Name)]
    #[case("a/../..", TrustError::Name)]
    fn some_hosts_have_no_directory(#[case] host: &str, #[case] error: TrustError) {
        let planned = plan(Runtime::Containerd, &one(host, private()), &BTreeMap::new());
        assert_eq!(planned.operations, []);
        assert_eq!(planned.blocked[host], error);
    }

    fn any_hosts() -> impl Strategy<Value = BTreeMap<String, RuntimeHost>> {
        let settings = (
            any::<bool>(),
            any::<bool>(),
            prop::collection::vec("https?://[a-c]\\.io(/v2/[\"\\\\a]?)?", 0..3),
        )
            .prop_map(|(ca, insecure, mirrors)| RuntimeHost {
                ca: ca.then(|| CA.to_owned()),
                insecure,
                mirrors,
            });
        prop::collection::btree_map("[abc.*]{1,3}(:5)?|index.docker.io", settings, 0..4)
    }

    fn any_found() -> impl Strategy<Value = BTreeMap<String, FoundHost>> {
        let file = || prop::option::of(prop_oneof![Just(MARK.to_owned()), Just("foreign".into())]);
        let host = (file(), file()).prop_map(|(hosts, authority)| FoundHost {
            hosts: hosts.map(String::into_bytes),
            authority: authority.map(String::into_bytes),
            ..FoundHost::default()
        });
        prop::collection::btree_map("[abc]{1,2}", host, 0..4)
    }

    proptest! {
        /// Carried out, there is nothing left to do, and what is foreign is as it was.
        #[test]
        fn a_plan_leads_where_it_should(
            containerd in any::<bool>(), wanted in any_hosts(), next in any_hosts(), found in any_found(),
        ) {
            let runtime = if containerd { Runtime::Containerd } else { Runtime::CriO };
            let foreign: BTreeMap<_, _> = found
                .iter()
                .filter_map(|(name, host)| host.hosts.clone().map(|content| (name.clone(), content)))
                .filter(|(_, content)| !has_mark(content))
                .collect();
            let mut there = found;
            for wanted in [&wanted, &next, &BTreeMap::new()] {
                there = carried_out(&plan(runtime, wanted, &there), there);
                let again = plan(runtime, wanted, &there);
                prop_assert_eq!(&again.operations, &[]);
                for (name, content) in &foreign {
                    prop_assert_eq!(there[name].hosts.as_ref(), Some(content));
                }
                for host in there.values() {
                    if let Some(content) = host.hosts.as_ref().filter(|content| has_mark(content)) {
                        let text = std::str::from_utf8(content).unwrap();
                        prop_assert!(text.parse::<DocumentMut>().is_ok(), "{}", text);
                    }
                }
            }
            prop_assert!(there.values().all(|host| !host.is_ours()));
        }
    }
}

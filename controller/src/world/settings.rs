//! What an administrator sets for the whole cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use pullpass_core::bundle::Mode;
use pullpass_core::match_images::MatchImages;
use pullpass_providers::connection::Via;

use crate::credential;
use crate::manifest::AUTHORITY_SECRET;

/// What an administrator sets for the whole cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Pullpass's own namespace.
    pub(crate) namespace: String,
    /// This cluster's name.
    pub(crate) cluster_name: Option<String>,
    /// System namespaces that may be selected.
    pub(crate) system_namespaces: BTreeSet<String>,
    /// The name of the copies.
    pub(crate) pull_secret_name: String,
    /// The name of the webhook's certificate.
    pub(crate) serving_secret: String,
    /// How often a good credential is verified anew; `None` where none is verified.
    pub(crate) verify_interval: Option<Duration>,
    /// The way to registries and clouds where a Registry names none.
    pub(crate) via: Via,
    /// Whether namespaces get pull secrets.
    pub(crate) pull_secrets: PullSecrets,
    /// How nodes hold credentials, where they do.
    pub(crate) nodes: Option<Mode>,
    /// The images that kubelet asks the plugin about, where there is one.
    pub(crate) match_images: Option<MatchImages>,
    /// Whether nodes are to give up what they hold.
    pub(crate) withdraw_nodes: bool,
    /// Whether the startup taint is taken off nodes.
    pub(crate) startup_taint: bool,
    /// How long kubelet may go on with what it has read on a node before.
    pub(crate) kubelet_cache: Duration,
}

/// Whether namespaces get pull secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PullSecrets {
    /// They do.
    #[default]
    On,
    /// They do not; copies that are there stay until nodes serve in their place.
    Off,
}

impl Settings {
    /// Whether a Secret of this name in Pullpass's own namespace is the controller's to write, and so nobody's input.
    pub(crate) fn is_written_by_us(&self, name: &str) -> bool {
        [
            &self.pull_secret_name,
            &self.serving_secret,
            AUTHORITY_SECRET,
        ]
        .contains(&name)
            || credential::registry_of(name).is_some()
    }
}

//! A way to give kubelet credentials: what each mode has to be able to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pullpass_core::bundle::Bundle;
use pullpass_core::key::RegistryKey;
use pullpass_core::reason::Reason;

use crate::config::AgentOptions;

/// The bundles that the node is to hold, by the names of their Secrets.
pub type Bundles = BTreeMap<&'static str, Arc<Bundle>>;

/// One mode. Its work is done on the host's file system and may take as long as a slow disk does.
pub trait Delivery: Send + Sync + 'static {
    /// The Secrets whose bundles it needs.
    fn secrets(&self) -> &'static [&'static str];

    /// Directories in which a change is worth another look.
    fn directories(&self) -> Vec<&Path>;

    /// Whether an agent with these options looks after what this one has written.
    fn is_kept_by(&self, successor: &AgentOptions) -> bool;

    /// How long kubelet may go on with what it has read before.
    fn takes_effect_after(&self) -> Duration;

    /// Makes the node hold these bundles, and nothing else of Pullpass in this way. Repeating it changes nothing.
    ///
    /// With [`Effort::Look`] nothing is changed, and what would have to be is an error.
    ///
    /// # Errors
    /// What is in the way; the node holds what it held, or a part of the change that the next call completes.
    fn deliver(&self, bundles: &Bundles, effort: Effort) -> Result<Delivered, Trouble>;

    /// Takes everything of Pullpass off the node, as far as this mode has put it there.
    ///
    /// # Errors
    /// As [`Delivery::deliver`].
    fn withdraw(&self) -> Result<Delivered, Trouble>;
}

/// How much may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Whatever is needed.
    Write,
    /// Nothing: it was put right too often already.
    Look,
}

/// The node holds what it is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Whether something had to be changed.
    pub changed: bool,
    /// Keys that the node's administrator has another login for, which has precedence.
    pub kept: Vec<RegistryKey>,
    /// What an administrator should know all the same.
    pub remark: Option<Remark>,
}

/// Something that an administrator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// In one word.
    pub reason: Reason,
    /// In a sentence, without any content of a file.
    pub message: String,
}

/// Why a node does not hold what it is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whether it goes away by itself.
    pub passes: bool,
    /// In one word.
    pub reason: Reason,
    /// In a sentence, without any content of a file.
    pub message: String,
}

impl Trouble {
    /// Somebody has to act.
    pub fn blocked(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            passes: false,
            reason,
            message: message.into(),
        }
    }

    /// It is tried again, and there is hope.
    pub fn pending(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            passes: true,
            reason,
            message: message.into(),
        }
    }
}

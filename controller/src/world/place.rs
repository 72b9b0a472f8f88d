//! What is known of one namespace.

use std::sync::Arc;

use pullpass_core::policy::Namespace;
use pullpass_core::render::Outcome;

use crate::observed::{Access, Copy};
use crate::plan::State;

/// A namespace with all that is in it of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// The namespace itself.
    pub(crate) namespace: Option<Arc<Namespace>>,
    /// The Secret of the copies' name.
    pub(crate) copy: Option<Copy>,
    /// The PullAccess.
    pub(crate) access: Option<Access>,
    /// How it stands.
    pub(crate) standing: Option<Standing>,
}

impl Place {
    pub(super) fn is_empty(&self) -> bool {
        self.namespace.is_none() && self.copy.is_none() && self.access.is_none()
    }
}

/// How a namespace stood when it was last looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    /// The rules it was judged by.
    pub(crate) revision: u64,
    /// What became of each registry that it may use.
    pub(crate) outcomes: Arc<[Outcome]>,
    /// What became of each registry in the docker config for installers, in Pullpass's own namespace.
    pub(crate) installers: Arc<[Outcome]>,
    /// How its Secret stands; `None` while that is under way.
    pub(crate) state: Option<State>,
}

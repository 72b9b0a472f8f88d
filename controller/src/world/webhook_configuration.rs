//! The webhook configuration, folded from its watch.

use super::World;
use crate::observed::Version;

/// The webhook configuration, as far as certificates need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebhookConfiguration {
    /// Its version.
    pub(crate) version: Version,
    /// Its webhooks that point to our Service, each with its `caBundle`.
    pub(crate) webhooks: Vec<(String, Vec<u8>)>,
}

impl World {
    /// Folds the watch on our webhook configuration.
    pub(crate) fn webhook_configuration_changed(&self, found: Option<WebhookConfiguration>) {
        self.lock().webhook_configuration = found;
        self.certificates.notify_one();
    }

    /// The webhook configuration, where there is one.
    pub(crate) fn webhook_configuration(&self) -> Option<WebhookConfiguration> {
        self.lock().webhook_configuration.clone()
    }
}

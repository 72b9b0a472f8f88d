//! How the container runtime is to reach registries.

use std::collections::BTreeMap;

use pullpass_api::registry::{Tls, TlsMode};
use pullpass_core::bundle::RuntimeHost;

use super::{Inner, World};

impl World {
    /// How the runtime is to reach registries, by the Registry's name, where that is another way than its own.
    pub(crate) fn runtime_hosts(&self) -> BTreeMap<String, RuntimeHost> {
        let inner = self.lock();
        let hosts = inner.registries.iter().filter_map(|(name, known)| {
            let connection = known.object.spec.connection.as_ref()?;
            let tls = connection.tls.as_ref();
            let host = RuntimeHost {
                ca: tls.and_then(|tls| inner.authorities(tls)),
                insecure: tls.is_some_and(|tls| tls.mode == TlsMode::Insecure),
                mirrors: connection.mirrors.clone(),
            };
            (host != RuntimeHost::default()).then(|| (name.clone(), host))
        });
        hosts.collect()
    }
}

impl Inner {
    /// The certificates in the Secret that a Registry names, where it is there.
    fn authorities(&self, tls: &Tls) -> Option<String> {
        const DEFAULT_KEY: &str = "ca.crt";
        let secret = self.secrets.get(&tls.ca_secret_ref.as_ref()?.name)?;
        let key = tls.ca_key.as_deref().unwrap_or(DEFAULT_KEY);
        let content = &secret.data.as_ref()?.get(key)?.0;
        String::from_utf8(content.clone()).ok()
    }
}

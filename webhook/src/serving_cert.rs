//! The serving certificate: from its Secret, or from a directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use pullpass_certs::state::{SERVING_CERTIFICATE, SERVING_KEY};
use pullpass_certs::{CertificateDirectory, IdentityError, ServingCertResolver, ServingIdentity};
use pullpass_daemon::shutdown::Stage;
use pullpass_daemon::watch::DuplicateWatch;
use pullpass_daemon::{Change, Context, Guard, WatchSpec};

use crate::metrics::Metrics;

/// Where the certificate comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A Secret of type `kubernetes.io/tls`.
    Secret {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A directory with `tls.crt` and `tls.key`.
    Directory(&'a Path),
}

/// Follows the source for as long as the process runs. Not ready before there is a certificate; what is missing or
/// unusable later changes nothing.
///
/// # Errors
/// The watch was added before.
pub fn start(
    context: &Context,
    source: Source<'_>,
    metrics: Metrics,
) -> Result<Arc<ServingCertResolver>, DuplicateWatch> {
    const TASK: &str = "serving-certificate";
    let resolver = ServingCertResolver::empty();
    let served = Served {
        resolver: Arc::clone(&resolver),
        guard: Mutex::new(Some(context.readiness.register(TASK))),
        metrics,
    };
    match source {
        Source::Directory(path) => {
            let directory = CertificateDirectory::new(path);
            let stop = context.tasks.stop(Stage::Work);
            context.spawn_work(TASK, async move {
                directory
                    .follow(stop, |identity| served.replace(identity))
                    .await;
            });
        }
        Source::Secret { namespace, name } => {
            // by name, since no other Secret may be read
            let spec = WatchSpec::new(TASK).named(name);
            let namespace = namespace.to_owned();
            context.watch(
                TASK,
                spec,
                move |client| Api::<Secret>::namespaced(client, &namespace),
                |secret| identity(&secret.data.unwrap_or_default()),
                move |change| served.apply(change),
            )?;
        }
    }
    Ok(resolver)
}

struct Served {
    resolver: Arc<ServingCertResolver>,
    guard: Mutex<Option<Guard>>,
    metrics: Metrics,
}

impl Served {
    fn apply(&self, change: Change<Result<ServingIdentity, IdentityError>>) {
        let identity = match change {
            Change::Restarted(all) => match all.into_iter().next() {
                Some(identity) => identity,
                None => {
                    tracing::info!("the Secret of the serving certificate is not there");
                    return;
                }
            },
            Change::Applied(identity) => identity,
            Change::Deleted(_) => {
                tracing::warn!(
                    "the Secret of the serving certificate was deleted, what is served stays"
                );
                return;
            }
        };
        match identity {
            Ok(identity) => {
                let current = self.resolver.current();
                if current.is_some_and(|current| current.leaf() == identity.leaf()) {
                    return;
                }
                tracing::info!(
                    serial = identity.leaf().serial(),
                    expires = %identity.leaf().not_after(),
                    "serving certificate read"
                );
                self.replace(identity);
            }
            Err(error) => {
                tracing::warn!(%error, "no usable serving certificate in its Secret, what is served stays");
            }
        }
    }

    fn replace(&self, identity: ServingIdentity) {
        self.metrics
            .certificate_expiry
            .set(identity.leaf().not_after().as_second() as f64);
        self.resolver.replace(identity);
        drop(
            self.guard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

fn identity(data: &BTreeMap<String, ByteString>) -> Result<ServingIdentity, IdentityError> {
    let field = |name: &str| data.get(name).map_or(&[][..], |value| &value.0);
    ServingIdentity::from_pem(field(SERVING_CERTIFICATE), field(SERVING_KEY))
}

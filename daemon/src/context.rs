//! What a daemon is started on.

use std::convert::Infallible;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;

use kube::{Api, Client, Resource};
use prometheus::Registry;
use serde::de::DeserializeOwned;

use crate::admin::{self, Admin};
use crate::metrics;
use crate::readiness::{Liveness, Readiness};
use crate::shutdown::{Stage, Supervisor, Tasks};
use crate::watch::{Change, DuplicateWatch, WatchSpec, Watches};

/// The surroundings of one daemon. Clones share everything in it.
#[derive(Clone)]
pub struct Context {
    /// `webhook`, `controller`, …
    pub component: &'static str,
    /// The release that it is part of.
    pub version: &'static str,
    /// For the API server.
    pub client: Client,
    /// For metrics.
    pub registry: Registry,
    /// Register here what has to come about before work is taken.
    pub readiness: Readiness,
    /// Register here what has to hold, or else a restart is due.
    pub liveness: Liveness,
    /// Watches are added here.
    pub watches: Watches,
    /// Tasks are started here.
    pub tasks: Tasks,
}

impl Context {
    /// A context of its own for a daemon, and the supervisor that runs it to its end. Nothing is started yet.
    ///
    /// # Errors
    /// [`prometheus::Error`] if the component or version cannot be a label's value.
    pub fn new(
        component: &'static str,
        version: &'static str,
        client: Client,
    ) -> Result<(Self, Supervisor), prometheus::Error> {
        let registry = metrics::registry(component, version)?;
        let (tasks, supervisor) = Tasks::new();
        let context = Self {
            component,
            version,
            client,
            watches: Watches::new(&registry)?,
            registry,
            readiness: Readiness::new(),
            liveness: Liveness::new(),
            tasks,
        };
        Ok((context, supervisor))
    }

    /// Starts a task of [`Stage::Work`] that has no errors to tell of.
    pub fn spawn_work(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(Stage::Work, name, async {
            task.await;
            Ok::<_, Infallible>(())
        });
    }

    /// Adds a watch and runs it as a task of this name, until work stops. [`Watches::add`] says what the rest is.
    ///
    /// # Errors
    /// [`DuplicateWatch`] if the watch's name is taken.
    pub fn watch<K, V, A, P, F>(
        &self,
        task: &'static str,
        spec: WatchSpec,
        api: A,
        project: P,
        apply: F,
    ) -> Result<(), DuplicateWatch>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        V: Send + 'static,
        A: FnOnce(Client) -> Api<K> + 'static,
        P: FnMut(K) -> V + Send + 'static,
        F: FnMut(Change<V>) + Send + 'static,
    {
        let stop = self.tasks.stop(Stage::Work);
        let (_, following) = self
            .watches
            .add(spec, &self.client, api, project, apply, stop)?;
        self.spawn_work(task, following);
        Ok(())
    }

    /// Starts the admin server, to be stopped last. Port 0 means any free one; returns the address it got.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn serve_admin(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let admin = Admin {
            registry: self.registry.clone(),
            readiness: self.readiness.clone(),
            liveness: self.liveness.clone(),
        };
        let (bound, serving) = admin::bind(address, admin, self.tasks.stop(Stage::Observe))?;
        self.tasks.spawn(Stage::Observe, "admin server", serving);
        tracing::info!(address = %bound, "admin server listens");
        Ok(bound)
    }
}

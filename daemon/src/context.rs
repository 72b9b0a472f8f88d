//! What a daemon is started on.

use std::io;
use std::net::SocketAddr;

use kube::Client;
use prometheus::Registry;

use crate::admin::{self, Admin};
use crate::metrics;
use crate::readiness::{Liveness, Readiness};
use crate::shutdown::{Stage, Supervisor, Tasks};
use crate::watch::Watches;

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

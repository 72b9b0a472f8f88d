//! What every loop works with.

use std::sync::Arc;

use kube::Client;

use crate::events::Events;
use crate::metrics::Metrics;
use crate::world::World;

/// Clones share everything in it.
#[derive(Clone)]
pub(crate) struct Context {
    /// For the API server.
    pub(crate) client: Client,
    /// What is known.
    pub(crate) world: Arc<World>,
    /// For people.
    pub(crate) events: Events,
    /// For machines.
    pub(crate) metrics: Metrics,
}

//! What the node agent tells about its work. Labels are closed sets.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use pullpass_core::reason::Reason;

/// The node agent's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// How the node stands: 1 for one reason.
    state: IntGaugeVec,
    /// Whether the node holds what it is to hold.
    ready: IntGauge,
    /// Deliveries that changed the node, or failed to.
    pub(crate) deliveries: IntCounterVec,
    /// What another program did and was put right.
    pub(crate) repairs: IntCounter,
    /// Logins of the node's administrator for keys that Pullpass has logins for too.
    pub(crate) kept: IntGauge,
    /// States that could not be written to the API server.
    pub(crate) report_failures: IntCounter,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// [`prometheus::Error`] if one of the names is taken.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            state: IntGaugeVec::new(
                Opts::new(
                    "pullpass_node_state",
                    "Why the node stands as it does; always 1.",
                ),
                &["reason"],
            )?,
            ready: IntGauge::new(
                "pullpass_node_ready",
                "Whether the node holds what it is to hold (1) or not (0).",
            )?,
            deliveries: IntCounterVec::new(
                Opts::new(
                    "pullpass_node_deliveries_total",
                    "Changes of the node's files, and attempts at them.",
                ),
                &["result"],
            )?,
            repairs: IntCounter::new(
                "pullpass_node_repairs_total",
                "Changes by other programs that were put right.",
            )?,
            kept: IntGauge::new(
                "pullpass_node_kept_entries",
                "Logins of the node's administrator that have precedence over those of Pullpass.",
            )?,
            report_failures: IntCounter::new(
                "pullpass_node_report_failures_total",
                "Failures to write the node's state to the API server; each is followed by another attempt.",
            )?,
        };
        registry.register(Box::new(metrics.state.clone()))?;
        registry.register(Box::new(metrics.ready.clone()))?;
        registry.register(Box::new(metrics.deliveries.clone()))?;
        registry.register(Box::new(metrics.repairs.clone()))?;
        registry.register(Box::new(metrics.kept.clone()))?;
        registry.register(Box::new(metrics.report_failures.clone()))?;
        Ok(metrics)
    }

    /// How the node stands now.
    pub(crate) fn stands(&self, reason: Reason, is_ready: bool) {
        self.state.reset();
        self.state.with_label_values(&[reason.as_str()]).set(1);
        self.ready.set(i64::from(is_ready));
    }
}

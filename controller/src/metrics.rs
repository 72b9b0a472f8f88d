//! What the controller tells about its work. Labels are closed sets.

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// The controller's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Whether this process leads.
    pub(crate) leader: IntGauge,
    /// Writes by kind of object, operation and result.
    pub(crate) writes: IntCounterVec,
    /// How long one key takes, by loop.
    pub(crate) work_seconds: HistogramVec,
    /// Keys that wait for their turn, by loop.
    pub(crate) waiting: IntGaugeVec,
    /// Namespaces by how they stand.
    pub(crate) namespaces: IntGaugeVec,
    /// Registries by whether they are ready.
    pub(crate) registries: IntGaugeVec,
    /// Nodes by what they tell.
    pub(crate) nodes: IntGaugeVec,
    /// Credentials by kind of registry and how they stand.
    pub(crate) credentials: IntGaugeVec,
    /// When the first credential of a kind of registry ends.
    pub(crate) credential_expiry: GaugeVec,
    /// Log-ins at clouds by kind of registry and outcome.
    pub(crate) renewals: IntCounterVec,
    /// Answers of registries about logins.
    pub(crate) verifications: IntCounterVec,
    /// When certificates end.
    pub(crate) certificate_expiry: GaugeVec,
    /// Events that were not sent because there were too many.
    pub(crate) events_dropped: IntCounter,
    /// When a status was last computed from everything that is known.
    pub(crate) last_report: Gauge,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// [`prometheus::Error`] if one of the names is taken.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            leader: IntGauge::new(
                "pullpass_leader",
                "Whether this process holds the Lease (1) or not (0).",
            )?,
            writes: IntCounterVec::new(
                Opts::new("pullpass_writes_total", "Writes to the API server."),
                &["object", "operation", "result"],
            )?,
            work_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "pullpass_work_seconds",
                    "How long one namespace or registry takes to be brought up to date.",
                )
                .buckets(vec![0.001, 0.01, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0]),
                &["loop"],
            )?,
            waiting: IntGaugeVec::new(
                Opts::new("pullpass_waiting", "Keys that wait for their turn."),
                &["loop"],
            )?,
            namespaces: IntGaugeVec::new(
                Opts::new(
                    "pullpass_namespaces",
                    "Namespaces with a pull secret that is up to date, blocked or pending.",
                ),
                &["state"],
            )?,
            registries: IntGaugeVec::new(
                Opts::new(
                    "pullpass_registries",
                    "Registries by their condition Ready.",
                ),
                &["ready"],
            )?,
            nodes: IntGaugeVec::new(
                Opts::new(
                    "pullpass_nodes",
                    "Nodes by the state of their NodePullAccess.",
                ),
                &["state"],
            )?,
            credentials: IntGaugeVec::new(
                Opts::new(
                    "pullpass_credentials",
                    "Credentials of Registries that are good, failing (the last good one is in use), expired, withheld or missing.",
                ),
                &["provider", "state"],
            )?,
            credential_expiry: GaugeVec::new(
                Opts::new(
                    "pullpass_credential_expiry_timestamp_seconds",
                    "When the first of the credentials in use ends that have an end.",
                ),
                &["provider"],
            )?,
            renewals: IntCounterVec::new(
                Opts::new(
                    "pullpass_renewals_total",
                    "Log-ins at clouds: renewed, unchanged (the same token again) or failed.",
                ),
                &["provider", "outcome"],
            )?,
            verifications: IntCounterVec::new(
                Opts::new(
                    "pullpass_verifications_total",
                    "Logins that a registry accepted or refused, or that it could not be asked about.",
                ),
                &["outcome"],
            )?,
            certificate_expiry: GaugeVec::new(
                Opts::new(
                    "pullpass_certificate_expiry_timestamp_seconds",
                    "When the authority's and the serving certificate end.",
                ),
                &["certificate"],
            )?,
            events_dropped: IntCounter::new(
                "pullpass_events_dropped_total",
                "Events that were not sent because too many waited.",
            )?,
            last_report: Gauge::new(
                "pullpass_last_report_timestamp_seconds",
                "When the status of all registries was last computed.",
            )?,
        };
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.work_seconds.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.namespaces.clone()))?;
        registry.register(Box::new(metrics.registries.clone()))?;
        registry.register(Box::new(metrics.nodes.clone()))?;
        registry.register(Box::new(metrics.credentials.clone()))?;
        registry.register(Box::new(metrics.credential_expiry.clone()))?;
        registry.register(Box::new(metrics.renewals.clone()))?;
        registry.register(Box::new(metrics.verifications.clone()))?;
        registry.register(Box::new(metrics.certificate_expiry.clone()))?;
        registry.register(Box::new(metrics.events_dropped.clone()))?;
        registry.register(Box::new(metrics.last_report.clone()))?;
        Ok(metrics)
    }

    /// Counts one write.
    pub(crate) fn wrote<T, E>(
        &self,
        object: &'static str,
        operation: &'static str,
        result: &Result<T, E>,
    ) {
        let result = if result.is_ok() { "success" } else { "failure" };
        self.writes
            .with_label_values(&[object, operation, result])
            .inc();
    }
}

//! What the webhook tells about itself. Labels are closed sets.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use pullpass_core::reason::Reason;

/// From a decision without a wait to the longest that an API server waits for a webhook.
const SECONDS: [f64; 12] = [
    0.000_1, 0.000_25, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// How a wait for a young namespace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// What was waited for came.
    Arrived,
    /// It did not come within the bound.
    Bound,
    /// Too many were waiting already.
    NoPlace,
}

impl WaitEnd {
    fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "Arrived",
            Self::Bound => "Bound",
            Self::NoPlace => "NoPlace",
        }
    }
}

/// The webhook's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    decisions: IntCounterVec,
    waits: IntCounterVec,
    refused: IntCounterVec,
    /// From the request's header to its answer, waits included.
    pub duration: Histogram,
    /// Requests that wait at the moment.
    pub waiting: IntGauge,
    /// Panics that became an answer.
    pub panics: IntCounter,
    /// Connections at the moment.
    pub connections: IntGauge,
    /// Connections that had to give way to others.
    pub displaced: IntCounter,
    /// Connections that were turned away.
    pub turned_away: IntCounter,
    /// When the serving certificate expires, in seconds since the epoch; 0 while there is none.
    pub certificate_expiry: Gauge,
}

impl Metrics {
    /// All of them, registered.
    ///
    /// # Errors
    /// [`prometheus::Error`] where one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let decisions = IntCounterVec::new(
            Opts::new(
                "pullpass_webhook_decisions_total",
                "Decisions on admission reviews, by reason.",
            ),
            &["reason"],
        )?;
        let waits = IntCounterVec::new(
            Opts::new(
                "pullpass_webhook_waits_total",
                "Waits for the pull secret of a young namespace, by how they ended.",
            ),
            &["end"],
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "pullpass_webhook_refused_requests_total",
                "Requests that were no admission review, by HTTP status.",
            ),
            &["code"],
        )?;
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "pullpass_webhook_request_duration_seconds",
                "Time from a request's header to its answer, waits included.",
            )
            .buckets(SECONDS.to_vec()),
        )?;
        let waiting = IntGauge::new(
            "pullpass_webhook_waiting_requests",
            "Requests that wait for the pull secret of a young namespace.",
        )?;
        let panics = IntCounter::new(
            "pullpass_webhook_panics_total",
            "Requests whose handling panicked, which is a bug.",
        )?;
        let connections =
            IntGauge::new("pullpass_webhook_connections", "Connections that are open.")?;
        let displaced = IntCounter::new(
            "pullpass_webhook_connections_displaced_total",
            "Idle connections that were closed at the cap to make room for others.",
        )?;
        let turned_away = IntCounter::new(
            "pullpass_webhook_connections_turned_away_total",
            "Connections that were closed at the cap, since none was idle.",
        )?;
        let certificate_expiry = Gauge::new(
            "pullpass_webhook_certificate_expiry_timestamp_seconds",
            "When the serving certificate expires; 0 while there is none.",
        )?;
        registry.register(Box::new(decisions.clone()))?;
        registry.register(Box::new(waits.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(panics.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(displaced.clone()))?;
        registry.register(Box::new(turned_away.clone()))?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        Ok(Self {
            decisions,
            waits,
            refused,
            duration,
            waiting,
            panics,
            connections,
            displaced,
            turned_away,
            certificate_expiry,
        })
    }

    /// One decision.
    pub fn decided(&self, reason: Reason) {
        self.decisions.with_label_values(&[reason.as_str()]).inc();
    }

    /// One wait.
    pub fn waited(&self, end: WaitEnd) {
        self.waits.with_label_values(&[end.as_str()]).inc();
    }

    /// One request that was answered with an HTTP error.
    pub fn refused(&self, status: axum::http::StatusCode) {
        self.refused.with_label_values(&[status.as_str()]).inc();
    }
}

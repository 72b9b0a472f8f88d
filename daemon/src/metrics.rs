//! Metrics: a registry of the process's own, and what every process tells about itself.
//!
//! Labels are closed sets: never the name of a namespace, pod, image or Secret.

use std::time::Instant;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Gauge, Histogram, Opts, Registry, TextEncoder};

/// The media type of [`encode`]'s output.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry with `pullpass_build_info{component,version} 1`, and the `process_…` metrics of this process:
/// CPU, memory, file descriptors, start time, threads.
///
/// # Errors
/// [`prometheus::Error`] if the component's name or version cannot be a label's value.
pub fn registry(component: &str, version: &str) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let build = Gauge::with_opts(
        Opts::new(
            "pullpass_build_info",
            "Which component and version this is; always 1.",
        )
        .const_label("component", component)
        .const_label("version", version),
    )?;
    build.set(1.0);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Everything in the registry, in Prometheus's text format.
///
/// # Errors
/// [`prometheus::Error`] if a metric has no name or no value.
pub fn encode(registry: &Registry) -> Result<Vec<u8>, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

/// Records into a histogram, in seconds, how long it lived: also when what it measures was cut short.
#[derive(Debug)]
pub struct Timer {
    histogram: Histogram,
    started: Instant,
}

impl Timer {
    /// Starts now.
    #[must_use]
    pub fn start(histogram: &Histogram) -> Self {
        Self {
            histogram: histogram.clone(),
            started: Instant::now(),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.histogram.observe(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_what_it_is_and_uses() {
        let text =
            String::from_utf8(encode(&registry("webhook", "1.2.3").unwrap()).unwrap()).unwrap();
        assert!(
            text.contains("pullpass_build_info{component=\"webhook\",version=\"1.2.3\"} 1"),
            "{text}"
        );
        let resident = text
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .expect("resident memory")
            .parse::<f64>()
            .unwrap();
        assert!(resident > 0.0);
        assert!(text.contains("\nprocess_start_time_seconds "), "{text}");
    }

    #[test]
    fn registries_are_independent() {
        registry("a", "1").unwrap();
        registry("a", "1").unwrap();
    }

    #[test]
    fn a_timer_counts_once_when_dropped() {
        let histogram =
            Histogram::with_opts(prometheus::HistogramOpts::new("seconds", "help")).unwrap();
        let timer = Timer::start(&histogram);
        assert_eq!(histogram.get_sample_count(), 0);
        drop(timer);
        assert_eq!(histogram.get_sample_count(), 1);
    }
}

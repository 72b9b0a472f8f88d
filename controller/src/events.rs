//! Events for people. Equal ones are counted in one object; when too many wait, the rest is dropped and counted.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use pullpass_core::reason::Reason;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Enough for the first words about a trouble that many namespaces share; nobody reads the rest.
const WAITING: usize = 256;

/// The API server refuses a longer note (`NoteLengthLimit` in its `pkg/apis/core/validation/events.go`).
const NOTE_BYTES: usize = 1024;

/// Something worth telling.
#[derive(Debug)]
pub(crate) struct Notice {
    /// What it is about. An event about a cluster-scoped object lands in the namespace `default`, by a rule of the API
    /// server.
    pub(crate) about: ObjectReference,
    /// Whether somebody has to do something.
    pub(crate) is_warning: bool,
    /// The category.
    pub(crate) reason: Reason,
    /// What Pullpass was doing.
    pub(crate) action: &'static str,
    /// The sentence.
    pub(crate) note: String,
}

/// Where notices go in.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Notice>,
    metrics: Metrics,
}

impl Events {
    /// Where notices go in, and the task that sends them.
    pub(crate) fn new(
        client: Client,
        identity: String,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let reporter = Reporter {
            controller: "pullpass.dev/controller".to_owned(),
            instance: Some(identity),
        };
        let sending = send(Recorder::new(client, reporter), receiver, stop);
        (Self { sender, metrics }, sending)
    }

    /// Takes a notice without waiting.
    pub(crate) fn tell(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

async fn send(recorder: Recorder, mut notices: mpsc::Receiver<Notice>, stop: CancellationToken) {
    while let Some(Some(notice)) = stop.run_until_cancelled(notices.recv()).await {
        let event = Event {
            type_: if notice.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: notice.reason.as_str().to_owned(),
            note: Some(shortened(notice.note)),
            action: notice.action.to_owned(),
            secondary: None,
        };
        let sending = recorder.publish(&event, &notice.about);
        match stop.run_until_cancelled(sending).await {
            None | Some(Ok(())) => {}
            // an event that is lost is no reason to do anything: conditions say the same
            Some(Err(error)) => {
                tracing::debug!(error = pullpass_daemon::chain(&error), "event not sent");
            }
        }
    }
    // dropped notices are none to wait for
    stop.cancelled().await;
}

fn shortened(mut note: String) -> String {
    let mut end = NOTE_BYTES.min(note.len());
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.truncate(end);
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(shortened("short".into()), "short");
        let long = shortened("é".repeat(1000));
        assert_eq!(long.len(), NOTE_BYTES);
        let odd = shortened(format!("x{}", "é".repeat(1000)));
        assert_eq!(odd.len(), NOTE_BYTES - 1);
    }
}

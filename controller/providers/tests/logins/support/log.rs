//! Everything that is logged, at the finest level, with the target that says it.

use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Targets and what they said.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(String, String)>>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, target: &str, record: impl FnOnce(&mut Text)) {
        let mut text = Text::default();
        record(&mut text);
        self.0.lock().unwrap().push((target.to_owned(), text.0));
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.add(event.metadata().target(), |text| event.record(text));
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.add(attributes.metadata().target(), |text| {
            attributes.record(text)
        });
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.add("", |text| values.record(text));
    }
}

//! What the controller has written, by the API server's audit log.

use pullpass_harness::audit::{AuditLog, Entry};
use pullpass_harness::identity::service_account_user;
use pullpass_harness::objects::SYSTEM_NAMESPACE;

pub(crate) fn controllers_writes(audit: &AuditLog) -> Vec<Entry> {
    audit.writes_of(&service_account_user(
        SYSTEM_NAMESPACE,
        "pullpass-controller",
    ))
}

pub(crate) fn summaries(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(Entry::summary).collect()
}

//! What the controller has written, by the API server's audit log.

use pullpass_harness::audit::{AuditLog, Entry};
use pullpass_harness::identity::service_account_user;
use pullpass_harness::objects::SYSTEM_NAMESPACE;
use pullpass_harness::stays;
use pullpass_suites::copies::LONG_ENOUGH;

pub(crate) fn controllers_writes(audit: &AuditLog) -> Vec<Entry> {
    audit.writes_of(&service_account_user(
        SYSTEM_NAMESPACE,
        "pullpass-controller",
    ))
}

pub(crate) fn summaries(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(Entry::summary).collect()
}

/// For a while the controller does not write anything that `counts`.
pub(crate) async fn writes_nothing(audit: &AuditLog, counts: impl Fn(&Entry) -> bool) {
    stays(LONG_ENOUGH, "nothing is written", async || {
        let mut writes = controllers_writes(audit);
        writes.retain(&counts);
        if writes.is_empty() {
            Ok(())
        } else {
            Err(summaries(&writes).join(", "))
        }
    })
    .await;
}

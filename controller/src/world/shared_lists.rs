//! Lists of registries as PullAccesses hold them: most are the same, and are kept once.

use std::collections::HashMap;
use std::sync::Arc;

use pullpass_api::pull_access::RegistryAccess;

/// More different lists than this are a cluster where nearly every namespace has its own.
const MOST: usize = 1024;

/// The lists that are kept, by their text.
#[derive(Debug, Default)]
pub(super) struct SharedLists(HashMap<String, Arc<[RegistryAccess]>>);

impl SharedLists {
    /// Forgets them; whoever holds one keeps it.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The list that is kept of those which say the same.
    pub(super) fn share(&mut self, list: Arc<[RegistryAccess]>) -> Arc<[RegistryAccess]> {
        let Ok(text) = serde_json::to_string(&*list) else {
            return list;
        };
        if let Some(known) = self.0.get(&text) {
            return Arc::clone(known);
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, list| Arc::strong_count(list) > 1);
        }
        if self.0.len() < MOST {
            self.0.insert(text, Arc::clone(&list));
        }
        list
    }
}

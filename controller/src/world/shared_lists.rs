//! Lists of registries as PullAccesses hold them: most are the same, and are kept once.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use pullpass_api::pull_access::RegistryAccess;

/// More different lists than this are a cluster where nearly every namespace has its own.
const MOST: usize = 1024;

/// The lists that are kept.
#[derive(Debug, Default)]
pub(super) struct SharedLists(HashSet<SharedList>);

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
        if let Some(SharedList(_, known)) = self.0.get(text.as_str()) {
            return Arc::clone(known);
        }
        if self.0.len() >= MOST {
            self.0
                .retain(|SharedList(_, list)| Arc::strong_count(list) > 1);
        }
        if self.0.len() < MOST {
            self.0.insert(SharedList(text, Arc::clone(&list)));
        }
        list
    }
}

/// A list that is equal to another by its text.
#[derive(Debug)]
struct SharedList(String, Arc<[RegistryAccess]>);

impl PartialEq for SharedList {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for SharedList {}

impl Hash for SharedList {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Borrow<str> for SharedList {
    fn borrow(&self) -> &str {
        &self.0
    }
}

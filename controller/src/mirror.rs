//! What a watch tells and what writes are answered with, folded into one state. Either may come first.

use std::collections::BTreeMap;

use crate::observed::Version;

/// How far a watch has told. Its news come in the order of resource versions, which count up over all objects of a kind,
/// so what is not newer and not there has been deleted since.
#[derive(Debug, Default)]
pub(crate) struct News(Option<Version>);

impl News {
    /// The watch has told of an object in this version.
    pub(crate) fn told(&mut self, version: &Version) {
        if self
            .0
            .as_ref()
            .is_none_or(|told| version.is_newer_than(told))
        {
            self.0 = Some(version.clone());
        }
    }

    /// Whether the watch has told all up to this version: an object in it that is not there is gone.
    pub(crate) fn have_passed(&self, version: &Version) -> bool {
        self.0
            .as_ref()
            .is_some_and(|told| !version.is_newer_than(told))
    }
}

/// What a mirror holds.
pub(crate) trait Versioned {
    /// The version of the object.
    fn version(&self) -> Version;
}

/// The objects of one watch, by name.
#[derive(Debug)]
pub(crate) struct Mirror<T> {
    objects: BTreeMap<String, T>,
    news: News,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            news: News::default(),
        }
    }
}

impl<T: Versioned> Mirror<T> {
    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.objects.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.objects.keys()
    }

    /// The watch has begun anew with these.
    pub(crate) fn restarted(&mut self, objects: BTreeMap<String, T>) {
        for object in objects.values() {
            self.news.told(&object.version());
        }
        self.objects = objects;
    }

    /// The watch tells of an object. What was written since stays.
    pub(crate) fn applied(&mut self, name: String, object: T) {
        self.news.told(&object.version());
        self.put(name, object);
    }

    /// The watch tells that an object is gone, in its last version.
    pub(crate) fn deleted(&mut self, name: &str, version: &Version) {
        self.news.told(version);
        self.gone(name, version);
    }

    /// An object was written, as the answer says. What was told since stays.
    pub(crate) fn written(&mut self, name: &str, object: T) {
        if self.objects.contains_key(name) || !self.news.have_passed(&object.version()) {
            self.put(name.to_owned(), object);
        }
    }

    /// It takes its place, unless a later state is there.
    fn put(&mut self, name: String, object: T) {
        let version = object.version();
        let known = self.objects.get(&name);
        if !known.is_some_and(|known| known.version().is_newer_than(&version)) {
            self.objects.insert(name, object);
        }
    }

    /// The object of which this was a version is known to be gone. Another one of its name stays.
    pub(crate) fn gone(&mut self, name: &str, version: &Version) {
        let is_it = |known: &T| known.version().uid == version.uid;
        if self.objects.get(name).is_some_and(is_it) {
            self.objects.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Versioned for Version {
        fn version(&self) -> Version {
            self.clone()
        }
    }

    fn version(uid: &str, resource_version: u64) -> Version {
        Version {
            uid: uid.into(),
            resource_version: resource_version.to_string(),
        }
    }

    fn with(object: Version) -> Mirror<Version> {
        let mut mirror = Mirror::default();
        mirror.applied("a".into(), object);
        mirror
    }

    fn held(mirror: &Mirror<Version>) -> Option<&Version> {
        mirror.get("a")
    }

    #[test]
    fn older_news_do_not_undo_a_write_nor_an_older_answer_the_news() {
        let mut mirror = with(version("u", 4));
        mirror.written("a", version("u", 6));
        mirror.applied("a".into(), version("u", 5));
        assert_eq!(held(&mirror), Some(&version("u", 6)));
        mirror.applied("a".into(), version("u", 8));
        mirror.written("a", version("u", 7));
        assert_eq!(held(&mirror), Some(&version("u", 8)));
    }

    #[test]
    fn an_answer_does_not_bring_back_what_was_deleted_since() {
        let mut mirror = with(version("u", 5));
        mirror.deleted("a", &version("u", 6));
        mirror.written("a", version("u", 5));
        assert_eq!(held(&mirror), None);
        // nor where a list has left it out, and another object tells how far that was
        mirror.restarted(BTreeMap::from([("b".into(), version("w", 9))]));
        mirror.written("a", version("v", 8));
        assert_eq!(held(&mirror), None);
        mirror.written("a", version("v", 10));
        assert_eq!(held(&mirror), Some(&version("v", 10)));
    }

    #[test]
    fn the_end_of_an_object_is_not_that_of_the_next_one() {
        let mut mirror = with(version("v", 7));
        mirror.deleted("a", &version("u", 6));
        mirror.gone("a", &version("u", 5));
        assert_eq!(held(&mirror), Some(&version("v", 7)));
        mirror.gone("a", &version("v", 7));
        assert_eq!(held(&mirror), None);
    }
}

//! Globs over names: `*` stands for any run of characters, everything else for itself.

use std::fmt;

/// A pattern over a name, such as `team-*`.
///
/// Kubernetes names hold neither `?` nor brackets, and kubelet reads no other wildcard in the host of a
/// credential either: Go's URL parser cuts a key at `?` and refuses `[` inside a host name. So the star is
/// the whole language, and what else looks like a wildcard is refused where a pattern is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(String);

impl Glob {
    /// A pattern from its text. Every text is a pattern; the places that read one refuse characters which
    /// cannot occur in the names it is meant for.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern is a plain name, which only that name matches.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether every name matches.
    pub fn matches_everything(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|b| b == b'*')
    }

    /// Whether the pattern covers the whole of `name`. Linear in `name` for each star.
    pub fn matches(&self, name: &str) -> bool {
        covers(&self.0, name)
    }
}

/// [`Glob::matches`] for a pattern that is a part of a text.
pub(crate) fn covers(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        // the leftmost place leaves the most for what follows, so no other place needs trying
        let Some((_, after)) = rest.split_once(piece) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("*", "anything", true)]
    #[case("*", "", true)]
    #[case("", "", true)]
    #[case("", "a", false)]
    #[case("team-*", "team-a", true)]
    #[case("team-*", "team-", true)]
    #[case("team-*", "a-team-a", false)]
    #[case("*-prod", "eu-prod", true)]
    #[case("*-prod", "eu-prod-2", false)]
    #[case("a*b*c", "a-b-b-c", true)]
    #[case("a*b*c", "a-c-b", false)]
    #[case("a*a", "a", false)]
    #[case("*a*", "bab", true)]
    #[case("team", "team", true)]
    #[case("team", "team2", false)]
    #[case("**", "x", true)]
    fn covers_the_whole_name(#[case] pattern: &str, #[case] name: &str, #[case] expected: bool) {
        assert_eq!(Glob::new(pattern).matches(name), expected);
    }

    /// The textbook definition, exponential but plain, as the yardstick.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|n| by_definition(rest, &name[n..])),
            Some((c, rest)) => name.first() == Some(c) && by_definition(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*]{0,7}", name in "[ab]{0,8}") {
            let expected = by_definition(
                &pattern.chars().collect::<Vec<_>>(),
                &name.chars().collect::<Vec<_>>(),
            );
            prop_assert_eq!(Glob::new(pattern).matches(&name), expected);
        }
    }
}

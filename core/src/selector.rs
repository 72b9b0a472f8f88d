//! Label selectors, with the meaning of `metav1.LabelSelector`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A conjunction of requirements; the empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// One requirement on one label, as in `k8s.io/apimachinery/pkg/labels`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label is there, with one of these values.
    In(String, BTreeSet<String>),
    /// The label is absent, or has none of these values.
    NotIn(String, BTreeSet<String>),
    /// The label is there.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

impl Selector {
    /// A selector that all of `requirements` have to meet.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self(requirements.into_iter().collect())
    }

    /// Whether the selector asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `labels` meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

/// As `kubectl --selector` takes it, requirements in the order of their text, so that selectors which ask for the same are
/// written alike.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requirements: BTreeSet<String> = self.0.iter().map(ToString::to_string).collect();
        let requirements: Vec<String> = requirements.into_iter().collect();
        f.write_str(&requirements.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            values.join(",")
        };
        match self {
            Requirement::In(key, values) => write!(f, "{key} in ({})", list(values)),
            Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Requirement::Exists(key) => f.write_str(key),
            Requirement::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn labels() -> Labels {
        Labels::from([("team".into(), "a".into()), ("tier".into(), String::new())])
    }

    fn values(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|&v| v.to_owned()).collect()
    }

    #[rstest]
    #[case(Requirement::In("team".into(), values(&["a", "b"])), true)]
    #[case(Requirement::In("team".into(), values(&["b"])), false)]
    #[case(Requirement::In("absent".into(), values(&["a"])), false)]
    #[case(Requirement::NotIn("team".into(), values(&["b"])), true)]
    #[case(Requirement::NotIn("team".into(), values(&["a"])), false)]
    #[case(Requirement::NotIn("absent".into(), values(&["a"])), true)]
    #[case(Requirement::Exists("tier".into()), true)]
    #[case(Requirement::Exists("absent".into()), false)]
    #[case(Requirement::DoesNotExist("absent".into()), true)]
    #[case(Requirement::DoesNotExist("tier".into()), false)]
    fn means_what_kubernetes_means(#[case] requirement: Requirement, #[case] expected: bool) {
        assert_eq!(Selector::new([requirement]).matches(&labels()), expected);
    }

    #[test]
    fn equal_selectors_are_written_alike() {
        let tier = Requirement::NotIn("tier".into(), values(&["b", "a"]));
        let team = Requirement::In("team".into(), values(&["a"]));
        let one = Selector::new([tier.clone(), team.clone(), Requirement::Exists("x".into())]);
        let other = Selector::new([Requirement::Exists("x".into()), team, tier.clone(), tier]);
        assert_eq!(one.to_string(), "team in (a),tier notin (a,b),x");
        assert_eq!(other.to_string(), one.to_string());
        let absent = Selector::new([Requirement::DoesNotExist("x".into())]);
        assert_eq!(absent.to_string(), "!x");
    }

    #[test]
    fn all_requirements_have_to_be_met() {
        let both = [
            Requirement::Exists("team".into()),
            Requirement::Exists("absent".into()),
        ];
        assert!(!Selector::new(both).matches(&labels()));
        assert!(Selector::default().matches(&labels()));
    }
}

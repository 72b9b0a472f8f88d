//! Resources into the domain's types.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt as _};
use pullpass_core::glob::Glob;
use pullpass_core::key::{KeyError, RegistryKey};
use pullpass_core::policy::Namespace;
use pullpass_core::registry::{
    ClusterAccess, CredentialKind, Injection, NamespaceAccess, NodeAccess, Registry,
};
use pullpass_core::selector::{Requirement, Selector};

use crate::registry as resource;
use crate::selector::{LabelOperator, LabelSelector};

/// Why a Registry cannot be used although the API server took it; the message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistry {
    /// The host cannot be a key of a docker config.
    #[error("spec.host: {0}")]
    Host(#[from] KeyError),
    /// A private registry without access to any namespace, or the like. The API server refuses these; an object that was
    /// stored before the rule existed may still hold one.
    #[error("{0}")]
    Incomplete(&'static str),
}

/// A Registry as the decisions see it.
///
/// # Errors
/// A resource that contradicts itself. It selects nothing until it is corrected.
pub fn registry(resource: &resource::Registry) -> Result<Registry, InvalidRegistry> {
    let spec = &resource.spec;
    let key = spec
        .host
        .as_deref()
        .map(RegistryKey::for_registry_host)
        .transpose()?;
    let access = spec.access.clone().unwrap_or_default();
    let credential = match (spec.r#type, &spec.auth, access.pull_secret) {
        (resource::Visibility::Public, _, _) => CredentialKind::None,
        (resource::Visibility::Private, _, Some(secret)) => CredentialKind::HeldByNamespace {
            pull_secret: secret.name,
        },
        (resource::Visibility::Private, Some(_), None) => CredentialKind::Copied,
        (resource::Visibility::Private, None, None) => {
            return Err(InvalidRegistry::Incomplete(
                "spec.auth: a private registry needs a credential, or spec.access.pullSecret where each namespace holds one",
            ));
        }
    };
    let takes_every_entry = spec
        .auth
        .as_ref()
        .is_some_and(|auth| auth.docker_config.is_some());
    if key.is_none() && !takes_every_entry {
        return Err(InvalidRegistry::Incomplete(
            "spec.host: may be left out only with spec.auth.dockerConfig",
        ));
    }
    let injection = match spec.injection {
        resource::Injection::Always => Injection::Always,
        resource::Injection::WhenImageMatches if key.is_none() => {
            return Err(InvalidRegistry::Incomplete(
                "spec.host: may not be left out with spec.injection: WhenImageMatches",
            ));
        }
        resource::Injection::WhenImageMatches => Injection::WhenImageMatches,
    };
    Ok(Registry {
        name: resource.name_any(),
        created: resource
            .meta()
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
        key,
        credential,
        clusters: access.clusters.map(clusters).unwrap_or_default(),
        namespaces: access.namespaces.map(namespaces).unwrap_or_default(),
        injection,
        priority: spec.priority,
        nodes: match access.nodes {
            resource::NodeAccess::Auto => NodeAccess::Auto,
            resource::NodeAccess::Allow => NodeAccess::Allow,
            resource::NodeAccess::Deny => NodeAccess::Deny,
        },
    })
}

fn clusters(access: resource::ClusterAccess) -> ClusterAccess {
    ClusterAccess {
        auto_inject: globs(access.auto_inject),
        do_not_inject: globs(access.do_not_inject),
    }
}

fn namespaces(access: resource::NamespaceAccess) -> NamespaceAccess {
    let selector = access.selector.map(selector).unwrap_or_default();
    let include = match access.include {
        Some(include) => include,
        None if selector.is_empty() => Vec::new(),
        None => vec!["*".into()],
    };
    NamespaceAccess {
        include: globs(include),
        exclude: globs(access.exclude),
        selector,
    }
}

fn globs(patterns: Vec<String>) -> Vec<Glob> {
    patterns.into_iter().map(Glob::new).collect()
}

fn selector(selector: LabelSelector) -> Selector {
    let labels = selector
        .match_labels
        .into_iter()
        .map(|(key, value)| Requirement::In(key, BTreeSet::from([value])));
    let expressions = selector.match_expressions.into_iter().map(|requirement| {
        let values = requirement.values.into_iter().collect();
        match requirement.operator {
            LabelOperator::In => Requirement::In(requirement.key, values),
            LabelOperator::NotIn => Requirement::NotIn(requirement.key, values),
            LabelOperator::Exists => Requirement::Exists(requirement.key),
            LabelOperator::DoesNotExist => Requirement::DoesNotExist(requirement.key),
        }
    });
    Selector::new(labels.chain(expressions))
}

/// A namespace as the decisions see it, from its metadata alone.
pub fn namespace(object: &PartialObjectMeta<NamespaceObject>) -> Namespace {
    Namespace {
        name: object.name_any(),
        labels: object.labels().clone(),
        terminating: object.meta().deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pullpass_core::policy::{Policy, grant};
    use rstest::rstest;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn resource(spec: Value) -> resource::Registry {
        serde_json::from_value(json!({
            "apiVersion": "pullpass.dev/v1alpha1",
            "kind": "Registry",
            "metadata": {"name": "acme", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
        }))
        .unwrap()
    }

    fn private(namespaces: Value) -> resource::Registry {
        resource(json!({
            "host": "registry.example.com",
            "auth": {"basic": {"secretRef": {"name": "acme"}}},
            "access": {"namespaces": namespaces},
        }))
    }

    fn selects(resource: &resource::Registry, name: &str, label: Option<(&str, &str)>) -> bool {
        let policy = Policy {
            registries: vec![Arc::new(registry(resource).unwrap())],
            ..Policy::default()
        };
        let labels = label
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect();
        !grant(
            &Namespace {
                name: name.into(),
                labels,
                terminating: false,
            },
            &policy,
        )
        .is_empty()
    }

    #[rstest]
    #[case(json!({"include": ["*"]}), true, true)]
    #[case(json!({"include": ["team-a"]}), true, true)]
    #[case(json!({"include": ["other"]}), false, false)]
    #[case(json!({"include": []}), false, false)]
    #[case(json!({}), false, false)]
    #[case(json!({"selector": {}}), false, false)]
    #[case(json!({"selector": {"matchLabels": {"pull": "yes"}}}), false, true)]
    #[case(json!({"selector": {"matchExpressions": [{"key": "pull", "operator": "Exists"}]}}), false, true)]
    #[case(json!({"include": ["other"], "selector": {"matchLabels": {"pull": "yes"}}}), false, false)]
    fn what_is_left_out_selects_nothing(
        #[case] access: Value,
        #[case] plain: bool,
        #[case] labelled: bool,
    ) {
        let resource = private(access);
        assert_eq!(selects(&resource, "team-a", None), plain);
        assert_eq!(
            selects(&resource, "team-a", Some(("pull", "yes"))),
            labelled
        );
    }

    #[test]
    fn a_private_registry_without_access_selects_nothing() {
        let resource = resource(json!({
            "host": "registry.example.com",
            "auth": {"basic": {"secretRef": {"name": "acme"}}},
        }));
        assert!(!selects(&resource, "team-a", None));
    }

    #[rstest]
    #[case(json!({"host": "https:registry", "auth": {"basic": {"secretRef": {"name": "a"}}}}), "spec.host: the port")]
    #[case(json!({"host": "registry.example.com"}), "spec.auth")]
    #[case(json!({"auth": {"basic": {"secretRef": {"name": "a"}}}}), "spec.host: may be left out only")]
    #[case(json!({"access": {"pullSecret": {"name": "a"}}}), "spec.host: may be left out only")]
    #[case(json!({"injection": "WhenImageMatches", "auth": {"dockerConfig": {"secretRef": {"name": "a"}}}}), "spec.host: may not be left out")]
    fn contradictions_are_named(#[case] spec: Value, #[case] message: &str) {
        let error = registry(&resource(spec)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[rstest]
    #[case(json!({}), CredentialKind::Copied)]
    #[case(json!({"type": "Public", "auth": null}), CredentialKind::None)]
    #[case(json!({"access": {"pullSecret": {"name": "regcred"}}}), CredentialKind::HeldByNamespace { pull_secret: "regcred".into() })]
    #[case(json!({"auth": null, "access": {"pullSecret": {"name": "regcred"}}}), CredentialKind::HeldByNamespace { pull_secret: "regcred".into() })]
    fn a_pull_secret_of_the_namespace_is_used_instead_of_a_copy(
        #[case] changes: Value,
        #[case] expected: CredentialKind,
    ) {
        let mut spec = json!({
            "host": "registry.example.com",
            "auth": {"basic": {"secretRef": {"name": "acme"}}},
        });
        let fields = changes.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(fields);
        assert_eq!(registry(&resource(spec)).unwrap().credential, expected);
    }

    #[rstest]
    #[case(json!({}), Injection::Always)]
    #[case(json!({"injection": "Always"}), Injection::Always)]
    #[case(json!({"injection": "WhenImageMatches"}), Injection::WhenImageMatches)]
    fn injection_is_always_unless_asked(#[case] changes: Value, #[case] expected: Injection) {
        let mut spec =
            json!({"host": "registry.example.com", "access": {"pullSecret": {"name": "regcred"}}});
        let fields = changes.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(fields);
        assert_eq!(registry(&resource(spec)).unwrap().injection, expected);
    }

    #[test]
    fn defaults_are_those_of_the_schema() {
        let resource = private(json!({"include": ["*"]}));
        let basic = resource.spec.auth.unwrap().basic.unwrap();
        assert_eq!(
            (basic.username_key.as_str(), basic.password_key.as_str()),
            ("username", "password")
        );
    }
}

//! Resources into the domain's types.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt as _};
use pullpass_core::glob::Glob;
use pullpass_core::key::{KeyError, RegistryKey};
use pullpass_core::policy::Namespace;
use pullpass_core::provider::{self, AuthKind, Mismatch, Provider};
use pullpass_core::registry::{
    ClusterAccess, CredentialKind, Injection, NamespaceAccess, NodeAccess, Registry,
};
use pullpass_core::selector::{Requirement, Selector};

use crate::registry::{
    self as resource, Auth, AwsKeysAuth, AwsRoleAuth, AzureServicePrincipalAuth,
    AzureWorkloadIdentityAuth, BasicAuth, DockerConfigAuth, GcpServiceAccountKeyAuth,
    GcpWorkloadIdentityAuth, RegistrySpec,
};
use crate::selector::{LabelOperator, LabelSelector};

/// Why a Registry cannot be used although the API server took it; the message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistry {
    /// The host cannot be a key of a docker config.
    #[error("spec.host: {0}")]
    Host(#[from] KeyError),
    /// Provider, host and kind of credential do not go together.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
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
    let key = key(spec)?;
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
    let method = spec.auth.as_ref().map(auth).transpose()?;
    let takes_every_entry = matches!(method, Some(AuthMethod::DockerConfig(_)));
    if key.is_none() && !takes_every_entry {
        return Err(InvalidRegistry::Incomplete(
            "spec.host: may be left out only with spec.auth.dockerConfig",
        ));
    }
    provider(resource)?;
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

/// The one way to log in that `spec.auth` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod<'a> {
    /// A user name and a password or token.
    Basic(&'a BasicAuth),
    /// A docker config.
    DockerConfig(&'a DockerConfigAuth),
    /// An access key of AWS.
    AwsKeys(&'a AwsKeysAuth),
    /// A role of AWS.
    AwsRole(&'a AwsRoleAuth),
    /// The JSON key of a Google service account.
    GcpServiceAccountKey(&'a GcpServiceAccountKeyAuth),
    /// An identity at Google.
    GcpWorkloadIdentity(&'a GcpWorkloadIdentityAuth),
    /// A service principal of Microsoft Entra.
    AzureServicePrincipal(&'a AzureServicePrincipalAuth),
    /// An application of Microsoft Entra that trusts the controller's service account.
    AzureWorkloadIdentity(&'a AzureWorkloadIdentityAuth),
}

impl<'a> AuthMethod<'a> {
    /// Which one it is.
    pub fn kind(self) -> AuthKind {
        match self {
            Self::Basic(_) => AuthKind::Basic,
            Self::DockerConfig(_) => AuthKind::DockerConfig,
            Self::AwsKeys(_) => AuthKind::AwsKeys,
            Self::AwsRole(_) => AuthKind::AwsRole,
            Self::GcpServiceAccountKey(_) => AuthKind::GcpServiceAccountKey,
            Self::GcpWorkloadIdentity(_) => AuthKind::GcpWorkloadIdentity,
            Self::AzureServicePrincipal(_) => AuthKind::AzureServicePrincipal,
            Self::AzureWorkloadIdentity(_) => AuthKind::AzureWorkloadIdentity,
        }
    }

    /// The name of the Secret that it reads; `None` for those that need none.
    pub fn secret_name(self) -> Option<&'a str> {
        let secret = match self {
            Self::Basic(auth) => &auth.secret_ref,
            Self::DockerConfig(auth) => &auth.secret_ref,
            Self::AwsKeys(auth) => &auth.secret_ref,
            Self::GcpServiceAccountKey(auth) => &auth.secret_ref,
            Self::AzureServicePrincipal(auth) => &auth.secret_ref,
            Self::AwsRole(_) | Self::GcpWorkloadIdentity(_) | Self::AzureWorkloadIdentity(_) => {
                return None;
            }
        };
        Some(&secret.name)
    }
}

/// The one way to log in that `spec.auth` names.
///
/// # Errors
/// None, or more than one. The API server refuses these; a field that a newer version knows looks like none.
pub fn auth(auth: &Auth) -> Result<AuthMethod<'_>, InvalidRegistry> {
    let Auth {
        basic,
        docker_config,
        aws_keys,
        aws_role,
        gcp_service_account_key,
        gcp_workload_identity,
        azure_service_principal,
        azure_workload_identity,
    } = auth;
    let mut given = [
        basic.as_ref().map(AuthMethod::Basic),
        docker_config.as_ref().map(AuthMethod::DockerConfig),
        aws_keys.as_ref().map(AuthMethod::AwsKeys),
        aws_role.as_ref().map(AuthMethod::AwsRole),
        gcp_service_account_key
            .as_ref()
            .map(AuthMethod::GcpServiceAccountKey),
        gcp_workload_identity
            .as_ref()
            .map(AuthMethod::GcpWorkloadIdentity),
        azure_service_principal
            .as_ref()
            .map(AuthMethod::AzureServicePrincipal),
        azure_workload_identity
            .as_ref()
            .map(AuthMethod::AzureWorkloadIdentity),
    ]
    .into_iter()
    .flatten();
    match (given.next(), given.next()) {
        (Some(method), None) => Ok(method),
        (None, _) => Err(InvalidRegistry::Incomplete(
            "spec.auth names no way to log in that this version of Pullpass knows",
        )),
        (Some(_), Some(_)) => Err(InvalidRegistry::Incomplete(
            "spec.auth names more than one way to log in: keep one of them",
        )),
    }
}

/// The key of the spec's host, where it names one.
fn key(spec: &RegistrySpec) -> Result<Option<RegistryKey>, KeyError> {
    spec.host
        .as_deref()
        .map(RegistryKey::for_registry_host)
        .transpose()
}

/// The kind of registry that a resource describes.
///
/// # Errors
/// Provider, host and kind of credential that do not go together.
pub fn provider(resource: &resource::Registry) -> Result<Provider, InvalidRegistry> {
    let spec = &resource.spec;
    let key = key(spec)?;
    let kind = spec
        .auth
        .as_ref()
        .map(|given| auth(given).map(AuthMethod::kind));
    Ok(provider::provider(
        key.as_ref(),
        spec.provider.map(Into::into),
        kind.transpose()?,
    )?)
}

impl From<resource::Provider> for Provider {
    fn from(provider: resource::Provider) -> Self {
        match provider {
            resource::Provider::DockerHub => Self::DockerHub,
            resource::Provider::ECR => Self::Ecr,
            resource::Provider::ECRPublic => Self::EcrPublic,
            resource::Provider::ACR => Self::Acr,
            resource::Provider::ArtifactRegistry => Self::ArtifactRegistry,
            resource::Provider::GCR => Self::Gcr,
            resource::Provider::GHCR => Self::Ghcr,
            resource::Provider::GitLab => Self::GitLab,
            resource::Provider::Quay => Self::Quay,
            resource::Provider::Harbor => Self::Harbor,
            resource::Provider::Other => Self::Other,
        }
    }
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
    #[case(json!({"host": "registry.example.com", "auth": {}}), "spec.auth names no way")]
    #[case(json!({"auth": {"awsRole": {}}}), "spec.host: may be left out only")]
    #[case(json!({"auth": {"basic": {"secretRef": {"name": "a"}}}}), "spec.host: may be left out only")]
    #[case(json!({"access": {"pullSecret": {"name": "a"}}}), "spec.host: may be left out only")]
    #[case(json!({"injection": "WhenImageMatches", "auth": {"dockerConfig": {"secretRef": {"name": "a"}}}}), "spec.host: may not be left out")]
    fn contradictions_are_named(#[case] spec: Value, #[case] message: &str) {
        let error = registry(&resource(spec)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[rstest]
    #[case(json!({"basic": {"secretRef": {"name": "s"}}}), Some("s"))]
    #[case(json!({"dockerConfig": {"secretRef": {"name": "s"}}}), Some("s"))]
    #[case(json!({"awsKeys": {"secretRef": {"name": "s"}}}), Some("s"))]
    #[case(json!({"awsRole": {}}), None)]
    #[case(json!({"gcpServiceAccountKey": {"secretRef": {"name": "s"}}}), Some("s"))]
    #[case(json!({"gcpWorkloadIdentity": {}}), None)]
    #[case(json!({"azureServicePrincipal": {"tenantId": "t", "clientId": "c", "secretRef": {"name": "s"}}}), Some("s"))]
    #[case(json!({"azureWorkloadIdentity": {"tenantId": "t", "clientId": "c"}}), None)]
    fn each_way_to_log_in_names_its_secret(#[case] given: Value, #[case] secret: Option<&str>) {
        let parsed: Auth = serde_json::from_value(given.clone()).unwrap();
        assert_eq!(auth(&parsed).unwrap().secret_name(), secret);
        let mut two = given;
        let other = if two.get("basic").is_some() {
            "awsRole"
        } else {
            "basic"
        };
        two[other] = json!({"secretRef": {"name": "other"}});
        let parsed: Auth = serde_json::from_value(two).unwrap();
        let error = auth(&parsed).unwrap_err().to_string();
        assert!(error.contains("more than one"), "{error}");
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

    #[rstest]
    #[case(json!({"provider": "Harbor"}), Ok("Harbor"))]
    #[case(json!({"host": "ghcr.io/acme"}), Ok("GHCR"))]
    #[case(json!({"host": "ghcr.io/acme", "provider": "GHCR"}), Ok("GHCR"))]
    #[case(json!({"host": "ghcr.io/acme", "provider": "Quay"}), Err("write GHCR"))]
    #[case(json!({"auth": {"awsRole": {}}}), Err("spec.auth.awsRole is for ECR and ECRPublic"))]
    #[case(json!({"host": "acme.azurecr.io", "auth": {"azureWorkloadIdentity": {"tenantId": "t", "clientId": "c"}}}), Ok("ACR"))]
    fn the_provider_is_told_by_the_host_unless_it_is_given(
        #[case] changes: Value,
        #[case] expected: Result<&str, &str>,
    ) {
        let mut spec = json!({
            "host": "registry.example.com",
            "auth": {"basic": {"secretRef": {"name": "acme"}}},
            "access": {"namespaces": {"include": ["*"]}},
        });
        let fields = changes.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(fields);
        let resource = resource(spec);
        match expected {
            Ok(name) => assert_eq!(provider(&resource).unwrap().as_str(), name),
            Err(message) => {
                let error = registry(&resource).unwrap_err().to_string();
                assert!(error.contains(message), "{error}");
            }
        }
    }

    #[test]
    fn every_provider_of_the_schema_is_one_of_the_domain() {
        for known in Provider::ALL {
            let given: resource::Provider = serde_json::from_value(json!(known.as_str())).unwrap();
            assert_eq!(Provider::from(given), known);
        }
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

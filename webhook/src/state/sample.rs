//! A registry for tests of the state.

use pullpass_core::glob::Glob;
use pullpass_core::key::RegistryKey;
use pullpass_core::registry::{
    ClusterAccess, CredentialKind, Injection, NamespaceAccess, Registry,
};

pub(crate) fn registry(name: &str, include: &[&str]) -> Registry {
    Registry {
        name: name.into(),
        created: 0,
        key: Some(RegistryKey::parse("registry.example.com").unwrap()),
        credential: CredentialKind::Copied,
        clusters: ClusterAccess::default(),
        namespaces: NamespaceAccess {
            include: include.iter().map(|&glob| Glob::new(glob)).collect(),
            ..NamespaceAccess::default()
        },
        injection: Injection::default(),
        priority: 0,
    }
}

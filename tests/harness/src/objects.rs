//! Small pieces that many tests put objects together from.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Error;

/// The namespace that Pullpass is installed in.
pub const SYSTEM_NAMESPACE: &str = "pullpass-system";

/// The namespace of the node agents.
pub const NODES_NAMESPACE: &str = "pullpass-nodes";

/// The name of the Secret and of the PullAccess that every selected namespace has.
pub const PULL_SECRET: &str = "pullpass";

/// Metadata with a name alone.
pub fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// A map of strings.
pub fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A Secret of a type, with these keys.
pub fn secret(name: &str, type_: &str, data: &[(&str, &str)]) -> Secret {
    Secret {
        metadata: named(name),
        type_: Some(type_.to_owned()),
        data: Some(
            data.iter()
                .map(|&(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// A Secret with a user name and a password, as `auth.basic` reads it.
pub fn basic_secret(name: &str, username: &str, password: &str) -> Secret {
    secret(
        name,
        "Opaque",
        &[("username", username), ("password", password)],
    )
}

/// Standard base64.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Takes "it is there already" for success.
pub(crate) fn ignore_existing<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes "it is not there" for success.
pub(crate) fn ignore_missing<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

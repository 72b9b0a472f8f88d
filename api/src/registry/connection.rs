//! How to reach a registry.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretReference;

/// How Pullpass reaches a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Whom to trust as the registry. Where it is left out, mode Secure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Which way to go. Where it is left out, the proxy of the controller's environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)
    /// if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Mirrors that nodes ask before the registry itself, in this order, each by its base URL, such as
    /// https://mirror.example.com. tls counts for them too. Only the node agent uses them, for the container runtime
    /// (nodeAgent.runtimeTrust). A mirror that asks for a login is shown the pod's credential for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("self.all(url, url.matches('^https?://([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$'))")
        .message("connection.mirrors: write https://host or https://host:port/path, without a user, query or fragment"))]
    pub mirrors: Vec<String>,
}

/// Whom to trust as the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mode == 'SecureWithCA') == has(self.caSecretRef)")
        .message("tls: caSecretRef goes with mode: SecureWithCA and with no other, for example tls: {mode: SecureWithCA, caSecretRef: {name: my-ca}}"),
    validation = Rule::new("has(self.caSecretRef) || !has(self.caKey)")
        .message("tls: caKey is the key in the Secret of caSecretRef, which is missing")
)]
pub struct Tls {
    /// Secure: a certificate under an authority that is publicly trusted. SecureWithCA: or under one of those in the Secret
    /// of caSecretRef. Insecure: any certificate, and plain HTTP where the registry speaks no TLS; whoever is in between
    /// reads the credential.
    pub mode: TlsMode,
    /// The Secret with the authorities' certificates, in Pullpass's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretReference>,
    /// The Secret's key that holds the certificates, as PEM. Where it is left out, `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub ca_key: Option<String>,
}

/// How the registry's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Against the publicly trusted authorities.
    #[default]
    Secure,
    /// Against those and the given ones.
    SecureWithCA,
    /// Not at all.
    Insecure,
}

/// Which way to go to the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mode == 'Proxy') == has(self.url)")
        .message("via: url goes with mode: Proxy and with no other, for example via: {mode: Proxy, url: \"http://proxy.example.com:3128\"}"),
    validation = Rule::new("has(self.url) || !has(self.secretRef)")
        .message("via: secretRef is the login to the proxy at url, which is missing"),
    validation = Rule::new("has(self.secretRef) || (!has(self.usernameKey) && !has(self.passwordKey))")
        .message("via: usernameKey and passwordKey are keys in the Secret of secretRef, which is missing")
)]
pub struct Via {
    /// Direct: without a proxy, whatever the controller's environment says. Proxy: through the proxy at url.
    pub mode: ViaMode,
    /// The proxy: http:// or https://, host and port, without a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?/?$')")
        .message("via.url: write http://host:port or https://host:port; user and password go into the Secret of secretRef"))]
    pub url: Option<String>,
    /// The Secret with the login to the proxy, in Pullpass's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// The Secret's key that holds the user name. Where it is left out, `username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub username_key: Option<String>,
    /// The Secret's key that holds the password. Where it is left out, `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub password_key: Option<String>,
}

/// Whether a proxy stands between Pullpass and the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ViaMode {
    /// None.
    #[default]
    Direct,
    /// An HTTP or HTTPS proxy.
    Proxy,
}

//! Debian's registry, with a way to log in.

use std::path::{Path, PathBuf};

use http::{StatusCode, header};
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::process::Command;

use crate::authority::Authority;
use crate::process::{DOCKER_REGISTRY, Process};
use crate::token_service::TokenService;
use crate::{PASSWORD, USERNAME};

/// How the registry wants to be asked.
pub(crate) enum Auth<'a> {
    /// It does not.
    Nobody,
    /// By Basic, with the one user there is.
    Users,
    /// By Bearer, with tokens of the service.
    Tokens(&'a TokenService),
}

pub(crate) struct Registry {
    _process: Process,
    _directory: TempDir,
    host: String,
}

impl Registry {
    /// A registry without images, under an authority or without TLS.
    pub(crate) async fn start(auth: &Auth<'_>, authority: Option<&Authority>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        Self::run(directory, &data, auth, authority).await
    }

    /// A registry with the images that are in a directory.
    pub(crate) async fn start_on(
        data: &Path,
        auth: &Auth<'_>,
        authority: Option<&Authority>,
    ) -> Self {
        Self::run(tempfile::tempdir().unwrap(), data, auth, authority).await
    }

    async fn run(
        directory: TempDir,
        data: &Path,
        auth: &Auth<'_>,
        authority: Option<&Authority>,
    ) -> Self {
        let file = |name: &str, content: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": data},
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "http": {"addr": "127.0.0.1:0", "secret": "of this test"},
        });
        if let Some(authority) = authority {
            let pair = authority.server();
            config["http"]["tls"] = json!({
                "certificate": file("server.crt", &pair.certificate),
                "key": file("server.key", &pair.key),
            });
        }
        config["auth"] = match auth {
            Auth::Nobody => Value::Null,
            Auth::Users => {
                let hash = bcrypt::hash(PASSWORD, 4).unwrap();
                let users = file("htpasswd", &format!("{USERNAME}:{hash}\n"));
                json!({"htpasswd": {"realm": "test", "path": users}})
            }
            Auth::Tokens(service) => json!({"token": {
                "realm": service.url(),
                "service": TokenService::SERVICE,
                "issuer": TokenService::ISSUER,
                "rootcertbundle": file("tokens.crt", service.certificate()),
            }}),
        };
        if config["auth"].is_null() {
            config.as_object_mut().unwrap().remove("auth");
        }
        // JSON is YAML too
        let path = file("config.yml", &config.to_string());
        let mut command = Command::new(&*DOCKER_REGISTRY);
        command.arg("serve").arg(path);
        let mut process = Process::start(&mut command, directory.path().join("log"));
        let host = process
            .says(|log| {
                let (_, rest) = log.split_once("listening on ")?;
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
                Some(rest.get(..end)?.to_owned())
            })
            .await;
        Self {
            _process: process,
            _directory: directory,
            host,
        }
    }

    /// Address and port.
    pub(crate) fn host(&self) -> String {
        self.host.clone()
    }

    /// Pushes an image without layers under the tag `latest`.
    pub(crate) async fn push(&self, repository: &str, authority: &Authority) {
        let client = Client::builder()
            .tls_backend_preconfigured(authority.client_config())
            .no_proxy()
            .build()
            .unwrap();
        let base = format!("https://{}/v2/{repository}", self.host);
        let config =
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let digest: String = Sha256::digest(config)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let started = client
            .post(format!("{base}/blobs/uploads/"))
            .basic_auth(USERNAME, Some(PASSWORD))
            .send()
            .await
            .unwrap();
        assert_eq!(started.status(), StatusCode::ACCEPTED);
        let place = started.headers()[header::LOCATION].to_str().unwrap();
        let uploaded = client
            .put(format!("{place}&digest=sha256:{digest}"))
            .basic_auth(USERNAME, Some(PASSWORD))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(config.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(uploaded.status(), StatusCode::CREATED);
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(),
                "digest": format!("sha256:{digest}"),
            },
            "layers": [],
        });
        let pushed = client
            .put(format!("{base}/manifests/latest"))
            .basic_auth(USERNAME, Some(PASSWORD))
            .header(header::CONTENT_TYPE, kind)
            .body(manifest.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(pushed.status(), StatusCode::CREATED);
    }
}

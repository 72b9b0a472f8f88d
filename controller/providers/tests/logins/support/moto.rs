//! A simulated AWS: moto, from PyPI.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use url::Url;

/// A running moto. It ends with this value, or with the process.
pub(crate) struct Moto {
    url: Url,
    process: Child,
    _held_open: ChildStdin,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/moto");
        let install = Command::new(format!("{directory}/install"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(install.status.success(), "moto cannot be installed");
        let python = String::from_utf8(install.stdout).unwrap();
        let mut process = Command::new(python.trim())
            .arg(format!("{directory}/serve.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let held_open = process.stdin.take().unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let url = Url::parse(&format!("http://127.0.0.1:{}", port.trim())).unwrap();
        Self {
            url,
            process,
            _held_open: held_open,
        }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// A call of one of the services that take a form, without a signature: moto looks at none until told to.
    pub(crate) async fn call(&self, service: &str, form: &[(&str, &str)]) -> String {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=none"
        );
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let answer = client()
            .post(self.url.clone())
            .header("authorization", authorization)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{form:?}: {answer:?}");
        answer.text().await.unwrap()
    }

    /// From now on signatures and policies count.
    pub(crate) async fn enforce_policies(&self) {
        let answer = client()
            .post(self.url.join("/moto-api/reset-auth").unwrap())
            .body("0")
            .send()
            .await
            .unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(answer["status"], "ok");
    }
}

fn client() -> reqwest::Client {
    // another test may have been first
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::new()
}

impl Drop for Moto {
    fn drop(&mut self) {
        // gone already is as good
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

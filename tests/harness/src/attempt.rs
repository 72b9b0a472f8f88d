//! Single requests to the API server, as an attacker would send them.

use axum::http::{Method, Request};
use kube::{Client, Error};
use serde_json::Value;

use crate::must;

/// A request that may be refused.
#[derive(Clone, Debug)]
pub struct Attempt {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The HTTP status: 200 for every success.
    pub code: u16,
    /// What the API server said.
    pub text: String,
}

impl Outcome {
    /// Whether the request was answered with what it asked for.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether the API server refused it for the sake of rights or of a policy. Anything else, such as a missing object,
    /// proves nothing.
    pub fn was_refused(&self) -> bool {
        self.code == 403 || (self.code == 422 && self.text.contains("ValidatingAdmissionPolicy"))
    }
}

impl Attempt {
    /// A read. A watch is a read with `?watch=1&timeoutSeconds=1`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, "", None)
    }

    /// A creation.
    pub fn post(path: impl Into<String>, object: &Value) -> Self {
        Self::new(Method::POST, path, "application/json", Some(object))
    }

    /// An update.
    pub fn put(path: impl Into<String>, object: &Value) -> Self {
        Self::new(Method::PUT, path, "application/json", Some(object))
    }

    /// A server-side apply by `field_manager`, with force.
    pub fn apply(path: &str, field_manager: &str, object: &Value) -> Self {
        let path = format!("{path}?fieldManager={field_manager}&force=true");
        Self::new(
            Method::PATCH,
            path,
            "application/apply-patch+yaml",
            Some(object),
        )
    }

    /// A server-side apply by `field_manager` that takes no field from another manager.
    pub fn apply_unforced(path: &str, field_manager: &str, object: &Value) -> Self {
        Self::new(
            Method::PATCH,
            format!("{path}?fieldManager={field_manager}"),
            "application/apply-patch+yaml",
            Some(object),
        )
    }

    /// A merge patch.
    pub fn merge(path: impl Into<String>, patch: &Value) -> Self {
        Self::new(
            Method::PATCH,
            path,
            "application/merge-patch+json",
            Some(patch),
        )
    }

    /// A deletion, of a collection where the path names one.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path, "", None)
    }

    fn new(
        method: Method,
        path: impl Into<String>,
        content_type: &'static str,
        body: Option<&Value>,
    ) -> Self {
        Self {
            method,
            path: path.into(),
            content_type,
            body: body.map_or_else(Vec::new, |body| body.to_string().into_bytes()),
        }
    }

    /// Sends it as whoever the client is.
    pub async fn by(&self, client: &Client) -> Outcome {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path);
        if !self.content_type.is_empty() {
            request = request.header("Content-Type", self.content_type);
        }
        let request = must(request.body(self.body.clone()).map_err(Into::into));
        match client.request_text(request).await {
            Ok(text) => Outcome { code: 200, text },
            Err(Error::Api(status)) => Outcome {
                code: status.code,
                text: status.message.clone(),
            },
            Err(error) => must(Err(error.into())),
        }
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path, self.content_type)
    }
}

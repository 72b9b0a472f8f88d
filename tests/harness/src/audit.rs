//! The audit log: who asked the API server for what.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::must;

/// One request, as far as tests look at it. The meaning of the fields is that of `audit.k8s.io/v1` `Event`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// How far the request had got: a request is counted at `ResponseComplete`.
    stage: String,
    /// The verb, in lower case.
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// What it was about.
    #[serde(default)]
    pub object_ref: Option<ObjectRef>,
    /// How it ended.
    #[serde(default)]
    pub response_status: Option<ResponseStatus>,
    /// The path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// When it was answered.
    #[serde(rename = "stageTimestamp")]
    pub at: Timestamp,
    /// What admission noted about it, webhooks included.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// The user's name; for a service account `system:serviceaccount:<namespace>:<name>`.
    #[serde(default)]
    pub username: String,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ObjectRef {
    /// The resource in plural, such as `secrets`.
    #[serde(default)]
    pub resource: String,
    /// The subresource, empty where there is none.
    #[serde(default)]
    pub subresource: String,
    /// The namespace, empty where there is none.
    #[serde(default)]
    pub namespace: String,
    /// The object's name, empty where the request has none.
    #[serde(default)]
    pub name: String,
}

/// How a request ended.
#[derive(Clone, Debug, Deserialize)]
pub struct ResponseStatus {
    /// The HTTP status.
    #[serde(default)]
    pub code: u16,
}

impl Entry {
    /// Whether the request could change something.
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        ) && !self.request_uri.contains("dryRun=All")
    }

    /// Whether it was answered with a status of success.
    pub fn succeeded(&self) -> bool {
        self.response_status
            .as_ref()
            .is_some_and(|status| (200..300).contains(&status.code))
    }

    /// The resource, `secrets` or `registries/status`, or nothing where the request was about none.
    pub fn resource(&self) -> String {
        match &self.object_ref {
            None => String::new(),
            Some(object) if object.subresource.is_empty() => object.resource.clone(),
            Some(object) => format!("{}/{}", object.resource, object.subresource),
        }
    }

    /// The object's namespace, or nothing.
    pub fn namespace(&self) -> &str {
        self.object_ref
            .as_ref()
            .map_or("", |object| &object.namespace)
    }

    /// The object's name, or nothing.
    pub fn name(&self) -> &str {
        self.object_ref.as_ref().map_or("", |object| &object.name)
    }

    /// The request in a few words, for a test's message.
    pub fn summary(&self) -> String {
        let code = self
            .response_status
            .as_ref()
            .map_or(0, |status| status.code);
        format!(
            "{} {} {}/{} by {}: {code}",
            self.verb,
            self.resource(),
            self.namespace(),
            self.name(),
            self.user.username
        )
    }
}

/// The audit log from a moment on.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
    inode: u64,
    offset: u64,
}

impl AuditLog {
    pub(crate) fn from_now(cluster: &Cluster) -> Result<Self> {
        let path = cluster.audit_log();
        let about = std::fs::metadata(&path)
            .with_context(|| format!("no audit log at {}", path.display()))?;
        Ok(Self {
            path,
            inode: about.ino(),
            offset: about.len(),
        })
    }

    /// All requests that were answered since, in the order of their answers.
    pub fn entries(&self) -> Vec<Entry> {
        must(self.read())
    }

    /// The requests of one user that could change something, except those on leases and events: the first are the
    /// heartbeat of a leader, the second tell and change nothing.
    pub fn writes_of(&self, username: &str) -> Vec<Entry> {
        self.entries()
            .into_iter()
            .filter(|entry| entry.user.username == username && entry.is_write())
            .filter(|entry| !matches!(entry.resource().as_str(), "leases" | "events"))
            .collect()
    }

    fn read(&self) -> Result<Vec<Entry>> {
        let mut text = String::new();
        let current = File::open(&self.path)
            .with_context(|| format!("no audit log at {}", self.path.display()))?;
        if current.metadata()?.ino() == self.inode {
            read_from(current, self.offset, &mut text)?;
        } else {
            let (rotated, path) = self.rotated()?;
            read_from(rotated, self.offset, &mut text)
                .with_context(|| format!("cannot read {}", path.display()))?;
            read_from(current, 0, &mut text)?;
        }
        text.lines()
            // the last line may be half written
            .filter(|line| line.ends_with('}'))
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("no audit event: {line}"))
            })
            .filter(|entry: &Result<Entry>| {
                entry
                    .as_ref()
                    .map_or(true, |entry| entry.stage == "ResponseComplete")
            })
            .collect()
    }

    /// The file that was the current one at the mark.
    fn rotated(&self) -> Result<(File, PathBuf)> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.metadata()?.ino() == self.inode {
                return Ok((File::open(entry.path())?, entry.path()));
            }
        }
        anyhow::bail!(
            "the audit log {} was rotated more than once or replaced during the test",
            self.path.display()
        )
    }
}

fn read_from(mut file: File, offset: u64, into: &mut String) -> Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_to_string(into)?;
    Ok(())
}

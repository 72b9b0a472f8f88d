//! The local cluster's private registry and its users.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cluster::Cluster;
use crate::lock::{Lock, Mode};
use crate::{must, name, objects};

/// The cheapest cost that bcrypt knows: these passwords protect nothing, and the registry checks one at every request.
const BCRYPT_COST: u32 = 4;

/// The registry of a full cluster.
#[derive(Clone, Debug)]
pub struct ImageRegistry {
    cluster: String,
    host: String,
    authority: Option<PathBuf>,
    htpasswd: PathBuf,
    first: User,
    second: User,
}

/// A user of the registry.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name to log in with.
    pub name: String,
    /// The password to log in with.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl User {
    /// The docker config by which this user logs in to `host`.
    pub fn docker_config(&self, host: &str) -> String {
        let auth = objects::base64(format!("{}:{}", self.name, self.password));
        json!({"auths": {host: {"username": self.name, "password": self.password, "auth": auth}}})
            .to_string()
    }
}

impl ImageRegistry {
    /// Reads what the cluster says about its registry.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let path = cluster.directory().join("registry.env");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("the cluster {} has no registry", cluster.name()))?;
        let variables = assignments(&text);
        let variable = |name: &str| {
            variables
                .get(name)
                .cloned()
                .with_context(|| format!("{} does not set {name}", path.display()))
        };
        Ok(Self {
            cluster: cluster.name().to_owned(),
            host: variable("REGISTRY")?,
            authority: variables.get("REGISTRY_CA").map(PathBuf::from),
            htpasswd: PathBuf::from(variable("REGISTRY_HTPASSWD")?),
            first: User {
                name: variable("REGISTRY_USERNAME")?,
                password: variable("REGISTRY_PASSWORD")?,
            },
            second: User {
                name: variable("REGISTRY_USERNAME_2")?,
                password: variable("REGISTRY_PASSWORD_2")?,
            },
        })
    }

    /// `host:port` as a pod's image names it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The certificate authority that clients have to trust, where there is one.
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// The first of the two users that are always there. Tests only read it; what changes a user makes its own.
    pub fn first_user(&self) -> &User {
        &self.first
    }

    /// The second user, with equal rights.
    pub fn second_user(&self) -> &User {
        &self.second
    }

    /// Makes a user with a password of its own and the rights of the others.
    pub async fn new_user(&self) -> User {
        let user = User {
            name: name::unique("user"),
            password: name::unique("password"),
        };
        self.set_password(&user).await;
        user
    }

    /// Gives a user a new password, from which on the old one is refused.
    pub async fn change_password(&self, user: &User) -> User {
        let changed = User {
            name: user.name.clone(),
            password: name::unique("password"),
        };
        self.set_password(&changed).await;
        changed
    }

    async fn set_password(&self, user: &User) {
        must(self.write_password(user).await);
    }

    async fn write_password(&self, user: &User) -> Result<()> {
        let hash = bcrypt::hash(&user.password, BCRYPT_COST).context("cannot hash a password")?;
        let lock_name = format!("{}-htpasswd", self.cluster);
        let _lock = Lock::take(&lock_name, Mode::Exclusive).await?;
        let before = std::fs::read_to_string(&self.htpasswd)
            .with_context(|| format!("cannot read {}", self.htpasswd.display()))?;
        let own = format!("{}:", user.name);
        let mut lines: Vec<&str> = before
            .lines()
            .filter(|line| !line.starts_with(&own))
            .collect();
        let line = format!("{own}{hash}");
        lines.push(&line);
        // the registry reads the file at any time, so it has to be whole at any time
        let next = self.htpasswd.with_extension("next");
        let mut file = std::fs::File::create(&next)?;
        file.write_all(lines.join("\n").as_bytes())?;
        file.write_all(b"\n")?;
        drop(file);
        std::fs::rename(&next, &self.htpasswd)
            .with_context(|| format!("cannot replace {}", self.htpasswd.display()))
    }
}

/// Reads shell assignments, with or without quotes around the value.
fn assignments(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches("export ").split_once('='))
        .map(|(name, value)| {
            let value = value.trim_matches(|c| c == '\'' || c == '"');
            (name.to_owned(), value.to_owned())
        })
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_assignments_are_read_in_every_spelling() {
        let read = assignments("A=1\nexport B='two words'\nC=\"x=y\"\n# no assignment\nD=\n");
        let expected = [("A", "1"), ("B", "two words"), ("C", "x=y")];
        assert_eq!(read, objects::strings(&expected));
    }
}

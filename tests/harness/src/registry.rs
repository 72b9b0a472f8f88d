//! The local cluster's private registry and its users.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cluster::Cluster;
use crate::lock::{Lock, Mode};
use crate::{canary, must, name, objects};

/// The registry of a full cluster.
#[derive(Clone, Debug)]
pub struct ImageRegistry {
    cluster: Cluster,
    host: String,
    authority: Option<PathBuf>,
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
            cluster: cluster.clone(),
            host: variable("REGISTRY")?,
            authority: variables.get("REGISTRY_CA").map(PathBuf::from),
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
            password: canary::password(),
        };
        self.set_password(&user).await;
        user
    }

    /// Gives a user a new password, from which on the old one is refused.
    pub async fn change_password(&self, user: &User) -> User {
        let changed = User {
            name: user.name.clone(),
            password: canary::password(),
        };
        self.set_password(&changed).await;
        changed
    }

    async fn set_password(&self, user: &User) {
        // two at once would each write the list of users without the other's change
        let name = format!("{}-users", self.cluster.name());
        let _lock = must(Lock::take(&name, Mode::Exclusive).await);
        must(
            self.cluster
                .set_registry_password(&user.name, &user.password)
                .await,
        );
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

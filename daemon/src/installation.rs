//! What an administrator sets for a whole installation, and every daemon that decides has to know alike.

use std::collections::BTreeSet;

/// The flags that say where Pullpass runs and what its names are. Flatten them into the daemon's own.
#[derive(Clone, Debug, clap::Args)]
pub struct Installation {
    /// Pullpass's own namespace
    #[arg(
        long,
        env = "PULLPASS_NAMESPACE",
        value_name = "NAME",
        default_value = "pullpass-system"
    )]
    pub namespace: String,

    /// This cluster's name, which Registries can be limited to
    #[arg(
        long,
        env = "PULLPASS_CLUSTER_NAME",
        value_name = "NAME",
        default_value = ""
    )]
    cluster_name: String,

    /// Name of the pull secret in each selected namespace
    #[arg(
        long,
        env = "PULLPASS_PULL_SECRET_NAME",
        value_name = "NAME",
        default_value = "pullpass"
    )]
    pub pull_secret_name: String,

    /// System namespaces that Registries may select, each by its exact name
    #[arg(
        long,
        env = "PULLPASS_SYSTEM_NAMESPACES",
        value_name = "NAME,…",
        value_delimiter = ','
    )]
    system_namespaces: Vec<String>,
}

impl Installation {
    /// This cluster's name, where an administrator has given it one.
    pub fn cluster_name(&self) -> Option<String> {
        Some(self.cluster_name.clone()).filter(|name| !name.is_empty())
    }

    /// The system namespaces that Registries may select.
    pub fn system_namespaces(&self) -> BTreeSet<String> {
        self.system_namespaces
            .iter()
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        installation: Installation,
    }

    fn parse(args: &[&str]) -> Installation {
        Flags::try_parse_from([&["daemon"], args].concat())
            .unwrap()
            .installation
    }

    #[test]
    fn what_a_chart_leaves_empty_is_unset() {
        for args in [&[][..], &["--cluster-name=", "--system-namespaces="]] {
            let installation = parse(args);
            assert_eq!(installation.cluster_name(), None);
            assert!(installation.system_namespaces().is_empty());
            assert_eq!(installation.namespace, "pullpass-system");
        }
    }

    #[test]
    fn names_are_taken_over() {
        let installation = parse(&[
            "--cluster-name=prod",
            "--system-namespaces=kube-system, own",
        ]);
        assert_eq!(installation.cluster_name().as_deref(), Some("prod"));
        let expected = ["kube-system", "own"].map(str::to_owned);
        assert_eq!(installation.system_namespaces(), BTreeSet::from(expected));
    }
}

//! What containerd's configuration says about where it looks for registries' hosts.

use toml_edit::{DocumentMut, Item};

/// What of containerd's configuration matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerdConfig {
    /// The directories that are searched for a host's, in order; `None` where nothing is said about the plugin that has
    /// them. Where they are none, hosts are not read from files, unless it is containerd 2.2 or newer, which has a default.
    pub(crate) config_path: Option<Vec<String>>,
    /// Patterns of further files, which overwrite what this one says of a plugin.
    pub(crate) imports: Vec<String>,
}

/// The configuration is no TOML. Its content is not repeated: it may hold credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("containerd's configuration is no TOML")]
pub(crate) struct ContainerdConfigError;

/// The places of `config_path`, by the version of the configuration: of containerd 1 and of containerd 2.
const REGISTRY_SECTIONS: [&str; 2] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];

/// Reads containerd's configuration.
///
/// # Errors
/// What containerd would not start with either.
pub(crate) fn containerd_config(content: &str) -> Result<ContainerdConfig, ContainerdConfigError> {
    let document: DocumentMut = content.parse().map_err(|_| ContainerdConfigError)?;
    let sections: Vec<&Item> = REGISTRY_SECTIONS
        .iter()
        .filter_map(|section| document.get("plugins")?.get(section))
        .collect();
    let directories = sections
        .iter()
        .filter_map(|section| section.get("registry")?.get("config_path")?.as_str())
        .flat_map(|path| path.split(':'))
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect();
    let imports = document.get("imports").and_then(Item::as_array);
    Ok(ContainerdConfig {
        config_path: (!sections.is_empty()).then_some(directories),
        imports: imports
            .into_iter()
            .flatten()
            .filter_map(|import| import.as_str().map(str::to_owned))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n", &["/etc/containerd/certs.d"], &[])]
    #[case("version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n", &["/etc/containerd/certs.d", "/etc/docker/certs.d"], &["/etc/containerd/conf.d/*.toml"])]
    #[case("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"\"\n", &[], &[])]
    #[case("", &[], &[])]
    fn containerds_configuration_is_read(
        #[case] content: &str,
        #[case] config_path: &[&str],
        #[case] imports: &[&str],
    ) {
        let config = containerd_config(content).unwrap();
        assert_eq!(config.config_path.unwrap_or_default(), config_path);
        assert_eq!(config.imports, imports);
    }

    #[test]
    fn what_is_no_toml_is_refused_without_its_content() {
        let error = containerd_config("password = CANARY").unwrap_err();
        assert!(!error.to_string().contains("CANARY"));
    }

    proptest! {
        #[test]
        fn no_configuration_panics(content in any::<String>()) {
            let _ = containerd_config(&content);
        }
    }
}

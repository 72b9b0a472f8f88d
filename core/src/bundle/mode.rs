//! The two ways in which nodes hand credentials to kubelet.

use std::fmt;

/// How nodes hand credentials to kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In kubelet's docker config file, which serves every pod of the node alike.
    #[default]
    DockerConfig,
    /// By a credential provider plugin, which kubelet tells the pod's namespace.
    CredentialProvider,
}

impl Mode {
    /// As flags and chart values spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DockerConfig => "dockerConfig",
            Self::CredentialProvider => "credentialProvider",
        }
    }
}

/// No mode is called that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mode is dockerConfig or credentialProvider")]
pub struct UnknownMode;

impl std::str::FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        [Self::DockerConfig, Self::CredentialProvider]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or(UnknownMode)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! The ports of registries that kubelet asks a credential provider plugin about: the node agent tells kubelet, and the
//! controller tells which Registries nodes serve.

/// The flag for them. Flatten it into the daemon's own.
#[derive(Clone, Debug, clap::Args)]
pub struct ProviderPorts {
    /// Ports of registries that kubelet asks the plugin about, beside those without a port
    #[arg(
        long,
        env = "PULLPASS_PROVIDER_PORTS",
        value_name = "PORT,…",
        value_delimiter = ','
    )]
    provider_ports: Vec<u16>,
}

impl ProviderPorts {
    /// The ports, as they were given.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.provider_ports.iter().copied()
    }
}

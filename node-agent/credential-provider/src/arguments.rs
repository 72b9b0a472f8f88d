//! What kubelet calls the plugin with: the `args` of its entry in the provider configuration.

use std::ffi::OsString;
use std::path::PathBuf;

/// How many characters a configuration's name may have.
const MAX_CONFIGURATION: usize = 64;

const STORE: &str = "--store=";
const CONFIGURATION: &str = "--configuration=";

/// The plugin's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The directory that the agent keeps the bundles in.
    pub store: PathBuf,
    /// Which configuration these arguments are of. Kubelet reads its configuration once, when it starts; by this name the
    /// agent knows which one it has read.
    pub configuration: String,
}

/// Arguments that no agent of Pullpass has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "kubelet runs this program with --store=DIRECTORY and --configuration=NAME: let the node agent write the provider configuration"
)]
pub struct ArgumentsError;

impl Arguments {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// Anything but the two, in either order.
    pub fn parse(given: impl Iterator<Item = OsString>) -> Result<Self, ArgumentsError> {
        let (mut store, mut configuration) = (None, None);
        for argument in given {
            let argument = argument.into_string().map_err(|_| ArgumentsError)?;
            let unset = if let Some(directory) = argument.strip_prefix(STORE) {
                store.replace(PathBuf::from(directory)).is_none()
            } else if let Some(name) = argument.strip_prefix(CONFIGURATION) {
                configuration.replace(name.to_owned()).is_none()
            } else {
                false
            };
            if !unset {
                return Err(ArgumentsError);
            }
        }
        match (store, configuration) {
            (Some(store), Some(configuration))
                if store.is_absolute() && is_name(&configuration) =>
            {
                Ok(Self {
                    store,
                    configuration,
                })
            }
            _ => Err(ArgumentsError),
        }
    }

    /// The arguments as the provider configuration has them.
    pub fn to_args(&self) -> Vec<String> {
        vec![
            format!("{STORE}{}", self.store.display()),
            format!("{CONFIGURATION}{}", self.configuration),
        ]
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_CONFIGURATION).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn parse(given: &[&str]) -> Result<Arguments, ArgumentsError> {
        Arguments::parse(given.iter().map(OsString::from))
    }

    #[test]
    fn what_is_written_is_read() {
        let arguments = Arguments {
            store: "/var/lib/pullpass".into(),
            configuration: "0a1b".into(),
        };
        let written = arguments.to_args();
        assert_eq!(
            Arguments::parse(written.iter().map(OsString::from)),
            Ok(arguments)
        );
    }

    #[rstest]
    #[case(&[])]
    #[case(&["--store=/s"])]
    #[case(&["--configuration=a"])]
    #[case(&["--store=/s", "--configuration="])]
    #[case(&["--store=s", "--configuration=a"])]
    #[case(&["--store=/s", "--configuration=../a"])]
    #[case(&["--store=/s", "--configuration=a", "--configuration=b"])]
    #[case(&["--store=/s", "--configuration=a", "--help"])]
    fn other_arguments_are_refused(#[case] given: &[&str]) {
        assert_eq!(parse(given), Err(ArgumentsError));
    }
}

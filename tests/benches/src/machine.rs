//! What a run was made on.

use std::fs;

use serde::{Deserialize, Serialize};

/// A machine, in words that may stand in a document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's model.
    pub(crate) processor: String,
    /// How many processors this process may use.
    pub(crate) processors: usize,
    /// Memory, in GiB.
    pub(crate) memory_gib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory: u64 = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|size| size.strip_suffix("kB")?.trim().parse().ok())
            .unwrap_or_default();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or("unknown")
                .to_owned(),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            memory_gib: memory.div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The value behind `name :`, of the first line that has it.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: A Processor\nmodel name\t: Another\n";
        assert_eq!(field(text, "model name"), Some("A Processor"));
        assert_eq!(field(text, "name"), None);
    }
}

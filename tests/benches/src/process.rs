//! Programs that are measured: each a process of its own, so that nothing of the load's counts as theirs.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::thread::CpuSet;

use crate::checkout;

/// The processors of this machine that the measurements use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processors {
    /// The one that a measured server has for itself, where there are at least two.
    server: Option<usize>,
}

impl Processors {
    /// Keeps the first one free for servers, and this process on all others.
    pub(crate) fn divide() -> Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let mut all = (0..CpuSet::MAX_CPU).filter(|&index| allowed.is_set(index));
        let (Some(server), Some(second)) = (all.next(), all.next()) else {
            return Ok(Self { server: None });
        };
        let mut others = CpuSet::new();
        others.set(second);
        all.for_each(|index| others.set(index));
        rustix::thread::sched_setaffinity(None, &others)?;
        Ok(Self {
            server: Some(server),
        })
    }

    /// Keeps none free.
    pub(crate) fn shared() -> Self {
        Self { server: None }
    }

    /// A command that runs `program` on the servers' processor.
    pub(crate) fn for_server(self, program: &Path) -> Command {
        match self.server {
            // from the beginning: a runtime sizes itself by the processors that it finds when it starts
            Some(index) => {
                let mut command = Command::new("taskset");
                command
                    .args(["--cpu-list", &index.to_string()])
                    .arg(program);
                command
            }
            None => Command::new(program),
        }
    }
}

/// A running process; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it; what it prints goes to `target/bench/<log>.log`.
    pub(crate) fn start(mut command: Command, log: &str) -> Result<Self> {
        let path = checkout::output()?.join(format!("{log}.log"));
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    /// Fails where it has ended already.
    pub(crate) fn is_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("it ended ({status}): see the logs in target/bench"),
        }
    }

    /// Processor time of all its threads since it started, in user and kernel mode.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let ticks = ticks(&stat).context("/proc/<pid>/stat is not as proc(5) has it")?;
        let ticks_per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok(Duration::from_secs(ticks) / ticks_per_second)
    }

    /// A line of `/proc/<pid>/status` that is a size, in bytes.
    pub(crate) fn memory(&self, line: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        size(&status, line).with_context(|| format!("/proc/<pid>/status has no {line}"))
    }
}

/// The 14th and 15th field, counted after the command's name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let kernel: u64 = times.next()?.parse().ok()?;
    Some(user + kernel)
}

fn size(status: &str, line: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|each| each.strip_prefix(line)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 100 1000 10";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (x) S 1"), None);
    }

    #[test]
    fn sizes_are_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        assert_eq!(size(status, "VmRSS"), Some(1024 * 1024));
        assert_eq!(size(status, "VmHWM"), Some(2048 * 1024));
        assert_eq!(size(status, "Threads"), None);
    }

    #[test]
    fn a_running_process_can_be_measured() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let mut process = Process::start(command, "a-running-process-can-be-measured").unwrap();
        process.is_running().unwrap();
        assert!(process.memory("VmRSS").unwrap() > 0);
        assert!(process.cpu_time().unwrap() < Duration::from_secs(60));
    }
}

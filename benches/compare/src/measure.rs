//! Runs a workload under an allocator, by way of the measuring program.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::allocators::{Allocator, Role};
use crate::workloads::Workload;

/// What one run of a whole program used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds that passed.
    pub wall: f64,
    /// Seconds of CPU in the program and its children.
    pub user: f64,
    /// Seconds of CPU in the kernel on their behalf.
    pub system: f64,
    /// The peak resident size of the largest process, in KiB.
    pub rss_kib: u64,
    /// Page faults served without reading.
    pub minor: u64,
    /// Page faults served by reading.
    pub major: u64,
    /// How the program failed; empty if it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure: String,
    /// What the program printed, as a hash.
    #[serde(default)]
    pub output: u64,
}

/// Measures programs.
pub struct Measurer {
    /// The measuring program.
    pub program: PathBuf,
    /// Where outputs and sockets go.
    pub scratch: PathBuf,
    /// Seconds after which a run counts as hung.
    pub timeout: u64,
    /// glibc's own library, for programs that are linked to another allocator.
    pub libc: Option<PathBuf>,
}

impl Measurer {
    /// Runs a workload once.
    pub fn run(&self, workload: &Workload, allocator: &Allocator) -> Result<Sample> {
        let output = self.scratch.join("output");
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            )
            .env("HOME", &self.scratch)
            .env("TMPDIR", &self.scratch)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("PYTHONHASHSEED", "0")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PERL_HASH_SEED", "0")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs(workload.environment.iter().cloned())
            .envs(allocator.environment.iter().cloned())
            .current_dir(&self.scratch)
            .arg("--stdout")
            .arg(&output)
            .args(["--repeat", &workload.repeat.to_string()])
            .args(["--timeout", &self.timeout.to_string()]);
        if let Some(library) = self.preload(workload, allocator) {
            command.arg("--preload").arg(library);
        }
        if let Some(input) = &workload.stdin {
            command.args(["--stdin", input]);
        }
        if let Some(driver) = &workload.driver {
            command.args(["--driver", driver]);
        }
        command.arg("--");
        match (&allocator.program, workload.command.split_first()) {
            (Some(own), Some((_, arguments))) => command.arg(own).args(arguments),
            _ => command.args(&workload.command),
        };
        let result = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        if !result.status.success() {
            bail!(
                "{} of {}: {}",
                self.program.display(),
                workload.name,
                result.status
            );
        }
        let mut sample: Sample = serde_json::from_slice(&result.stdout)
            .with_context(|| format!("the measurement of {} is no JSON", workload.name))?;
        sample.output = hash(&output)?;
        Ok(sample)
    }

    fn preload<'a>(&'a self, workload: &Workload, allocator: &'a Allocator) -> Option<&'a Path> {
        match allocator.role {
            Role::Baseline | Role::Again if workload.bundled => self.libc.as_deref(),
            _ => allocator.library.as_deref(),
        }
    }
}

fn hash(path: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&std::fs::read(path)?);
    Ok(hasher.finish())
}

/// The C library that this process runs on.
pub fn own_libc() -> Option<PathBuf> {
    std::fs::read_to_string("/proc/self/maps")
        .ok()?
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.ends_with("/libc.so.6"))
        .map(PathBuf::from)
}

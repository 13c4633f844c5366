//! The tools: how each is switched on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cases::Language;
use crate::allocators::{find_program, output_of};

/// One tool, or none.
pub struct Tool {
    pub name: &'static str,
    /// The package that it comes from.
    package: &'static str,
    /// Flags for the compiler.
    flags: &'static [&'static str],
    /// What the program is run under.
    wrapper: &'static [&'static str],
    /// A library to preload.
    library: Option<PathBuf>,
    /// Environments: a program is run once in each, and it is caught if it is in one.
    pub environments: Vec<Vec<(&'static str, &'static str)>>,
    /// What is added for the timed run.
    pub timed: &'static [(&'static str, &'static str)],
}

/// The driver programs, compiled for one tool.
pub struct Drivers {
    c: PathBuf,
    cxx: PathBuf,
}

impl Drivers {
    pub fn of(&self, language: Language) -> &Path {
        match language {
            Language::C => &self.c,
            Language::Cxx => &self.cxx,
            Language::Rust => unreachable!("no tool here takes the Rust programs"),
        }
    }
}

/// Where distributions keep a library of this name.
fn library(name: &str) -> Option<PathBuf> {
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .map(|directory| Path::new(directory).join(name))
        .into_iter()
        .find(|path| path.exists())
}

/// Scudo with GWP-ASan in it, as LLVM packages it.
fn scudo() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = (14..30)
        .flat_map(|version| {
            let base = format!("/usr/lib/llvm-{version}/lib/clang");
            std::fs::read_dir(base).into_iter().flatten().flatten()
        })
        .map(|entry| {
            entry
                .path()
                .join("lib/linux/libclang_rt.scudo_standalone-x86_64.so")
        })
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop()
}

/// All tools, those that cannot be had included.
pub fn all(fencepost: &Path) -> Vec<Tool> {
    let plain = |name, package| Tool {
        name,
        package,
        flags: &[],
        wrapper: &[],
        library: None,
        environments: vec![Vec::new()],
        timed: &[],
    };
    vec![
        plain("glibc alone", ""),
        Tool {
            library: Some(fencepost.to_path_buf()),
            environments: vec![
                vec![("FENCEPOST_GUARD", "1"), ("FENCEPOST_GUARD_ALIGN", "right")],
                vec![("FENCEPOST_GUARD", "1"), ("FENCEPOST_GUARD_ALIGN", "left")],
            ],
            timed: &[("FENCEPOST_GUARD_LEAKS", "0")],
            ..plain("fencepost", "")
        },
        Tool {
            library: library("libefence.so.0"),
            environments: vec![
                vec![("EF_ALLOW_MALLOC_0", "1"), ("EF_ALIGNMENT", "16")],
                vec![
                    ("EF_ALLOW_MALLOC_0", "1"),
                    ("EF_ALIGNMENT", "16"),
                    ("EF_PROTECT_BELOW", "1"),
                ],
            ],
            ..plain("Electric Fence", "electric-fence")
        },
        Tool {
            library: library("libduma.so.0"),
            environments: vec![
                vec![("DUMA_ALIGNMENT", "16"), ("DUMA_MALLOC_FAILEXIT", "0")],
                vec![
                    ("DUMA_ALIGNMENT", "16"),
                    ("DUMA_MALLOC_FAILEXIT", "0"),
                    ("DUMA_PROTECT_BELOW", "1"),
                ],
            ],
            ..plain("DUMA", "duma")
        },
        Tool {
            wrapper: &[
                "valgrind",
                "-q",
                "--error-exitcode=99",
                "--leak-check=full",
                "--errors-for-leak-kinds=definite,indirect",
            ],
            ..plain("valgrind", "valgrind")
        },
        Tool {
            flags: &["-fsanitize=address"],
            environments: vec![vec![(
                "ASAN_OPTIONS",
                "detect_leaks=1:allocator_may_return_null=1",
            )]],
            timed: &[("ASAN_OPTIONS", "detect_leaks=0")],
            ..plain("AddressSanitizer", "gcc")
        },
        Tool {
            library: scudo(),
            environments: vec![vec![(
                "SCUDO_OPTIONS",
                "GWP_ASAN_Enabled=1:GWP_ASAN_SampleRate=1:GWP_ASAN_MaxSimultaneousAllocations=1000",
            )]],
            timed: &[(
                "SCUDO_OPTIONS",
                "GWP_ASAN_Enabled=1:GWP_ASAN_SampleRate=1:GWP_ASAN_MaxSimultaneousAllocations=150000",
            )],
            ..plain("GWP-ASan", "libclang-rt-dev")
        },
    ]
}

impl Tool {
    /// Compiles the drivers as this tool wants them, or says why it cannot be had.
    pub fn prepare(&self, sources: &Path, directory: &Path) -> Result<Drivers> {
        let missing = || format!("install {}", self.package);
        if self.library.is_none()
            && matches!(self.package, "electric-fence" | "duma" | "libclang-rt-dev")
        {
            anyhow::bail!(missing());
        }
        if let Some(&wrapper) = self.wrapper.first() {
            find_program(wrapper).with_context(missing)?;
        }
        let compile = |compiler: &str, source: &str| -> Result<PathBuf> {
            let program = directory.join(format!("{source}-{}", self.name.replace(' ', "-")));
            let status = Command::new(compiler)
                .args(["-O1", "-g", "-fno-builtin", "-w", "-pthread"])
                .args(self.flags)
                .arg(sources.join(source))
                .arg("-o")
                .arg(&program)
                .env_remove("LD_PRELOAD")
                .status()
                .with_context(|| format!("{compiler} cannot be started"))?;
            ensure!(status.success(), "{compiler} fails on {source}");
            Ok(program)
        };
        Ok(Drivers {
            c: compile("cc", "driver.c")?,
            cxx: compile("c++", "driver.cc")?,
        })
    }

    /// The version, and where it comes from.
    pub fn version(&self) -> String {
        let query = ["-W", "-f", "${Version}", self.package];
        match self.name {
            "fencepost" => env!("CARGO_PKG_VERSION").to_owned(),
            "glibc alone" => output_of("getconf", &["GNU_LIBC_VERSION"])
                .unwrap_or_default()
                .replace("glibc ", ""),
            "AddressSanitizer" => format!(
                "of gcc {}",
                output_of("gcc", &["-dumpfullversion"]).unwrap_or_default()
            ),
            "GWP-ASan" => {
                let path = self.library.iter().flat_map(|path| path.iter());
                let version = path
                    .filter_map(|part| part.to_str())
                    .find_map(|part| part.strip_prefix("llvm-"));
                format!("in Scudo of LLVM {}", version.unwrap_or("unknown"))
            }
            _ => output_of("dpkg-query", &query).unwrap_or_else(|| "unknown".into()),
        }
    }

    /// A run of a program under this tool.
    pub fn command(&self, program: &Path, environment: &[(&str, &str)]) -> Command {
        let mut command = match self.wrapper {
            [] => Command::new(program),
            [wrapper, rest @ ..] => {
                let mut command = Command::new(wrapper);
                command.args(rest).arg(program);
                command
            }
        };
        command.env_remove("LD_PRELOAD");
        if let Some(library) = &self.library {
            command.env("LD_PRELOAD", library);
        }
        command.envs(environment.iter().copied());
        command
    }
}

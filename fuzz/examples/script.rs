//! Scripts of the fuzz targets: printed, carried out, made small.
//!
//! ```text
//! script print TARGET FILE    what the bytes of FILE stand for
//! script run TARGET FILE      carries out the script in FILE
//! script bytes TARGET FILE... carries out the bytes of each FILE
//! script shrink TARGET FILE   leaves out lines of the script in FILE as long as it still fails
//! ```

use fencepost_fuzz::targets::{Target, find};
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, name, files @ ..] = &arguments[..] else {
        eprintln!("usage: script print|run|bytes|shrink TARGET FILE...");
        return ExitCode::from(2);
    };
    let Some(target) = find(name) else {
        eprintln!("no target: {name}");
        return ExitCode::from(2);
    };
    for file in files {
        if let Err(why) = act(what, target, file) {
            eprintln!("{file}: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn act(what: &str, target: Target, file: &str) -> Result<(), String> {
    let file = if file == "-" { "/dev/stdin" } else { file };
    let bytes = std::fs::read(file).map_err(|e| e.to_string())?;
    let text = || String::from_utf8(bytes.clone()).map_err(|e| e.to_string());
    match what {
        "print" => print!("{}", (target.print)(&bytes)),
        "bytes" => (target.run)(&bytes),
        "run" => (target.replay)(&text()?)?,
        "shrink" => print!("{}", shrink(target.name, &text()?)?),
        _ => return Err(format!("cannot {what}")),
    }
    Ok(())
}

/// Whether a process that carries the lines out dies.
fn fails(target: &str, lines: &[&str]) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .args(["run", target, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut input = child.stdin.take().ok_or("no pipe")?;
    // A child that died already does not read.
    let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
    drop(input);
    let status = child.wait().map_err(|e| e.to_string())?;
    // 1 and 2 say that there is no such script.
    Ok(!matches!(status.code(), Some(0..=2)))
}

fn shrink(target: &str, text: &str) -> Result<String, String> {
    let code = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    let mut lines: Vec<&str> = text.lines().filter(code).collect();
    if !fails(target, &lines)? {
        return Err("this does not fail".into());
    }
    let mut size = lines.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < lines.len() {
            let end = (at + size).min(lines.len());
            let fewer = [&lines[..at], &lines[end..]].concat();
            if fails(target, &fewer)? {
                lines = fewer;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    Ok(lines.join("\n") + "\n")
}

//! Becomes another program: execve(2) with the process left as it is.
//!
//! `std::process::Command` would set SIGPIPE back to its default; a program
//! run by `nohup` or under `trap '' PIPE` must find it as it was.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::ptr;

/// Replaces this process by the program at `path`, with `arguments` (the
/// first is its own name) and `environment`. Returns only if that fails, with
/// the reason.
pub fn exec(
    path: &Path,
    arguments: &[OsString],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> io::Error {
    let prepare = || -> io::Result<_> {
        let path = c_string(path.as_os_str())?;
        let arguments = arguments
            .iter()
            .map(|argument| c_string(argument))
            .collect::<io::Result<Vec<_>>>()?;
        let environment = environment
            .into_iter()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                c_string(&name)
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok((path, arguments, environment))
    };
    let (path, arguments, environment) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let arguments = pointers(&arguments);
    let environment = pointers(&environment);
    // SAFETY: all three point at strings that end in a zero byte and outlive
    // the call, and both arrays end in a null pointer.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.to_os_string().into_vec())?)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let mut pointers: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
    pointers.push(ptr::null());
    pointers
}

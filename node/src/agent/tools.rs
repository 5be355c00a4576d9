//! The tools that a session may have in a task without a shell: the host's
//! static busybox.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

/// Where Debian, Ubuntu and Alpine have it.
const PLACES: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Longest list of names; busybox has some 400, of 8 letters.
const LIST_BYTES_MAX: u64 = 16 << 10;

/// An ELF file's kind of segment that names an interpreter: what a static
/// program does not have.
const PT_INTERP: u32 = 3;

/// The program and the names of its tools.
pub(super) struct Tools {
    pub(super) program: File,
    pub(super) names: Vec<String>,
}

/// Finds them; why there are none, for people.
pub(super) fn find() -> Result<Tools, String> {
    let mut why = String::from("there is no busybox on this node");
    for place in PLACES.map(Path::new) {
        match open(place) {
            Ok(tools) => return Ok(tools),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => why = format!("{} can't be used: {error}", place.display()),
        }
    }
    Err(why)
}

fn open(path: &Path) -> io::Result<Tools> {
    let program = File::open(path)?;
    if !is_static(&program)? {
        return Err(io::Error::other("it is not a static program"));
    }
    let mut child = Command::new(path)
        .arg("--list")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut text = String::new();
    let read = match child.stdout.take() {
        Some(output) => output.take(LIST_BYTES_MAX).read_to_string(&mut text),
        None => Ok(0),
    };
    // It has said enough; it may still want to say more.
    let _ = child.kill();
    child.wait()?;
    read?;
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
    Ok(Tools {
        program,
        names: names.map(String::from).collect(),
    })
}

/// A 64-bit ELF file of this machine's byte order without an interpreter.
fn is_static(file: &File) -> io::Result<bool> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if header[..5] != *b"\x7fELF\x02" {
        return Ok(false);
    }
    let half = |at: usize| u64::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let offset = u64::from_ne_bytes(header[32..40].try_into().expect("eight bytes"));
    let (size, count) = (half(54), half(56));
    for index in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, offset.saturating_add(index * size))?;
        if u32::from_ne_bytes(kind) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_interpreter_is_no_tool() {
        let own = File::open(std::env::current_exe().unwrap()).unwrap();
        let is_musl = cfg!(target_env = "musl");
        assert_eq!(is_static(&own).unwrap(), is_musl);
        let text = File::open("/etc/passwd").unwrap();
        assert!(!is_static(&text).unwrap());
        if let Ok(tools) = find() {
            assert!(
                tools.names.iter().any(|name| name == "sh"),
                "{:?}",
                tools.names
            );
        }
    }
}

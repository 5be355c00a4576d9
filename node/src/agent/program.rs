//! The helper's program on disk.
//!
//! Answers for a copy by content in the data folder, so that replacing potluck
//! never touches a program that runs, and for starting it.

use super::folders::Folders;
use potluck_helper::{TaskDescription, description::DESCRIPTION_FILE, supervise::ISOLATION};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const NAME: &str = "potluck-helper";

/// Copies the program to `helpers/<hash>/potluck-helper`, unless it is there.
pub(super) fn install(folders: &Folders, program: &Path) -> io::Result<PathBuf> {
    let bytes = fs::read(program)?;
    let hash = blake3::hash(&bytes).to_hex();
    let folder = folders.helpers().join(&hash.as_str()[..32]);
    let target = folder.join(NAME);
    if fs::read(&target).is_ok_and(|there| there == bytes) {
        return Ok(target);
    }
    fs::create_dir_all(&folder)?;
    let temporary = folder.join("new");
    fs::write(&temporary, &bytes)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, &target)?;
    Ok(target)
}

/// Writes the description into the folder of the start and starts a helper
/// with it. The helper detaches itself; it gets nothing from the agent but
/// this file's path.
pub(super) fn start(
    program: &Path,
    folder: &Path,
    description: &TaskDescription,
) -> io::Result<Child> {
    let file = folder.join(DESCRIPTION_FILE);
    description.write(&file)?;
    let errors = fs::File::create(folder.join("helper.err"))?;
    Command::new(program)
        .arg(&file)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
}

/// The strongest isolation that this host gives in full, and why no stronger
/// one, by trying it.
pub(super) fn isolation(folders: &Folders, program: &Path) -> io::Result<(String, Vec<String>)> {
    let folder = folders.probe();
    fs::create_dir_all(&folder)?;
    let output = Command::new(program)
        .arg(ISOLATION)
        .arg(&folder)
        .env_clear()
        .stdin(Stdio::null())
        .output();
    super::folders::remove(&folder);
    let text = String::from_utf8_lossy(&output?.stdout).into_owned();
    let mut lines = text.lines().map(String::from);
    let strongest = lines.next();
    let silent = || io::Error::other("the helper says nothing about isolation");
    Ok((strongest.ok_or_else(silent)?, lines.collect()))
}

/// What a helper that failed early wrote, for people.
pub(super) fn last_words(folder: &Path) -> Option<String> {
    /// A sentence; a helper writes nothing else.
    const BYTES_MAX: usize = 1_000;
    let text = fs::read_to_string(folder.join("helper.err")).ok()?;
    let text: String = text.trim().chars().take(BYTES_MAX).collect();
    (!text.is_empty()).then_some(text)
}

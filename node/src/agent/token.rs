//! A task's fencing token as a file in its folder, beside the variable
//! `POTLUCK_GENERATION`: for programs that are not given their parent's
//! environment, such as what a task's own supervisor or timer starts, and for
//! people in a session.

use potluck_specs::Generation;
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Names the file's place to the task.
pub(super) const VARIABLE: &str = "POTLUCK_GENERATION_FILE";

/// Hidden, so that a task that lists its folder finds its own files.
const NAME: &str = ".potluck-generation";

/// Where it is, in a task's folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// Writes it, replacing that of an earlier start. The folder may be the task's
/// own, which may have put anything there: no link is followed, and nothing
/// but these two names is touched.
pub(super) fn write(folder: &Path, generation: Generation) -> io::Result<()> {
    let temporary = folder.join(format!("{NAME}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&temporary)?;
    writeln!(file, "{generation}")?;
    // Whatever the umask took: it is no secret.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    file.set_permissions(mode)?;
    fs::rename(&temporary, path(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_token_is_written_anew_and_through_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "untouched").unwrap();
        let at = path(folder.path());
        for _ in 0..2 {
            write(folder.path(), Generation::default()).unwrap();
            let text = fs::read_to_string(&at).unwrap();
            assert_eq!(text, format!("{}\n", Generation::default()));
            // What a task may do with it before its next start.
            fs::remove_file(&at).unwrap();
            symlink(&other, &at).unwrap();
            symlink(&other, folder.path().join(".potluck-generation.new")).unwrap();
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        assert!(write(folder.path(), Generation::default()).is_err());
    }
}

//! The folder below which specs find what they load, and reading files in it.
//! Only the parent of the evaluation reads: the child that evaluates has no
//! access to files at all.

use crate::{
    evaluate::{Files, SOURCE_BYTES_MAX, Text},
    label::Label,
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Marks a root folder.
const ROOT_FILE: &str = "potluck.root";

/// A spec file that can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// There is no such file, or it can't be reached.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a pipe or a device.
    #[error("{} is not a regular file", .0.display())]
    NoFile(PathBuf),
    /// Its name is no name of a spec.
    #[error("{} is not the name of a spec: it ends in .star, and is plain text", .0.display())]
    Name(PathBuf),
    /// The root's mark is no file that can be read.
    #[error("can't read {}: {why}", path.display())]
    Mark {
        /// The mark.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The root's mark holds something else than a name.
    #[error("{} holds no name of a tree", .0.display())]
    RootName(PathBuf),
}

/// A root folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root {
    /// Without symbolic links.
    folder: PathBuf,
    /// The same as people reach it from where they are.
    shown: PathBuf,
}

/// Longest name of a tree.
const NAME_BYTES_MAX: usize = 100;

impl Root {
    /// The folder, without symbolic links.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What people call the tree: the first line of its `potluck.root` that is
    /// neither empty nor a comment.
    ///
    /// # Errors
    /// [`RootError::Mark`], [`RootError::RootName`].
    pub fn name(&self) -> Result<Option<String>, RootError> {
        let path = self.folder.join(ROOT_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = match text(&path) {
            Ok(text) => text,
            Err(why) => return Err(RootError::Mark { path, why }),
        };
        let mut lines = text.lines().map(str::trim);
        let Some(name) = lines.find(|line| !line.is_empty() && !line.starts_with('#')) else {
            return Ok(None);
        };
        let sign = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        let good = name.len() <= NAME_BYTES_MAX
            && name.bytes().all(sign)
            && name.split('/').all(|part| !part.is_empty());
        match good {
            true => Ok(Some(name.to_owned())),
            false => Err(RootError::RootName(path)),
        }
    }

    /// The root folder of a spec file, and the file's name in it: the nearest
    /// folder above it with a file `potluck.root`, else the nearest with a
    /// `.git`, else its own.
    ///
    /// # Errors
    /// Any [`RootError`].
    pub fn of(spec: &Path) -> Result<(Root, Label), RootError> {
        let read = |source| RootError::Read {
            path: spec.into(),
            source,
        };
        let file = spec.canonicalize().map_err(read)?;
        if !file.metadata().map_err(read)?.is_file() {
            return Err(RootError::NoFile(spec.into()));
        }
        let own = file.parent().unwrap_or(Path::new("/"));
        let marked = |name: &str| own.ancestors().find(|folder| folder.join(name).exists());
        if let Some(folder) = marked(ROOT_FILE).filter(|folder| folder.join(ROOT_FILE).is_dir()) {
            return Err(RootError::Mark {
                path: folder.join(ROOT_FILE),
                why: "it is a folder, and a root is marked by a file".into(),
            });
        }
        let folder = marked(ROOT_FILE).or_else(|| marked(".git")).unwrap_or(own);
        let inner = file.strip_prefix(folder).unwrap_or(&file);
        let label = inner.to_str().and_then(Label::from_path);
        let label = label.ok_or_else(|| RootError::Name(spec.into()))?;
        let root = Root {
            shown: shown(spec, inner, folder),
            folder: folder.into(),
        };
        Ok((root, label))
    }
}

/// The root as the spec's own path leads to it: `../lib` stays `../lib`.
fn shown(spec: &Path, inner: &Path, folder: &Path) -> PathBuf {
    let mut shown = spec.to_path_buf();
    for _part in inner.components() {
        if !shown.pop() {
            return folder.into();
        }
    }
    // A link on the way would make it another folder.
    let here = if shown.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &shown
    };
    match here.canonicalize() {
        Ok(same) if same == folder => shown,
        _ => folder.into(),
    }
}

impl Files for Root {
    fn read(&mut self, label: &Label) -> Result<Text, String> {
        let path = self.folder.join(label.path());
        let file = path.canonicalize().map_err(|error| told(&error))?;
        // A symbolic link may lead anywhere.
        if !file.starts_with(&self.folder) {
            return Err("it lies outside the root folder".into());
        }
        let name = self.shown.join(label.path());
        Ok(Text {
            name: name.to_string_lossy().into_owned(),
            text: text(&file)?,
        })
    }
}

fn text(file: &Path) -> Result<String, String> {
    let metadata = file.metadata().map_err(|error| told(&error))?;
    // Opening a pipe or a device could block, or give another text each time.
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let file = File::open(file).map_err(|error| told(&error))?;
    let mut bytes = Vec::new();
    file.take(SOURCE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| told(&error))?;
    if bytes.len() > SOURCE_BYTES_MAX {
        let mib = SOURCE_BYTES_MAX >> 20;
        return Err(format!("it is longer than {mib} MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("it is not UTF-8 text: see its line {line}")
    })
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "it may not be read".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_nearest_mark_counts() {
        for (files, label) in [
            (&["a/b/x.star"][..], "x.star"),
            (&["a/b/x.star", "potluck.root"], "a/b/x.star"),
            (
                &["a/b/x.star", "potluck.root", "a/potluck.root"],
                "b/x.star",
            ),
            (&["a/b/x.star", ".git/HEAD"], "a/b/x.star"),
            // A potluck.root counts before a .git that is nearer.
            (&["a/b/x.star", "a/.git/HEAD", "potluck.root"], "a/b/x.star"),
        ] {
            let files: Vec<(&str, &str)> = files.iter().map(|path| (*path, "")).collect();
            let folder = folder(&files);
            let (mut root, found) = Root::of(&folder.path().join("a/b/x.star")).unwrap();
            assert_eq!(found.path(), label);
            assert!(root.read(&found).unwrap().name.ends_with("a/b/x.star"));
        }
    }

    #[test]
    fn nothing_outside_is_read() {
        let outer = folder(&[
            ("secret.star", "x = 1"),
            ("in/potluck.root", ""),
            ("in/a.star", ""),
        ]);
        symlink("../secret.star", outer.path().join("in/link.star")).unwrap();
        symlink("..", outer.path().join("in/up")).unwrap();
        symlink("a.star", outer.path().join("in/b.star")).unwrap();
        let (mut root, _) = Root::of(&outer.path().join("in/a.star")).unwrap();
        let mut read = |path: &str| root.read(&Label::from_path(path).unwrap());
        assert!(read("link.star").unwrap_err().contains("outside"));
        assert!(read("up/secret.star").unwrap_err().contains("outside"));
        assert!(read("gone.star").unwrap_err().contains("no such file"));
        assert_eq!(read("b.star").unwrap().text, "");
    }

    #[test]
    fn what_is_no_text_file() {
        let folder = folder(&[("a.star", "")]);
        fs::write(folder.path().join("b.star"), [b'#', b'\n', 0xff]).unwrap();
        fs::write(folder.path().join("c.star"), vec![b'#'; (1 << 20) + 1]).unwrap();
        fs::create_dir(folder.path().join("d.star")).unwrap();
        let (mut root, _) = Root::of(&folder.path().join("a.star")).unwrap();
        for (path, why) in [
            ("b.star", "not UTF-8 text: see its line 2"),
            ("c.star", "longer than 1 MiB"),
            ("d.star", "not a regular file"),
        ] {
            let error = root.read(&Label::from_path(path).unwrap()).unwrap_err();
            assert!(error.contains(why), "{path}: {error}");
        }
        assert!(matches!(Root::of(folder.path()), Err(RootError::NoFile(_))));
        fs::create_dir(folder.path().join("potluck.root")).unwrap();
        let marked = Root::of(&folder.path().join("a.star"));
        assert!(matches!(marked, Err(RootError::Mark { .. })));
        fs::remove_dir(folder.path().join("potluck.root")).unwrap();
        let gone = Root::of(Path::new("/nothing/here.star"));
        assert!(matches!(gone, Err(RootError::Read { .. })));
        let unnamed = folder.path().join("x.txt");
        fs::write(&unnamed, "").unwrap();
        assert!(matches!(Root::of(&unnamed), Err(RootError::Name(_))));
    }
}

//! The packages of a task as they lie on this host, and how they go together.
//!
//! The program's package is what a task sees at `/package`. A further one that
//! names this place is laid over it: what both have is the further one's. Any
//! other is mounted at its own place. A file or link in the place of a folder
//! is refused: neither could be what its package means.

use super::PackageProvider;
use potluck_helper::{
    PACKAGE_AT,
    description::{Mounted, MountedFrom},
};
use potluck_specs::{NodeId, PackageId, job::MountedPackage};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Unpacked packages, not to be written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Trees(BTreeMap<PackageId, PathBuf>);

/// How a task's packages go into its root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// At `/package`.
    pub(super) program: PathBuf,
    /// Over it, the lowest first.
    pub(super) layers: Vec<PathBuf>,
    /// Elsewhere.
    pub(super) mounts: Vec<Mounted>,
}

impl Trees {
    /// Has all of them brought here.
    ///
    /// # Errors
    /// Which can't be had, and why, for people.
    pub(super) async fn fetch(
        packages: &dyn PackageProvider,
        wanted: Vec<PackageId>,
        holders: Vec<NodeId>,
    ) -> Result<Trees, String> {
        let mut trees = BTreeMap::new();
        let several = wanted.len() > 1;
        for id in wanted {
            let tree = packages.ensure(id, holders.clone()).await;
            let tree = tree.map_err(|why| match several {
                true => format!("{id}: {why}"),
                false => why,
            })?;
            trees.insert(id, tree);
        }
        Ok(Trees(trees))
    }

    /// Looks at files only where trees lie on each other.
    ///
    /// # Errors
    /// What does not go together, for people.
    pub(super) fn layout(
        &self,
        program: PackageId,
        further: &[MountedPackage],
    ) -> Result<Layout, String> {
        let tree = |id: PackageId| {
            let tree = self.0.get(&id).cloned();
            tree.ok_or_else(|| format!("package {id} was not fetched"))
        };
        let mut layout = Layout {
            program: tree(program)?,
            layers: Vec::new(),
            mounts: Vec::new(),
        };
        let mut below = vec![program];
        for MountedPackage { at, package } in further {
            let upper = tree(*package)?;
            if at != PACKAGE_AT {
                layout.mounts.push(Mounted {
                    at: at.clone(),
                    from: MountedFrom::Host(upper),
                    read_only: true,
                });
                continue;
            }
            for lower in &below {
                let found = conflict(&tree(*lower)?, &upper, Path::new(""));
                let found = found.map_err(|error| format!("package {package}: {error}"))?;
                if let Some((path, lower_is, upper_is)) = found {
                    return Err(format!(
                        "{} is {lower_is} in package {lower} and {upper_is} in package {package}",
                        path.display(),
                    ));
                }
            }
            below.push(*package);
            layout.layers.push(upper);
        }
        Ok(layout)
    }
}

type Conflict = (PathBuf, &'static str, &'static str);

/// The first path that is a folder in one tree and not in the other.
fn conflict(lower: &Path, upper: &Path, at: &Path) -> io::Result<Option<Conflict>> {
    let mut entries: Vec<_> = fs::read_dir(upper.join(at))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = at.join(entry.file_name());
        let below = match fs::symlink_metadata(lower.join(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?.file_type(),
        };
        let above = entry.file_type()?;
        if below.is_dir() != above.is_dir() {
            return Ok(Some((path, kind(below), kind(above))));
        }
        if above.is_dir()
            && let Some(found) = conflict(lower, upper, &path)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn kind(file: fs::FileType) -> &'static str {
    if file.is_dir() {
        "a folder"
    } else if file.is_symlink() {
        "a link"
    } else {
        "a file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const ONE: PackageId = PackageId([1; 32]);
    const TWO: PackageId = PackageId([2; 32]);

    fn further(at: &str, package: PackageId) -> MountedPackage {
        MountedPackage {
            at: at.into(),
            package,
        }
    }

    /// Files end with their content, links have an arrow, folders a slash.
    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in paths {
            let (path, link) = path.split_once("->").unwrap_or((path, ""));
            let at = folder.path().join(path.trim_end_matches('/'));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            if !link.is_empty() {
                symlink(link, at).unwrap();
            } else if path.ends_with('/') {
                fs::create_dir_all(at).unwrap();
            } else {
                fs::write(at, path).unwrap();
            }
        }
        folder
    }

    fn layout(one: &[&str], two: &[&str], at: &str) -> Result<Layout, String> {
        let (one, two) = (tree(one), tree(two));
        let trees = [(ONE, one.path().into()), (TWO, two.path().into())];
        Trees(trees.into()).layout(ONE, &[further(at, TWO)])
    }

    #[test]
    fn what_lies_over_the_program_must_go_together_with_it() {
        let program = ["bin/run", "lib/a", "share->/usr/share", "conf/"];
        let table: [(&[&str], &str); 7] = [
            (&["bin/run", "lib/b", "conf/x/y", "new/z"], ""),
            (&["share"], ""),
            (&["bin"], "bin is a folder in package 01"),
            (&["lib->/etc"], "and a link in package 02"),
            (&["lib/a/deep"], "lib/a is a file in package 01"),
            (&["share/doc"], "share is a link in package 01"),
            (&["conf->x", "z"], "conf is a folder"),
        ];
        for (other, wanted) in table {
            match layout(&program, other, "/package") {
                Ok(found) => {
                    assert_eq!((found.layers.len(), found.mounts.len()), (1, 0));
                    assert_eq!(wanted, "", "{other:?}");
                }
                Err(why) => {
                    assert!(
                        !wanted.is_empty() && why.contains(wanted),
                        "{other:?}: {why}"
                    );
                    assert!(
                        why.contains("01010101") && why.contains("02020202"),
                        "{why}"
                    );
                }
            }
            // Elsewhere it is alone.
            let apart = layout(&program, other, "/opt/other").unwrap();
            assert_eq!((apart.layers.len(), apart.mounts.len()), (0, 1));
            assert!(apart.mounts[0].read_only);
        }
    }

    #[test]
    fn a_package_that_was_not_fetched_is_no_empty_one() {
        let trees = Trees::default();
        assert!(trees.layout(ONE, &[]).unwrap_err().contains("not fetched"));
    }
}

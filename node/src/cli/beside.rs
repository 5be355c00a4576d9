//! Packages that lie beside a spec: are they there, may they be taken, and is
//! the command in them? Asked before anything is sent, of all jobs at once.
//!
//! A spec may come from anybody, and so may what it loads. Whoever runs it
//! should not send their home folder by it: what lies outside of the spec's
//! root folder is taken only with `--allow-outside`.

use super::exit::chain;
use crate::api::error::{ApiError, ErrorCode};
use potluck_specs::job::{JobDraft, PackageSource};
use potluck_starlark::{EvaluatedJob, Finding, FindingKind, Root};
use std::path::{Path, PathBuf};

/// Where packages are looked for.
pub(super) struct Place<'a> {
    /// Without symbolic links.
    pub(super) root: &'a Path,
    pub(super) spec: &'a Path,
    pub(super) allow_outside: bool,
}

/// The root folder of a spec.
///
/// # Errors
/// There is no such file, or it is no spec.
pub(super) fn root(spec: &Path) -> Result<Root, ApiError> {
    let found = Root::of(spec).map(|(root, _)| root);
    found.map_err(|error| ApiError::new(ErrorCode::NotFound, chain(&error)))
}

impl Place<'_> {
    /// The paths of a draft's packages that are on this machine.
    pub(super) fn packages(&self, draft: &JobDraft) -> Vec<PathBuf> {
        let further = draft.packages.iter().map(|package| &package.source);
        let all = [&draft.package].into_iter().chain(further);
        all.filter_map(|source| self.path(source)).collect()
    }

    fn path(&self, source: &PackageSource) -> Option<PathBuf> {
        let PackageSource::Path(path) = source else {
            return None;
        };
        let base = self.spec.parent().unwrap_or(Path::new("."));
        Some(base.join(path))
    }
}

/// The first thing that is wrong with a job's packages.
pub(super) fn check(place: &Place, job: &EvaluatedJob) -> Option<Finding> {
    let paths = place.packages(&job.draft);
    let wrong = paths.iter().find_map(|path| taken(place, job, path));
    wrong.or_else(|| command(place, job))
}

fn wrong(job: &EvaluatedJob, message: String) -> Finding {
    Finding::error(job.package_at.clone(), FindingKind::Invalid, message)
}

/// Why a package may not be taken.
fn taken(place: &Place, job: &EvaluatedJob, path: &Path) -> Option<Finding> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => {
            let message = format!("can't read the package {}: {error}", path.display());
            let hint = "a package's path goes from the folder of the spec";
            return Some(wrong(job, message).hint(hint));
        }
    };
    if place.allow_outside || real.starts_with(place.root) {
        return None;
    }
    let message = format!(
        "the package {} lies outside of the root folder",
        real.display()
    );
    let why = format!("the root is {}", place.root.display());
    Some(wrong(job, message).why(why).hint(
        "--allow-outside takes it all the same; or move the mark of the root, \
         a file potluck.root, up",
    ))
}

/// Is the command in the package?
fn command(place: &Place, job: &EvaluatedJob) -> Option<Finding> {
    let path = place.path(&job.draft.package)?;
    let real = path.canonicalize().ok()?;
    let command = &job.draft.task.command;
    let made = |path: &str| path == command;
    let files = &job.draft.task.files;
    if command.starts_with('/') || command.contains("${") || files.iter().any(|f| made(&f.path)) {
        return None;
    }
    let there = match real.is_dir() {
        true => real.join(command).exists(),
        // A single file stands in the package under its own name.
        false => path
            .file_name()
            .is_some_and(|name| name == command.as_str()),
    };
    if there {
        return None;
    }
    let message = format!(
        "the command {command:?} is not in the package {}",
        path.display()
    );
    Some(
        wrong(job, message)
            .hint("a command is a path in the package, or an absolute one (\"/bin/sh\")"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::{JobName, job::DraftPackage};
    use potluck_starlark::Spot;
    use std::fs;

    #[test]
    fn packages_are_looked_for_before_anything_is_sent() {
        let outer = tempfile::tempdir().unwrap();
        let outer = outer.path().canonicalize().unwrap();
        let root = outer.join("root");
        fs::create_dir_all(root.join("specs")).unwrap();
        fs::create_dir_all(root.join("pkg/bin")).unwrap();
        fs::write(root.join("pkg/bin/web"), "").unwrap();
        fs::write(outer.join("secret"), "").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("specs/link")).unwrap();
        let spec = root.join("specs/web.star");
        let told = |package: &str, command: &str, allow_outside| {
            let draft = |source, command| {
                let mut draft = JobDraft::new(JobName::in_default("web"), source, command);
                // A further one is looked at as the first.
                if let Some((first, further)) = package.split_once('+') {
                    draft.package = PackageSource::Path(first.into());
                    draft.packages = vec![DraftPackage {
                        at: "more".into(),
                        source: PackageSource::Path(further.into()),
                    }];
                }
                draft
            };
            let place = Place {
                root: &root,
                spec: &spec,
                allow_outside,
            };
            let source = PackageSource::Path(package.into());
            let spot = Spot {
                file: "web.star".into(),
                line: 3,
                column: 1,
                end_line: 3,
                end_column: 2,
                quoted: String::new(),
                quoted_skips: 0,
            };
            let job = EvaluatedJob {
                draft: draft(source, command),
                at: spot.clone(),
                package_at: spot,
                depends_on_at: Vec::new(),
                values: Vec::new(),
                not_yet: Vec::new(),
            };
            check(&place, &job).map(|finding| finding.message)
        };
        assert_eq!(told("../pkg", "bin/web", false), None, "within the root");
        assert_eq!(told("../pkg/bin/web", "web", false), None, "a single file");
        assert_eq!(told("../pkg", "/bin/sh", false), None, "one of the host");
        for (package, command, allow, words) in [
            ("../../secret", "secret", false, "outside of the root"),
            ("/etc", "/bin/sh", false, "outside of the root"),
            ("link", "link", false, "outside of the root"),
            ("../pkg+/etc", "bin/web", false, "outside of the root"),
            ("../pkg+gone", "bin/web", false, "can't read the package"),
            ("miss", "miss", false, "can't read the package"),
            ("../pkg", "bin/wbe", false, "is not in the package"),
            ("../pkg/bin/web", "bin/web", false, "is not in the package"),
            ("../../secret", "other", true, "is not in the package"),
        ] {
            let said = told(package, command, allow).unwrap_or_default();
            assert!(said.contains(words), "{package} {command}: {said}");
        }
        assert_eq!(told("../../secret", "secret", true), None, "by the flag");
    }
}

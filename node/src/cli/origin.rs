//! Where a spec comes from: its name below the root of its specs, and the
//! commit of git that it was read at. Both are kept with each version.
//!
//! Git is asked by its own program: what `.git` holds is not ours to read
//! (worktrees, packed references, SHA-256). Without the program, outside of a
//! repository or when it takes long, there is no commit, and nothing fails.

use super::exit::chain;
use crate::api::error::{ApiError, ErrorCode};
use potluck_core::cluster::{Commit, Origin};
use potluck_starlark::Root;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// How long git may take: a look at the specs of a large repository.
const GIT_WAIT: Duration = Duration::from_secs(2);

/// Where this spec file comes from. It is named as specs name each other,
/// `//services/web.star`: the same on every machine that has the tree.
///
/// # Errors
/// There is no such file, or it is no spec.
pub(super) async fn of(spec: &Path) -> Result<Origin, ApiError> {
    let missing = |text: String| ApiError::new(ErrorCode::NotFound, text);
    let (_, label) = Root::of(spec).map_err(|error| missing(chain(&error)))?;
    let file = spec
        .canonicalize()
        .map_err(|error| missing(format!("can't read {}: {error}", spec.display())))?;
    Ok(Origin {
        spec: Some(label.to_string()),
        commit: commit(&file).await,
        back_to: None,
    })
}

/// The commit that is checked out, and whether a spec differs from it: this
/// file, or any other `*.star`, which it may load.
async fn commit(file: &Path) -> Option<Commit> {
    let folder: PathBuf = file.parent()?.into();
    let mut git = Command::new("git");
    git.arg("-C").arg(folder);
    // Not run: what the repository's own settings would have git run.
    git.args(["-c", "core.fsmonitor=false", "--no-optional-locks"]);
    git.args(["status", "--porcelain=v2", "--branch"]);
    git.args(["--untracked-files=all", "--", ":(top,glob)**/*.star"]);
    git.arg(file);
    git.stdin(Stdio::null()).stderr(Stdio::null());
    git.kill_on_drop(true);
    let output = tokio::time::timeout(GIT_WAIT, git.output()).await;
    let output = output.ok()?.ok()?;
    read_status(
        output.status.success(),
        &String::from_utf8_lossy(&output.stdout),
    )
}

/// `# branch.oid <commit>`, further headers, and a line for each difference.
fn read_status(success: bool, text: &str) -> Option<Commit> {
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("# branch.oid "))?;
    let is_commit = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (success && is_commit).then(|| Commit {
        id: id.to_owned(),
        dirty: text.lines().any(|line| !line.starts_with('#')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_read_with_whether_specs_differ() {
        let id = "4".repeat(40);
        let head = format!("# branch.oid {id}\n# branch.head main\n");
        let commit = |dirty| {
            Some(Commit {
                id: id.clone(),
                dirty,
            })
        };
        assert_eq!(read_status(true, &head), commit(false));
        let changed = format!("{head}1 .M N... 100644 100644 100644 1 2 web.star\n");
        assert_eq!(read_status(true, &changed), commit(true));
        assert_eq!(
            read_status(true, &format!("{head}? new.star\n")),
            commit(true)
        );
        assert_eq!(read_status(false, &head), None);
        assert_eq!(read_status(true, "# branch.oid (initial)\n"), None);
        assert_eq!(read_status(true, ""), None);
    }
}

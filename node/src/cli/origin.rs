//! Where a spec comes from: its name below the root of its specs, whose tree
//! that root is, and the commit of git that it was read at. They are kept with
//! each version.
//!
//! Git is asked by its own program: what `.git` holds is not ours to read
//! (worktrees, packed references, SHA-256). Without the program, outside of a
//! repository or when it takes long, there is no commit, and nothing fails.

use super::exit::chain;
use crate::api::error::{ApiError, ErrorCode};
use potluck_core::cluster::{Commit, Origin};
use potluck_starlark::Root;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// How long git may take: a look at the specs of a large repository.
const GIT_WAIT: Duration = Duration::from_secs(2);

/// Digits of a tree's identity that are kept: those of half a hash, which no
/// two trees share by chance.
const IDENTITY_DIGITS: usize = 32;

/// Between a tree's identity and the name of a file in it.
const OF: &str = "//";

/// Where this spec file comes from: `shop//services/web.star` of a tree that
/// is known, `//services/web.star` of one that nobody could tell from another.
/// `inputs`: all else that made its jobs, the files it loads and its packages.
///
/// # Errors
/// There is no such file, or it is no spec.
pub(super) async fn of(spec: &Path, inputs: &[PathBuf]) -> Result<Origin, ApiError> {
    let missing = |text: String| ApiError::new(ErrorCode::NotFound, text);
    let (root, label) = Root::of(spec).map_err(|error| missing(chain(&error)))?;
    let file = spec
        .canonicalize()
        .map_err(|error| missing(format!("can't read {}: {error}", spec.display())))?;
    let name = root.name().map_err(|error| {
        ApiError::new(ErrorCode::BadRequest, chain(&error))
            .hint("one line: letters, digits, '.', '_', '-' and '/', at most 100")
    })?;
    let top = top(&file).await;
    let tree = match (name, &top) {
        (Some(name), _) => Some(name),
        (None, Some(top)) => tree(root.folder(), top).await,
        (None, None) => None,
    };
    let commit = match &top {
        Some(top) => commit(&file, inputs, top).await,
        None => None,
    };
    Ok(Origin {
        spec: Some(format!("{}{label}", tree.unwrap_or_default())),
        commit,
        back_to: None,
    })
}

/// The file that jobs are known by, if its tree is known: from a tree without
/// identity, anybody's `//web.star` would be this one.
pub(super) fn known(origin: &Origin) -> Option<String> {
    let spec = origin.spec.clone()?;
    (!spec.starts_with(OF)).then_some(spec)
}

/// The name of the file, without whose tree it is.
pub(super) fn shown(spec: &str) -> &str {
    spec.find(OF).map_or(spec, |at| &spec[at..])
}

/// The identity of a tree in a repository: the repository and the folder in
/// it. A clone has the same, also one that is shallow; another repository
/// never has.
async fn tree(folder: &Path, top: &Path) -> Option<String> {
    let repository = match remote(top).await {
        Some(remote) => remote,
        None => first_commit(top).await?,
    };
    let inner = folder.strip_prefix(top).ok()?.to_str()?;
    let hash = blake3::hash(format!("{repository}\n{inner}").as_bytes());
    Some(hash.to_hex()[..IDENTITY_DIGITS].to_owned())
}

/// The folder of the repository.
async fn top(file: &Path) -> Option<PathBuf> {
    let said = git(file.parent()?, &["rev-parse", "--show-toplevel"], &[]).await?;
    Path::new(said.trim_end_matches('\n')).canonicalize().ok()
}

/// Where the repository is shared, however it is reached.
async fn remote(top: &Path) -> Option<String> {
    let said = git(top, &["config", "--get", "remote.origin.url"], &[]).await?;
    read_remote(said.trim())
}

/// `forge.example/team/shop` of `git@forge.example:team/shop.git` and of
/// `https://ann@forge.example/team/shop`.
fn read_remote(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.trim_end_matches('/');
    let rest = rest.strip_suffix(".git").unwrap_or(rest);
    let rest = match rest.split_once('@') {
        Some((user, rest)) if !user.contains('/') => rest,
        _ => rest,
    };
    let (host, path) = match (scheme, rest.split_once(':')) {
        // The short form of SSH.
        ("", Some((host, path))) if !host.contains('/') => (host, path),
        // A folder of this machine is another folder on the next.
        ("" | "file", _) => return None,
        _ => rest.split_once('/')?,
    };
    let host = host.split(':').next().unwrap_or(host).to_lowercase();
    let path = path.trim_start_matches('/');
    (!host.is_empty() && !path.is_empty()).then(|| format!("{host}/{path}"))
}

/// A repository that is shared nowhere is known by how it began; of a clone
/// that was cut off nobody knows that.
async fn first_commit(top: &Path) -> Option<String> {
    let shallow = git(top, &["rev-parse", "--is-shallow-repository"], &[]).await?;
    if shallow.trim() != "false" {
        return None;
    }
    let said = git(top, &["rev-list", "--max-parents=0", "HEAD"], &[]).await?;
    said.lines().min().map(str::to_owned)
}

/// The commit that is checked out, and whether anything that made the jobs
/// differs from it. What lies outside of the repository is not asked for.
async fn commit(file: &Path, inputs: &[PathBuf], top: &Path) -> Option<Commit> {
    let inputs = inputs.iter().filter_map(|path| path.canonicalize().ok());
    let inputs: BTreeSet<PathBuf> = inputs.filter(|path| path.starts_with(top)).collect();
    let mut paths: Vec<&Path> = vec![file];
    paths.extend(inputs.iter().map(PathBuf::as_path));
    let ask = [
        "--no-optional-locks",
        "--literal-pathspecs",
        "status",
        "--porcelain=v2",
        "--branch",
        "--untracked-files=all",
        "--",
    ];
    read_status(&git(top, &ask, &paths).await?)
}

/// What git says; nothing if it fails or takes long.
async fn git(folder: &Path, args: &[&str], paths: &[&Path]) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder);
    // Not run: what the repository's own settings would have git run.
    git.args(["-c", "core.fsmonitor=false"]);
    git.args(args).args(paths);
    git.stdin(Stdio::null()).stderr(Stdio::null());
    git.kill_on_drop(true);
    let output = tokio::time::timeout(GIT_WAIT, git.output()).await;
    let output = output.ok()?.ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(said)
}

/// `# branch.oid <commit>`, further headers, and a line for each difference.
fn read_status(text: &str) -> Option<Commit> {
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("# branch.oid "))?;
    let is_commit = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| Commit {
        id: id.to_owned(),
        dirty: text.lines().any(|line| !line.starts_with('#')),
    })
}

#[cfg(test)]
mod tests;

//! Real repositories, and what git says in its own words.

use super::*;
use std::fs;

#[test]
fn a_commit_is_read_with_whether_its_inputs_differ() {
    let id = "4".repeat(40);
    let head = format!("# branch.oid {id}\n# branch.head main\n");
    let commit = |dirty| {
        Some(Commit {
            id: id.clone(),
            dirty,
        })
    };
    assert_eq!(read_status(&head), commit(false));
    let changed = format!("{head}1 .M N... 100644 100644 100644 1 2 web.star\n");
    assert_eq!(read_status(&changed), commit(true));
    assert_eq!(read_status(&format!("{head}? new.star\n")), commit(true));
    assert_eq!(read_status("# branch.oid (initial)\n"), None);
    assert_eq!(read_status(""), None);
}

#[test]
fn a_repository_is_the_same_however_it_is_reached() {
    for url in [
        "git@Forge.example:team/shop.git",
        "https://forge.example/team/shop",
        "https://ann:secret@forge.example/team/shop.git/",
        "ssh://git@forge.example:2222/team/shop.git",
    ] {
        let read = read_remote(url);
        assert_eq!(read.as_deref(), Some("forge.example/team/shop"), "{url}");
    }
    for url in ["", "/srv/shop.git", "../shop", "file:///srv/shop", "x://"] {
        assert_eq!(read_remote(url), None, "{url}");
    }
}

/// A folder with a repository, which has one commit.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new(files: &[(&str, &str)]) -> Repository {
        let repository = Repository(tempfile::tempdir().unwrap());
        for (path, text) in files {
            repository.write(path, text);
        }
        repository.git(&["init", "-q"]);
        repository.git(&["add", "."]);
        repository.git(&["commit", "-q", "-m", "first"]);
        repository
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn git(&self, args: &[&str]) {
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(self.0.path());
        git.args(["-c", "user.name=t", "-c", "user.email=t@example"]);
        git.args(["-c", "commit.gpgsign=false"]).args(args);
        let done = git.output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    async fn origin(&self, spec: &str, inputs: &[&str]) -> Origin {
        let inputs: Vec<PathBuf> = inputs.iter().map(|path| self.path(path)).collect();
        of(&self.path(spec), &inputs).await.unwrap()
    }
}

#[tokio::test]
async fn only_what_made_the_jobs_makes_them_differ() {
    let repository = Repository::new(&[("a/web.star", ""), ("pkg/run.sh", "1"), ("b.star", "")]);
    let dirty = async || {
        let origin = repository.origin("a/web.star", &["pkg"]).await;
        origin.commit.unwrap().dirty
    };
    assert!(!dirty().await);
    repository.write("scratch.star", "");
    repository.write("b.star", "x = 1");
    assert!(!dirty().await, "neither is loaded");
    repository.write("pkg/run.sh", "2");
    assert!(dirty().await, "the package is another");
}

#[tokio::test]
async fn trees_are_told_apart() {
    let files: &[(&str, &str)] = &[
        ("web.star", ""),
        ("in/potluck.root", ""),
        ("in/web.star", ""),
    ];
    let (one, two) = (Repository::new(files), Repository::new(files));
    two.git(&["commit", "-q", "--amend", "-m", "another beginning"]);
    let of = async |repository: &Repository, spec| {
        let origin = repository.origin(spec, &[]).await;
        known(&origin).expect("its tree is known")
    };
    let first = of(&one, "web.star").await;
    assert_eq!(shown(&first), "//web.star");
    assert_ne!(first, of(&two, "web.star").await);
    assert_ne!(first, of(&one, "in/web.star").await, "another root");
    // Both are clones of one repository.
    for (repository, url) in [
        (&one, "git@f.example:a/b.git"),
        (&two, "https://f.example/a/b"),
    ] {
        repository.git(&["remote", "add", "origin", url]);
    }
    assert_eq!(of(&one, "web.star").await, of(&two, "web.star").await);
}

#[tokio::test]
async fn a_root_has_the_name_that_people_give_it() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("web.star");
    fs::write(&spec, "").unwrap();
    let nobody = of(&spec, &[]).await.unwrap();
    assert_eq!(known(&nobody), None, "anybody's web.star: {nobody:?}");
    let root = folder.path().join("potluck.root");
    fs::write(&root, "# whose\nteam/shop\n").unwrap();
    let named = of(&spec, &[]).await.unwrap();
    assert_eq!(known(&named).as_deref(), Some("team/shop//web.star"));
    fs::write(&root, "team//shop two\n").unwrap();
    assert!(of(&spec, &[]).await.is_err());
}

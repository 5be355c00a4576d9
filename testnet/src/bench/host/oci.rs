//! runc and crun as peers: a bundle of one static busybox, without a daemon.

use super::{Outcome, docker::busybox_root, repeated, said};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What is run: `true`, in namespaces of its own, without limits.
const CONFIG: &str = r#"{
  "ociVersion": "1.0.2",
  "process": {
    "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/true"],
    "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true, "capabilities": {}
  },
  "root": { "path": "root", "readonly": true },
  "mounts": [
    { "destination": "/proc", "type": "proc", "source": "proc" },
    { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }
  ],
  "linux": { "namespaces": [
    { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
  ] }
}"#;

/// The folder that a runtime is given.
pub(super) struct Bundle(PathBuf);

impl Bundle {
    /// Makes one in this folder.
    pub(super) fn make(folder: &Path) -> Outcome<Bundle> {
        busybox_root(&folder.join("root"))?;
        fs::write(folder.join("config.json"), CONFIG)?;
        Ok(Bundle(folder.into()))
    }

    /// How long so many runs to the end took, one after the other.
    pub(super) fn times(&self, runtime: &str, times: usize) -> Outcome<Vec<Duration>> {
        let name = format!("potluck-bench-{}", std::process::id());
        let state = self.0.join(format!("state-{runtime}"));
        let made = repeated(times, || {
            let mut run = Command::new(runtime);
            run.arg("--root").arg(&state).args(["run", "-b"]);
            said(run.arg(&self.0).arg(&name)).map(drop)
        });
        if made.is_err() {
            // One that failed half-way keeps its name.
            let mut delete = Command::new(runtime);
            delete.arg("--root").arg(&state);
            let _ = said(delete.args(["delete", "--force"]).arg(&name));
        }
        made
    }
}

//! The program `potluck`, used as a person uses it: by its command line and
//! its JSON.

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A command that failed, as a person would see it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("potluck {command} ended with exit code {code:?}: {stderr}")]
pub struct Failed {
    /// The arguments.
    pub command: String,
    /// The exit code; nothing if a signal ended it.
    pub code: Option<i32>,
    /// What it said.
    pub stderr: String,
}

/// `potluck` with the keys of one person, asking one node.
#[derive(Clone, Debug)]
pub struct Client {
    program: PathBuf,
    config: PathBuf,
    node: Option<String>,
    data: PathBuf,
}

impl Client {
    /// A client with the keys in `config`, for the node whose data is in
    /// `data`.
    pub fn new(program: &Path, config: &Path, data: &Path) -> Client {
        Client {
            program: program.into(),
            config: config.into(),
            node: None,
            data: data.into(),
        }
    }

    /// The same person, asking the node at `address` over the network.
    #[must_use]
    pub fn at(&self, address: &str) -> Client {
        Client {
            node: Some(address.into()),
            ..self.clone()
        }
    }

    /// The command, ready to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // First, since what stands behind a `--` is not ours.
        command
            .arg("--config")
            .arg(&self.config)
            .arg("--data")
            .arg(&self.data);
        if let Some(node) = &self.node {
            command.arg("--node").arg(node);
        }
        command
            .args(args)
            .env_remove("POTLUCK_NODE")
            .env_remove("POTLUCK_DATA")
            .env_remove("POTLUCK_CONFIG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command and returns its standard output.
    ///
    /// # Errors
    /// [`Failed`] if it does not exit with 0.
    pub fn text(&self, args: &[&str]) -> Result<String, Failed> {
        let output = self.command(args).output();
        let failed = |code, stderr: String| Failed {
            command: args.join(" "),
            code,
            stderr,
        };
        let output = output.map_err(|error| failed(None, error.to_string()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(output.status.code(), stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command with `-o json` and returns what it prints.
    ///
    /// # Errors
    /// [`Failed`] if it does not exit with 0 or prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value, Failed> {
        let text = self.text(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|error| Failed {
            command: args.join(" "),
            code: Some(0),
            stderr: format!("not JSON: {error}: {text}"),
        })
    }

    /// Starts a command whose output is read as it comes.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start(&self, args: &[&str]) -> std::io::Result<Child> {
        self.command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

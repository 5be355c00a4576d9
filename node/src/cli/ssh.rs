//! `potluck ssh`, `ssh-config` and `ssh-proxy`: the system's own ssh client,
//! into tasks.
//!
//! ```text
//! ssh ─ ProxyCommand ─▶ potluck ssh-proxy ═ a session, as of exec ═▶ node of the task ─▶ potluck-sshd
//! ```
//!
//! The proxy signs the request, which names the key of the person's client,
//! checks which key the node vouches for, writes that into the file of known
//! hosts, and only then lets the first byte through: the client reads the file
//! after that. So neither side asks anything, and whoever passes the bytes on
//! can't read them.

use super::{
    args::{Global, SshArgs},
    connect::{config_folder, connect, data_folder},
    exec::input,
    exit::chain,
    session::{self, End, Output, Wish},
};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        exec::Wanted,
    },
    identity::{SshFiles, SshFilesError},
};
use potluck_helper::session::CODE_LOST;
use potluck_specs::{SlotId, ids::DEFAULT_NAMESPACE};
use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, absolute},
    process::{Command, ExitCode},
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// Tasks are hosts below this name.
const DOMAIN: &str = ".potluck";

/// The client.
const CLIENT: &str = "ssh";

/// Chunks that wait for the client.
const CHUNKS_WAITING: usize = 2;

/// `potluck ssh TASK [-- COMMAND]`: becomes the system's ssh client.
pub(super) fn ssh(args: &SshArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let files = open_files(global)?;
    let mut client = Command::new(CLIENT);
    // What a person has set for other hosts is not meant for tasks.
    client.args(["-F", "none"]);
    for (name, value) in options(&files, global)? {
        client.arg("-o").arg(format!("{name}={value}"));
    }
    if args.tty {
        client.arg("-t");
    }
    client.arg(host_of(&args.task));
    if !args.command.is_empty() {
        // The client goes on looking for options behind the host.
        client.arg("--").args(&args.command);
    }
    let error = client.exec();
    let message = format!("the ssh client can't be started: {error}");
    let slot = &args.task;
    Err(ApiError::new(ErrorCode::NotFound, message).hint(format!(
        "install it (Debian: openssh-client), or use: potluck exec -it '{slot}' -- sh"
    )))
}

/// `potluck ssh-config`: what makes `ssh 0.web.potluck` work.
pub(super) fn config(global: &Global) -> Result<ExitCode, ApiError> {
    let files = open_files(global)?;
    let mut text = format!(
        "# Tasks as hosts of ssh, scp and sftp: INDEX.JOB{DOMAIN}, or \
         INDEX.JOB.NAMESPACE{DOMAIN}.\nHost *{DOMAIN}\n"
    );
    for (name, value) in options(&files, global)? {
        text.push_str(&format!("    {name} {value}\n"));
    }
    // Nobody reads it: nothing to be done.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// `potluck ssh-proxy HOST`: what the client's bytes go through.
pub(super) async fn proxy(host: &str, global: &Global) -> Result<ExitCode, ApiError> {
    let slot = slot_of(host)?;
    let files = open_files(global)?;
    let session = connect(global).await?;
    let wish = Wish::copy(slot, Wanted::Ssh { key: files.key });
    let (to_client, outputs) = mpsc::channel(CHUNKS_WAITING);
    let sizes = mpsc::channel(1).1;
    let host = host.to_owned();
    let passed = spawn_blocking(move || pass(outputs, &files, &host));
    let end = session::carry(session, wish, input(true), sizes, to_client).await;
    let passed = passed.await.expect("passing bytes on does not panic");
    match (passed, end?) {
        (Err(error), _) => Err(error),
        (Ok(()), End::Code(code)) => Ok(ExitCode::from(code)),
        // The client has left.
        (Ok(()), End::Unwanted) => Ok(ExitCode::SUCCESS),
        (Ok(()), End::Failed { why, .. }) | (Ok(()), End::Lost(why)) => {
            let message = format!("the connection was lost: {why}");
            let error = ApiError::new(ErrorCode::Unavailable, message);
            Ok(super::exit::fail_as(&error, CODE_LOST, global.output))
        }
    }
}

/// Gives the client what comes, the host's key first. Writing may wait for as
/// long as a person looks at a page.
fn pass(mut outputs: mpsc::Receiver<Output>, files: &SshFiles, host: &str) -> Result<(), ApiError> {
    let mut stdout = std::io::stdout().lock();
    let mut is_known = false;
    while let Some(next) = outputs.blocking_recv() {
        match next {
            Output::Host(key) => {
                let known = files.know(host, &key);
                known.map_err(|error| ApiError::new(ErrorCode::Failed, chain(&error)))?;
                is_known = true;
            }
            Output::Out(bytes) if is_known => {
                let written = stdout.write_all(&bytes).and_then(|()| stdout.flush());
                if written.is_err() {
                    return Ok(());
                }
            }
            Output::Out(_) => {
                let message = "the node did not say by which key it is known";
                return Err(ApiError::new(ErrorCode::Failed, message));
            }
            Output::Err(_) => {}
        }
    }
    Ok(())
}

fn open_files(global: &Global) -> Result<SshFiles, ApiError> {
    let folder = config_folder(global);
    let folder = absolute(&folder).unwrap_or(folder);
    SshFiles::open(&folder).map_err(|error| {
        let error_text = ApiError::new(ErrorCode::Failed, chain(&error));
        match error {
            SshFilesError::NotAKey(_) => error_text.hint("remove the file to have a new one made"),
            SshFilesError::File(_) => error_text,
        }
    })
}

/// The client's options, as they stand in its file.
fn options(files: &SshFiles, global: &Global) -> Result<Vec<(&'static str, String)>, ApiError> {
    let known = files.known_hosts.join("%n");
    let known = known.display().to_string();
    let (folder, token) = known.split_at(known.len() - "%n".len());
    Ok(vec![
        ("ProxyCommand", proxy_command(global)?),
        ("User", "task".into()),
        ("IdentityFile", in_file(&escape(&files.key_file))),
        ("IdentitiesOnly", "yes".into()),
        ("PreferredAuthentications", "publickey".into()),
        ("HostKeyAlgorithms", "ssh-ed25519".into()),
        ("StrictHostKeyChecking", "yes".into()),
        (
            "UserKnownHostsFile",
            in_file(&format!("{}{token}", escape(Path::new(folder)))),
        ),
        ("GlobalKnownHostsFile", "/dev/null".into()),
        ("UpdateHostKeys", "no".into()),
    ])
}

/// What the client's shell runs for each connection.
fn proxy_command(global: &Global) -> Result<String, ApiError> {
    let program = std::env::current_exe().map_err(|error| {
        let message = format!("this program's own path is not known: {error}");
        ApiError::new(ErrorCode::Internal, message)
    })?;
    let path = |path: &Path| absolute(path).unwrap_or(path.into());
    let mut words = vec![
        quoted(&escape(&program)),
        "ssh-proxy".into(),
        "--config".into(),
        quoted(&escape(&path(&config_folder(global)))),
    ];
    if global.data.is_some() {
        words.extend(["--data".into(), quoted(&escape(&data_folder(global)))]);
    }
    if let Some(node) = &global.node {
        words.extend(["--node".into(), quoted(&escape(Path::new(node)))]);
    }
    // Clients before 9.6 put any name here, and a shell reads it.
    words.extend(["--".into(), "'%n'".into()]);
    Ok(words.join(" "))
}

/// The client's tokens begin with a `%`.
fn escape(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// One word of a shell's.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// One value of the client's file, which may have spaces.
fn in_file(value: &str) -> String {
    format!("\"{value}\"")
}

/// The name of a task as a host: from the particular to the general.
fn host_of(slot: &SlotId) -> String {
    let (index, job) = (slot.index, &slot.job);
    match job.namespace.as_str() {
        DEFAULT_NAMESPACE => format!("{index}.{}{DOMAIN}", job.name),
        namespace => format!("{index}.{}.{namespace}{DOMAIN}", job.name),
    }
}

fn slot_of(host: &str) -> Result<SlotId, ApiError> {
    let bad = || {
        let message = format!("{host:?} is no task's name as a host");
        ApiError::new(ErrorCode::BadRequest, message)
            .hint("write INDEX.JOB.potluck, such as 0.web.potluck for web[0]")
    };
    let parts: Vec<&str> = host
        .strip_suffix(DOMAIN)
        .ok_or_else(bad)?
        .split('.')
        .collect();
    let slot = match parts[..] {
        [index, job] => format!("{job}[{index}]"),
        [index, job, namespace] => format!("{namespace}/{job}[{index}]"),
        _ => return Err(bad()),
    };
    slot.parse().map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_have_names_as_hosts() {
        for (slot, host) in [
            ("web[0]", "0.web.potluck"),
            ("default/web[12]", "12.web.potluck"),
            ("team/web[3]", "3.web.team.potluck"),
        ] {
            let slot: SlotId = slot.parse().unwrap();
            assert_eq!(host_of(&slot), host);
            assert_eq!(slot_of(host).unwrap(), slot);
        }
        for bad in [
            "web",
            "web.potluck",
            "x.web.potluck",
            "0.a.b.c.potluck",
            "0.We.potluck",
        ] {
            assert_eq!(
                slot_of(bad).unwrap_err().code,
                ErrorCode::BadRequest,
                "{bad}"
            );
        }
    }

    #[test]
    fn paths_reach_the_clients_shell_as_they_are() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(escape(Path::new("/100%/x")), "/100%%/x");
    }
}

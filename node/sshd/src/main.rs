//! The program `potluck-sshd`: speaks ssh with one client, for one task.
//!
//! A node starts it for a connection of a person whose signed request it has
//! judged, and only if the node's operator has switched ssh on. Standard input
//! is the connection, standard output the agent's socket
//! ([`potluck_helper::session::ssh`]). It can open no file, reach no network
//! and start no process: all it can do is to prove the host's key, have the
//! client prove the person's, and ask the agent for sessions in that one task.
//! What is done there, and who may, is the agent's.
//!
//! ```text
//! client ─ ssh ─▶ login ─▶ channels ─▶ asking (pure) ─▶ agent: Open + stream
//!                            └─ channel: bytes between ssh and the stream
//! ```

mod agent;
mod asking;
mod channel;
mod confine;
mod frame;
mod input;
mod login;

use std::process::ExitCode;

/// Exit code of a server that could not do its part.
const CODE_FAILED: u8 = 1;

fn main() -> ExitCode {
    let served = confine::limit().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        runtime.block_on(login::serve())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The node's log; once for each connection at most.
            eprintln!("potluck-sshd: {error}");
            ExitCode::from(CODE_FAILED)
        }
    }
}

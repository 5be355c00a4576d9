//! `potluck cp`: files and folders into a task and out of it.

use super::{
    args::Global,
    connect::connect,
    output,
    session::{self, End, Input, Output, Wish},
};
use crate::api::{
    error::{ApiError, ErrorCode},
    exec::{CHUNK_BYTES, Wanted},
};
use potluck_helper::archive::{self, ArchiveError};
use potluck_specs::SlotId;
use std::{
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// Chunks that wait between the files and the connection.
const CHUNKS_WAITING: usize = 4;

/// What is kept of the task's complaints.
const COMPLAINTS_BYTES_MAX: usize = 16 << 10;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Task(SlotId, String),
}

impl Place {
    /// `TASK:PATH`, or a path here. One with a colon can be written with `./`.
    fn parse(text: &str) -> Place {
        let task = text.split_once(':').and_then(|(task, path)| {
            let slot = task.parse().ok()?;
            Some(Place::Task(slot, path.into()))
        });
        task.unwrap_or_else(|| Place::Local(text.into()))
    }
}

/// `potluck cp FROM TO`.
pub(super) async fn copy(from: &str, to: &str, global: &Global) -> Result<ExitCode, ApiError> {
    match (Place::parse(from), Place::parse(to)) {
        (Place::Local(from), Place::Task(slot, to)) => put(from, slot, to, global).await?,
        (Place::Task(slot, from), Place::Local(to)) => get(slot, from, &to, global).await?,
        (Place::Local(_), Place::Local(_)) => {
            return Err(bad("neither side is in a task".into())
                .hint("write TASK:PATH for one of them, such as web[0]:/task/file"));
        }
        (Place::Task(..), Place::Task(..)) => {
            return Err(bad("both sides are in a task".into())
                .hint("copy to this host first, and from here"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn bad(message: String) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message)
}

fn failed(error: &ArchiveError) -> ApiError {
    ApiError::new(ErrorCode::Failed, super::exit::chain(error))
}

/// The name that a path ends with.
fn name_of(path: &Path) -> Result<String, ApiError> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.ok_or_else(|| bad(format!("{} has no name to copy it under", path.display())))
}

async fn put(from: PathBuf, slot: SlotId, to: String, global: &Global) -> Result<(), ApiError> {
    let whole = from.canonicalize().map_err(|error| {
        let message = format!("{} can't be read: {error}", from.display());
        ApiError::new(ErrorCode::NotFound, message)
    })?;
    // A link's own name, or that of the folder that `.` is.
    let name = name_of(&from).or_else(|_| name_of(&whole))?;
    let session = connect(global).await?;
    let (to_session, input) = mpsc::channel(CHUNKS_WAITING);
    let (to_person, outputs) = mpsc::channel(CHUNKS_WAITING);
    let wish = Wish::copy(slot, Wanted::Receive(to));
    let left_out = AtomicU64::new(0);
    let packing = async {
        let pack = move || {
            let writer = BufWriter::with_capacity(CHUNK_BYTES, Sent(to_session.clone()));
            let sent = archive::send(writer, &whole, &name);
            if matches!(sent, Ok(()) | Err(ArchiveError::LeftOut(_))) {
                // If nobody takes it any more, the other side says why.
                let _ = to_session.blocking_send(Input::End);
            }
            sent
        };
        let packed = spawn_blocking(pack).await.expect("packing does not panic");
        match packed {
            // The other side may have more to say about it.
            Ok(()) | Err(ArchiveError::Stream(_)) => std::future::pending().await,
            Err(ArchiveError::LeftOut(some)) => {
                left_out.store(some, Ordering::Relaxed);
                std::future::pending().await
            }
            Err(error) => failed(&error),
        }
    };
    let sizes = mpsc::channel(1).1;
    let carried = session::carry(session, wish, input, sizes, to_person);
    let listened = futures::future::join(carried, complaints(outputs, None));
    tokio::select! {
        (end, complaints) = listened => {
            conclude(end?, &complaints)?;
            match left_out.into_inner() {
                0 => Ok(()),
                some => Err(failed(&ArchiveError::LeftOut(some))),
            }
        }
        // What came of it so far is no whole archive, and is refused there.
        error = packing => Err(error),
    }
}

async fn get(slot: SlotId, from: String, to: &Path, global: &Global) -> Result<(), ApiError> {
    let (folder, name) = match to.is_dir() {
        true => (to.to_path_buf(), name_of(Path::new(&from))?),
        false => {
            let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")).to_path_buf(), name_of(to)?)
        }
    };
    if !folder.is_dir() {
        return Err(bad(format!("{} is not a folder", folder.display())));
    }
    let session = connect(global).await?;
    let (to_person, outputs) = mpsc::channel(CHUNKS_WAITING);
    let (to_files, chunks) = mpsc::channel(CHUNKS_WAITING);
    let wish = Wish::copy(
        slot,
        Wanted::Send {
            path: from,
            name: name.clone(),
        },
    );
    let unpack = move || {
        let mut received = Received {
            chunks,
            rest: Vec::new(),
            read: 0,
        };
        let unpacked = archive::receive_named(&mut received, &folder, &name);
        // What follows the archive's end is taken, so that nobody waits.
        unpacked.and_then(|()| match io::copy(&mut received, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(error) => Err(ArchiveError::Stream(error)),
        })
    };
    let unpacked = spawn_blocking(unpack);
    let nothing = mpsc::channel(1).1;
    let sizes = mpsc::channel(1).1;
    let carried = session::carry(session, wish, nothing, sizes, to_person);
    let (end, complaints) =
        futures::future::join(carried, complaints(outputs, Some(to_files))).await;
    let unpacked = unpacked.await.expect("unpacking does not panic");
    match (end?, unpacked) {
        // The files are at fault, and nobody wanted more.
        (End::Unwanted, Err(error)) | (End::Code(0), Err(error)) => Err(failed(&error)),
        (end, _) => conclude(end, &complaints),
    }
}

/// What the task complains of; what it sends goes to the files, until they
/// want no more.
async fn complaints(
    mut outputs: mpsc::Receiver<Output>,
    files: Option<mpsc::Sender<Vec<u8>>>,
) -> String {
    let mut text = Vec::new();
    while let Some(next) = outputs.recv().await {
        match (next, &files) {
            (Output::Err(bytes), _) => {
                let room = COMPLAINTS_BYTES_MAX - text.len();
                text.extend(&bytes[..bytes.len().min(room)]);
            }
            (Output::Out(bytes), Some(files)) => {
                if files.send(bytes).await.is_err() {
                    break;
                }
            }
            (Output::Out(_), None) | (Output::Host(_), _) => {}
        }
    }
    String::from_utf8_lossy(&text).trim().into()
}

fn conclude(end: End, complaints: &str) -> Result<(), ApiError> {
    let cut_short = "what was copied so far is there";
    match end {
        End::Code(0) => {
            complaints.lines().for_each(output::warn);
            Ok(())
        }
        End::Code(_) if !complaints.is_empty() => Err(ApiError::new(
            ErrorCode::Failed,
            format!("in the task: {complaints}"),
        )),
        End::Code(code) => {
            let message = format!("the copy was ended in the task, with code {code}");
            Err(ApiError::new(ErrorCode::Failed, message).hint(cut_short))
        }
        End::Failed { why, .. } => Err(ApiError::new(ErrorCode::Failed, why)),
        End::Lost(why) => {
            let message = format!("the connection was lost: {why}");
            Err(ApiError::new(ErrorCode::Unavailable, message).hint(cut_short))
        }
        End::Unwanted => {
            let message = "the copy was broken off on this side";
            Err(ApiError::new(ErrorCode::Failed, message).hint(cut_short))
        }
    }
}

/// Writes into the session; waits while it is full.
struct Sent(mpsc::Sender<Input>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES);
        let sent = self.0.blocking_send(Input::Bytes(bytes[..length].to_vec()));
        match sent {
            Ok(()) => Ok(length),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what the session sends.
struct Received {
    chunks: mpsc::Receiver<Vec<u8>>,
    rest: Vec<u8>,
    read: usize,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.rest.len() {
            self.rest = self.chunks.blocking_recv().unwrap_or_default();
            self.read = 0;
        }
        let length = buffer.len().min(self.rest.len() - self.read);
        buffer[..length].copy_from_slice(&self.rest[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_tasks_only_with_a_task_before_the_colon() {
        let slot: SlotId = "web[0]".parse().unwrap();
        assert_eq!(
            Place::parse("web[0]:/a:b"),
            Place::Task(slot.clone(), "/a:b".into())
        );
        assert_eq!(Place::parse("web[0]:a"), Place::Task(slot, "a".into()));
        for text in ["./web[0]:/a", "C:/x", "/a/b", "web", ""] {
            assert_eq!(Place::parse(text), Place::Local(text.into()), "{text}");
        }
    }
}

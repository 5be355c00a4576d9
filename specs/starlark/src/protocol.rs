//! What parent and child say to each other, over the child's standard input
//! and output: CBOR documents, each behind its length.
//!
//! The parent sends one [`Task`]. The child then asks for files one by one
//! ([`Say::Read`], answered with a [`Reply`]) and tells what came out of each
//! spec ([`Say::Begin`], [`Say::Done`]), in the order of the task.

use crate::{
    evaluate::{Evaluated, Text, Wanted},
    finding::Spot,
    label::Label,
};
use potluck_specs::codec;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Longest document: sixteen of the largest jobs, thousands of usual ones.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// What the child is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Files, by their paths below the root.
    pub(crate) specs: Vec<String>,
    pub(crate) wanted: Wanted,
    /// It says where it is, statement by statement: one spec met a limit.
    pub(crate) telling: bool,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Say {
    /// It wants the text of a file.
    Read(String),
    /// It begins with the next spec.
    Begin,
    /// This statement comes next, if that was asked for.
    At(Spot),
    /// What the spec evaluates to.
    Done(Box<Evaluated>),
}

/// What a file holds, or why it can't be had.
pub(crate) type Reply = Result<Text, String>;

/// A document that is too long or that can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TalkError {
    #[error("the other end is gone")]
    Gone(#[source] io::Error),
    #[error("a document has {0} bytes")]
    TooLong(u64),
    #[error("a document can't be read")]
    Malformed(#[source] codec::CodecError),
}

pub(crate) fn send<T: Serialize>(to: &mut impl Write, document: &T) -> Result<(), TalkError> {
    let bytes = codec::encode(document);
    let length = bytes.len() as u64;
    let mut write = || {
        to.write_all(&length.to_be_bytes())?;
        to.write_all(&bytes)?;
        to.flush()
    };
    write().map_err(TalkError::Gone)
}

/// The next document; none at the end.
pub(crate) fn receive<T: DeserializeOwned>(
    from: &mut impl Read,
    bytes_max: u64,
) -> Result<Option<T>, TalkError> {
    let mut length = [0; 8];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome.map_err(TalkError::Gone)?,
    }
    let length = u64::from_be_bytes(length);
    if length > bytes_max {
        return Err(TalkError::TooLong(length));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).map_err(TalkError::Gone)?;
    let document = codec::decode("document", &bytes, bytes_max as usize);
    document.map(Some).map_err(TalkError::Malformed)
}

impl Say {
    pub(crate) fn read(label: &Label) -> Say {
        Say::Read(label.path().into())
    }
}

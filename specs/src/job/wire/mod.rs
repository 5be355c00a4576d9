//! The bytes of a job.
//!
//! A CBOR array of two: the number of the format, then the job as it is of
//! that format. Format 0 had no number and was the job's map itself, so the
//! first byte tells them apart. Each is canonical: bytes that are not what
//! their own format would write are refused. A format is never dropped, since
//! what was signed once is never encoded again.

mod v0;

use super::{JOB_BYTES_MAX, Job};
use crate::codec::{self, CodecError};

/// The format that [`Job::encode`] writes.
const FORMAT: u32 = 1;

/// The major type of CBOR's maps, in the top three bits of their first byte.
const MAP: u8 = 5;

impl Job {
    /// The bytes that are signed.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&(FORMAT, self))
    }

    /// Reads the bytes of any format there ever was.
    ///
    /// # Errors
    /// Longer than [`JOB_BYTES_MAX`], not a job, not canonical, or of a format
    /// from after this program.
    pub fn decode(bytes: &[u8]) -> Result<Job, CodecError> {
        if bytes.first().is_some_and(|byte| byte >> 5 == MAP) {
            let job: v0::Job = codec::decode_canonical("job", bytes, JOB_BYTES_MAX)?;
            return Ok(job.into());
        }
        let (format, job): (u32, Job) = codec::decode_canonical("job", bytes, JOB_BYTES_MAX)?;
        if format != FORMAT {
            return Err(CodecError::Invalid {
                what: "job",
                why: format!("format {format} is not known to this version of potluck"),
            });
        }
        Ok(job)
    }
}

//! How jobs stand in a recording of a host: as their canonical bytes, which
//! every later version still reads.

use potluck_specs::Job;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::sync::Arc;

fn read<'de, D: Deserializer<'de>>(bytes: &[u8]) -> Result<Arc<Job>, D::Error> {
    let job = Job::decode(bytes).map_err(D::Error::custom)?;
    Ok(Arc::new(job))
}

/// A job.
pub(super) mod job {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(job: &Arc<Job>, to: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(&job.encode(), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Job>, D::Error> {
        let bytes: Vec<u8> = serde_bytes::deserialize(from)?;
        read::<D>(&bytes)
    }
}

/// A job that was accepted, or why it was not.
pub(super) mod accepted {
    use super::*;

    #[derive(Serialize, Deserialize)]
    enum Accepted {
        Job(#[serde(with = "serde_bytes")] Vec<u8>),
        Refused(String),
    }

    pub(crate) fn serialize<S: Serializer>(
        job: &Result<Arc<Job>, String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let accepted = match job {
            Ok(job) => Accepted::Job(job.encode()),
            Err(why) => Accepted::Refused(why.clone()),
        };
        accepted.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Result<Arc<Job>, String>, D::Error> {
        Ok(match Accepted::deserialize(from)? {
            Accepted::Job(bytes) => Ok(read::<D>(&bytes)?),
            Accepted::Refused(why) => Err(why),
        })
    }
}

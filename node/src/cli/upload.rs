//! A job's package: cut into chunks here, sent to the node that is asked.

use super::{connect::Session, exit::chain, output::Waiting};
use crate::api::{
    client::unexpected,
    error::{ApiError, ErrorCode},
    protocol::{ApiAnswer, ApiRequest, ChunkUpload},
};
use potluck_dht::pack::{PackError, Scan, scan};
use potluck_specs::{
    ChunkHash, PackageId,
    job::{JobDraft, PackageSource},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of chunks in one upload: one frame holds them with room to spare.
const UPLOAD_BYTES: usize = 512 << 10;

/// A job's package, known by its id, and here if it is a path.
#[derive(Clone)]
pub(super) struct Package {
    /// What it is known by.
    pub id: PackageId,
    local: Option<Arc<(PathBuf, Scan)>>,
}

/// The packages of a spec's jobs: one that many jobs share is cut once.
pub(super) struct Packages<'a> {
    spec: &'a Path,
    local: BTreeMap<PathBuf, Package>,
}

impl Packages<'_> {
    /// Those of this spec file.
    pub(super) fn of(spec: &Path) -> Packages<'_> {
        Packages {
            spec,
            local: BTreeMap::new(),
        }
    }

    /// The program's package of a draft, cut into chunks. Nothing is sent.
    ///
    /// # Errors
    /// A path that can't be packed, or a kind of package that nobody fetches.
    pub(super) fn program(&mut self, draft: &JobDraft) -> Result<Package, ApiError> {
        self.package(&draft.package, draft)
    }

    /// The further packages of a draft, in its order.
    ///
    /// # Errors
    /// As [`Self::program`].
    pub(super) fn further(&mut self, draft: &JobDraft) -> Result<Vec<Package>, ApiError> {
        let packages = draft.packages.iter();
        packages
            .map(|one| self.package(&one.source, draft))
            .collect()
    }

    fn package(&mut self, source: &PackageSource, draft: &JobDraft) -> Result<Package, ApiError> {
        let path = match source {
            PackageSource::Id(id) => return Ok(Package::known(*id)),
            PackageSource::Oci(_) => return Err(not_yet(draft, "a package from a registry")),
            PackageSource::Path(path) => path,
        };
        if let Some(known) = self.local.get(path) {
            return Ok(known.clone());
        }
        let base = self.spec.parent().unwrap_or_else(|| Path::new("."));
        let place = base.join(path);
        let scan = scan(&place).map_err(|error| bad(&place, &error))?;
        let package = Package {
            id: scan.id,
            local: Some(Arc::new((place, scan))),
        };
        self.local.insert(path.clone(), package.clone());
        Ok(package)
    }
}

impl Package {
    /// A package that the cluster has.
    pub(super) fn known(id: PackageId) -> Package {
        Package { id, local: None }
    }

    /// Sends the chunks that the node lacks.
    ///
    /// # Errors
    /// What the node says, or a file that changed since it was cut.
    pub(super) async fn upload(
        &self,
        session: &mut Session,
        waiting: &Waiting,
    ) -> Result<(), ApiError> {
        let Some(local) = &self.local else {
            return Ok(());
        };
        let (path, scan) = &**local;
        let manifest = ApiRequest::PutManifest(scan.manifest_bytes.clone());
        let mut missing = missing(session.client.ask(&manifest).await?)?;
        let total = missing.len();
        while !missing.is_empty() {
            waiting.tell(&format!(
                "uploading {}, {} of {total} chunks left",
                path.display(),
                missing.len()
            ));
            let chunks = batch(scan, &missing).map_err(|error| bad(path, &error))?;
            let sent = chunks.len();
            session.client.ask(&ApiRequest::PutChunks(chunks)).await?;
            missing.drain(..sent);
        }
        Ok(())
    }
}

fn bad(path: &Path, error: &PackError) -> ApiError {
    let message = format!("can't pack {}: {}", path.display(), chain(error));
    ApiError::new(ErrorCode::BadRequest, message)
        .hint("a spec's package is a path beside the spec file")
}

fn not_yet(draft: &JobDraft, what: &str) -> ApiError {
    let message = format!("job {}: {what} is not yet supported", draft.name);
    ApiError::new(ErrorCode::BadRequest, message)
}

fn missing(answer: ApiAnswer) -> Result<Vec<ChunkHash>, ApiError> {
    match answer {
        ApiAnswer::Missing(missing) => Ok(missing),
        other => Err(unexpected(&other)),
    }
}

/// The first of the missing chunks, as many as fit in one upload.
fn batch(package: &Scan, missing: &[ChunkHash]) -> Result<Vec<ChunkUpload>, PackError> {
    let mut chunks = Vec::new();
    let mut bytes = 0;
    for hash in missing {
        let Some(content) = package.read(*hash)? else {
            continue;
        };
        bytes += content.len();
        if !chunks.is_empty() && bytes > UPLOAD_BYTES {
            break;
        }
        chunks.push(ChunkUpload {
            hash: *hash,
            bytes: content,
        });
    }
    Ok(chunks)
}

//! Segments as files: their names, their headers, and the walk over their
//! frames that finds a line without decoding what comes before it.

use potluck_specs::Millis;
use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".log.zst";
const SKIPPABLE_MAGIC: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
const PAYLOAD_BYTES: u32 = 32;

/// Magic, length, payload.
pub(super) const HEADER_BYTES: usize = 8 + PAYLOAD_BYTES as usize;

/// Of the header's payload. A reader refuses others.
const FORMAT_VERSION: u64 = 1;

/// What stands before each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Of the frame's first line.
    pub(super) first_seq: u64,
    /// When that line was taken.
    pub(super) first_ms: u64,
    /// Bytes of text in the segment before this frame.
    pub(super) text_before: u64,
}

impl FrameHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&SKIPPABLE_MAGIC);
        bytes[4..8].copy_from_slice(&PAYLOAD_BYTES.to_le_bytes());
        let fields = [
            self.first_seq,
            self.first_ms,
            self.text_before,
            FORMAT_VERSION,
        ];
        for (field, place) in fields.iter().zip(bytes[8..].chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<FrameHeader> {
        if bytes[..4] != SKIPPABLE_MAGIC || bytes[4..8] != PAYLOAD_BYTES.to_le_bytes() {
            return None;
        }
        let field = |index: usize| {
            let at = 8 + index * 8;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        (field(3) == FORMAT_VERSION).then(|| FrameHeader {
            first_seq: field(0),
            first_ms: field(1),
            text_before: field(2),
        })
    }
}

/// The file of a segment.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}{SUFFIX}"))
}

/// The numbers of a folder's segments in order; none if there is no folder.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        numbers.extend(number.and_then(|digits| digits.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A file of a log, as who keeps order among logs sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size, compressed.
    pub bytes: u64,
    /// When something was added to it last, Unix time.
    pub written_at: Millis,
    /// It is the last of its folder: it may be added to, and the numbers of
    /// further lines go on from it.
    pub is_newest: bool,
}

/// The segments of a folder in order; none if there is no folder.
///
/// # Errors
/// If the folder can't be read. A segment that is removed meanwhile is not
/// among them.
pub fn segments(folder: &Path) -> io::Result<Vec<SegmentFile>> {
    let numbers = list(folder)?;
    let newest = numbers.last().copied();
    let files = numbers.into_iter().filter_map(|number| {
        let path = path(folder, number);
        let meta = fs::metadata(&path).ok()?;
        Some(SegmentFile {
            path,
            bytes: meta.len(),
            written_at: Millis(modified_ms(&meta)),
            is_newest: Some(number) == newest,
        })
    });
    Ok(files.collect())
}

fn modified_ms(meta: &fs::Metadata) -> u64 {
    let ms = meta.mtime() * 1_000 + meta.mtime_nsec() / 1_000_000;
    u64::try_from(ms).unwrap_or_default()
}

/// The header at the beginning of a segment, if there is a whole one.
pub(super) fn first_header(file: &mut File) -> io::Result<Option<FrameHeader>> {
    file.seek(SeekFrom::Start(0))?;
    read_header(file)
}

/// The last whole header for which `wanted` holds, with its offset. Frames
/// are in order, so it asks them in order and stops at the first refusal, at
/// a torn frame, or at anything that is no frame.
pub(super) fn last_header_where(
    file: &mut File,
    wanted: impl Fn(&FrameHeader) -> bool,
) -> io::Result<Option<(u64, FrameHeader)>> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let mut best = None;
    loop {
        let offset = reader.stream_position()?;
        match read_header(&mut reader)? {
            Some(header) if wanted(&header) => best = Some((offset, header)),
            _ => return Ok(best),
        }
        if !skip_frame(&mut reader)? {
            return Ok(best);
        }
    }
}

fn read_header(reader: &mut impl Read) -> io::Result<Option<FrameHeader>> {
    let mut bytes = [0; HEADER_BYTES];
    Ok(read_whole(reader, &mut bytes)?
        .then(|| FrameHeader::decode(&bytes))
        .flatten())
}

/// Steps over one zstd frame by its block headers (RFC 8878, section 3.1.1);
/// false if it is torn or none.
fn skip_frame(reader: &mut BufReader<&mut File>) -> io::Result<bool> {
    let mut start = [0; 5];
    if !read_whole(reader, &mut start)? || start[..4] != ZSTD_MAGIC {
        return Ok(false);
    }
    let descriptor = start[4];
    let single_segment = descriptor & 0x20 != 0;
    let checksum = if descriptor & 0x04 != 0 { 4 } else { 0 };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = match descriptor >> 6 {
        0 => i64::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    reader.seek_relative(i64::from(!single_segment) + dictionary + content_size)?;
    loop {
        let mut block = [0; 3];
        if !read_whole(reader, &mut block)? {
            return Ok(false);
        }
        let block = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        let run_length = block >> 1 & 3 == 1;
        let length = if run_length { 1 } else { i64::from(block >> 3) };
        reader.seek_relative(length)?;
        if block & 1 == 1 {
            reader.seek_relative(checksum)?;
            return Ok(true);
        }
    }
}

/// Fills the buffer; false if the file ends before.
fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

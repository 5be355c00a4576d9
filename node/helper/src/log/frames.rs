//! The segment that is being written: frames of compressed text, each behind
//! its header.
//!
//! It answers for the bytes of one file. When a segment is full, what follows
//! an error and which lines are written is decided in [`super::writer`].

use super::{
    WINDOW_LOG,
    segment::{self, FrameHeader},
};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

/// Compressed bytes between two writes to the file.
const OUTPUT_BYTES: usize = 16 << 10;

/// A segment that is being written.
pub(super) struct OpenSegment {
    path: PathBuf,
    file: File,
    encoder: Encoder,
    /// Compressed, with headers.
    bytes: u64,
    /// Of these, what makes whole blocks: readers see it.
    flushed_bytes: u64,
    /// Of text, all frames.
    text_bytes: u64,
    /// Of text in the open frame; none is open at 0.
    frame_text_bytes: usize,
    unflushed_bytes: usize,
    unflushed_lines: u64,
    /// When its first line was taken.
    first_ms: Option<u64>,
}

impl OpenSegment {
    pub(super) fn create(folder: &Path, number: u64) -> io::Result<OpenSegment> {
        let path = segment::path(folder, number);
        Ok(OpenSegment {
            encoder: Encoder::new()?,
            file: File::create_new(&path)?,
            path,
            bytes: 0,
            flushed_bytes: 0,
            text_bytes: 0,
            frame_text_bytes: 0,
            unflushed_bytes: 0,
            unflushed_lines: 0,
            first_ms: None,
        })
    }

    /// When its first line was taken; the end of time before that.
    pub(super) fn first_ms(&self) -> u64 {
        self.first_ms.unwrap_or(u64::MAX)
    }

    /// Compressed, with headers.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Text in the open frame.
    pub(super) fn frame_text_bytes(&self) -> usize {
        self.frame_text_bytes
    }

    /// Text that readers can't see yet.
    pub(super) fn unflushed_bytes(&self) -> usize {
        self.unflushed_bytes
    }

    pub(super) fn append(&mut self, record: &[u8], seq: u64, now: u64) -> io::Result<()> {
        self.first_ms.get_or_insert(now);
        if self.frame_text_bytes == 0 {
            let header = FrameHeader {
                first_seq: seq,
                first_ms: now,
                text_before: self.text_bytes,
            };
            self.file.write_all(&header.encode())?;
            self.bytes += segment::HEADER_BYTES as u64;
        }
        self.bytes += self.encoder.write(record, &mut self.file)?;
        self.text_bytes += record.len() as u64;
        self.frame_text_bytes += record.len();
        self.unflushed_bytes += record.len();
        self.unflushed_lines += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.unflushed_bytes > 0 {
            self.bytes += self.encoder.flush(&mut self.file)?;
            self.note_flushed();
        }
        Ok(())
    }

    pub(super) fn end_frame(&mut self) -> io::Result<()> {
        if self.frame_text_bytes > 0 {
            self.bytes += self.encoder.end(&mut self.file)?;
            self.frame_text_bytes = 0;
            self.note_flushed();
        }
        Ok(())
    }

    fn note_flushed(&mut self) {
        self.flushed_bytes = self.bytes;
        self.unflushed_bytes = 0;
        self.unflushed_lines = 0;
    }

    /// Synced here only: a sync for each frame would keep lines in the queue, and
    /// the task at its pipe, for as long as the disk likes.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end_frame()?;
        self.file.sync_data()
    }

    /// Ends it without waiting for the disk.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.end_frame()
    }

    /// After an error: cut to what readers can see, which may be nothing, so
    /// that what is tried again on a full disk leaves no files. The number of
    /// lines that go with it.
    pub(super) fn abandon(self) -> u64 {
        // If the disk refuses this too, the last frame is torn, which readers
        // know.
        let _ = match self.flushed_bytes {
            0 => fs::remove_file(&self.path),
            bytes => self.file.set_len(bytes),
        };
        self.unflushed_lines
    }
}

/// A zstd stream without a buffer of its own beyond what is on its way to the
/// file.
struct Encoder {
    context: CCtx<'static>,
    output: Vec<u8>,
}

impl Encoder {
    fn new() -> io::Result<Encoder> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        for parameter in [
            CParameter::CompressionLevel(1),
            CParameter::WindowLog(WINDOW_LOG),
            CParameter::ChecksumFlag(true),
        ] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        Ok(Encoder {
            context,
            output: Vec::with_capacity(OUTPUT_BYTES),
        })
    }

    fn write(&mut self, text: &[u8], file: &mut File) -> io::Result<u64> {
        let mut input = InBuffer::around(text);
        let mut written = 0;
        while input.pos() < text.len() {
            self.output.clear();
            let mut output = OutBuffer::around(&mut self.output);
            self.context
                .compress_stream(&mut output, &mut input)
                .map_err(zstd_error)?;
            file.write_all(&self.output)?;
            written += self.output.len() as u64;
        }
        Ok(written)
    }

    fn flush(&mut self, file: &mut File) -> io::Result<u64> {
        self.drain(file, |context, output| context.flush_stream(output))
    }

    fn end(&mut self, file: &mut File) -> io::Result<u64> {
        let written = self.drain(file, |context, output| context.end_stream(output))?;
        self.context
            .reset(ResetDirective::SessionOnly)
            .map_err(zstd_error)?;
        Ok(written)
    }

    fn drain(
        &mut self,
        file: &mut File,
        step: impl Fn(&mut CCtx<'static>, &mut OutBuffer<'_, Vec<u8>>) -> Result<usize, usize>,
    ) -> io::Result<u64> {
        let mut written = 0;
        loop {
            self.output.clear();
            let mut output = OutBuffer::around(&mut self.output);
            let left = step(&mut self.context, &mut output).map_err(zstd_error)?;
            file.write_all(&self.output)?;
            written += self.output.len() as u64;
            if left == 0 {
                return Ok(written);
            }
        }
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

//! The bytes of SFTP, version 3 (draft-ietf-secsh-filexfer-02), as OpenSSH
//! speaks it: packets, strings and attributes. Pure.

use std::{
    ffi::OsStr,
    fs::Metadata,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// Longest packet either way; OpenSSH's number.
pub(super) const PACKET_BYTES_MAX: usize = 256 << 10;

/// The version that is spoken.
pub(super) const VERSION: u32 = 3;

/// Kinds of packets.
pub(super) mod kind {
    pub(in crate::sftp) const INIT: u8 = 1;
    pub(in crate::sftp) const VERSION: u8 = 2;
    pub(in crate::sftp) const OPEN: u8 = 3;
    pub(in crate::sftp) const CLOSE: u8 = 4;
    pub(in crate::sftp) const READ: u8 = 5;
    pub(in crate::sftp) const WRITE: u8 = 6;
    pub(in crate::sftp) const LSTAT: u8 = 7;
    pub(in crate::sftp) const FSTAT: u8 = 8;
    pub(in crate::sftp) const SETSTAT: u8 = 9;
    pub(in crate::sftp) const FSETSTAT: u8 = 10;
    pub(in crate::sftp) const OPENDIR: u8 = 11;
    pub(in crate::sftp) const READDIR: u8 = 12;
    pub(in crate::sftp) const REMOVE: u8 = 13;
    pub(in crate::sftp) const MKDIR: u8 = 14;
    pub(in crate::sftp) const RMDIR: u8 = 15;
    pub(in crate::sftp) const REALPATH: u8 = 16;
    pub(in crate::sftp) const STAT: u8 = 17;
    pub(in crate::sftp) const RENAME: u8 = 18;
    pub(in crate::sftp) const READLINK: u8 = 19;
    pub(in crate::sftp) const SYMLINK: u8 = 20;
    pub(in crate::sftp) const STATUS: u8 = 101;
    pub(in crate::sftp) const HANDLE: u8 = 102;
    pub(in crate::sftp) const DATA: u8 = 103;
    pub(in crate::sftp) const NAME: u8 = 104;
    pub(in crate::sftp) const ATTRS: u8 = 105;
    pub(in crate::sftp) const EXTENDED: u8 = 200;
}

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_MORE: u32 = 1 << 31;

/// A packet's fields that are still to be read. Each is `None` if the packet
/// ends before it.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    pub(super) fn long(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }

    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    /// Nothing is where the session began: the task's folder.
    pub(super) fn path(&mut self) -> Option<&'a Path> {
        let text = self.text()?;
        let text = if text.is_empty() { b"." } else { text };
        Some(Path::new(OsStr::from_bytes(text)))
    }

    pub(super) fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.number()?;
        let mut attributes = Attributes::default();
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(self.long()?);
        }
        if flags & HAS_OWNER != 0 {
            attributes.owner = Some((self.number()?, self.number()?));
        }
        if flags & HAS_MODE != 0 {
            attributes.mode = Some(self.number()?);
        }
        if flags & HAS_TIMES != 0 {
            attributes.times = Some((self.number()?, self.number()?));
        }
        if flags & HAS_MORE != 0 {
            for _ in 0..self.number()? {
                self.text()?;
                self.text()?;
            }
        }
        Some(attributes)
    }
}

/// What is said of a file, as far as it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
    /// Of the last read and the last change, Unix seconds.
    pub(super) times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn of(found: &Metadata) -> Attributes {
        let seconds = |at: i64| u32::try_from(at).unwrap_or(0);
        Attributes {
            size: Some(found.size()),
            owner: Some((found.uid(), found.gid())),
            mode: Some(found.mode()),
            times: Some((seconds(found.atime()), seconds(found.mtime()))),
        }
    }
}

/// An answer that is being written.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    pub(super) fn new(kind: u8) -> Answer {
        Answer(vec![0, 0, 0, 0, kind])
    }

    pub(super) fn number(mut self, number: u32) -> Answer {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn text(mut self, text: &[u8]) -> Answer {
        self.0.extend((text.len() as u32).to_be_bytes());
        self.0.extend(text);
        self
    }

    pub(super) fn attributes(mut self, attributes: &Attributes) -> Answer {
        let flag = |is_there: bool, flag: u32| if is_there { flag } else { 0 };
        let flags = flag(attributes.size.is_some(), HAS_SIZE)
            | flag(attributes.owner.is_some(), HAS_OWNER)
            | flag(attributes.mode.is_some(), HAS_MODE)
            | flag(attributes.times.is_some(), HAS_TIMES);
        self = self.number(flags);
        if let Some(size) = attributes.size {
            self.0.extend(size.to_be_bytes());
        }
        if let Some((user, group)) = attributes.owner {
            self = self.number(user).number(group);
        }
        if let Some(mode) = attributes.mode {
            self = self.number(mode);
        }
        if let Some((read, changed)) = attributes.times {
            self = self.number(read).number(changed);
        }
        self
    }

    /// The whole packet.
    pub(super) fn bytes(mut self) -> Vec<u8> {
        let length = self.0.len() as u32 - 4;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// The next packet without its length; `None` at the end between two.
pub(super) fn read_packet(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let first = loop {
        match input.read(&mut length[..1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    input.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > PACKET_BYTES_MAX {
        let message = format!("a packet of {length} bytes is not between 1 and {PACKET_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut packet = vec![0; length];
    input.read_exact(&mut packet)?;
    Ok(Some(packet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn attributes_come_back(
            size: Option<u64>,
            owner: Option<(u32, u32)>,
            mode: Option<u32>,
            times: Option<(u32, u32)>,
        ) {
            let attributes = Attributes { size, owner, mode, times };
            let bytes = Answer::new(kind::ATTRS).attributes(&attributes).bytes();
            let packet = read_packet(&mut &bytes[..]).unwrap().unwrap();
            let mut fields = Fields(&packet);
            prop_assert_eq!(fields.byte(), Some(kind::ATTRS));
            prop_assert_eq!(fields.attributes(), Some(attributes));
            prop_assert!(fields.0.is_empty());
        }

        #[test]
        fn whatever_comes_is_read_or_refused(bytes: Vec<u8>) {
            let mut fields = Fields(&bytes);
            let _ = fields.attributes();
            let _ = read_packet(&mut &bytes[..]);
        }
    }

    #[test]
    fn packets_are_bounded() {
        let long = (PACKET_BYTES_MAX as u32 + 1).to_be_bytes();
        assert!(read_packet(&mut &long[..]).is_err());
        assert!(read_packet(&mut &[0, 0, 0, 0][..]).is_err());
        assert!(read_packet(&mut &[0, 0][..]).is_err());
        assert!(read_packet(&mut &[][..]).unwrap().is_none());
    }
}

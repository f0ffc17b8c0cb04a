//! What an archive knows of one file system object (spec/format.md, section 7).
//!
//! The contents of all files of an archive form one raw stream, which is cut into chunks without
//! regard to where files begin. A file is a list of extents of that stream.

/// Number of an entry in the archive, in the order in which entries were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u32);

/// Number of a chunk in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub u32);

/// The hash of a file's content: the first 16 bytes of its BLAKE3; of content below `SHORT_DATA`
/// bytes the first 6, followed by zeros.
pub type ContentHash = [u8; 16];

/// Content of fewer bytes than this has a short hash, so that the hash stays a small part of what
/// it checks.
pub const SHORT_DATA: u64 = 4096;
/// Bytes of a short hash.
pub const SHORT_HASH: usize = 6;

/// The content hash of `len` bytes of data whose BLAKE3 is `digest`.
pub fn content_hash(digest: &[u8; 32], len: u64) -> ContentHash {
    let mut hash = [0; 16];
    let kept = hash_len(len);
    hash[..kept].copy_from_slice(&digest[..kept]);
    hash
}

/// How many bytes of the hash of `len` bytes of data are stored; the others are zeros.
pub fn hash_len(len: u64) -> usize {
    if len < SHORT_DATA { SHORT_HASH } else { 16 }
}

/// One file system object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the archive's root: components joined by `/`, no leading or trailing `/`, no
    /// empty, `.` or `..` component, no NUL. All other bytes are allowed. The path of the root
    /// itself is empty.
    pub path: Vec<u8>,
    /// What kind of object it is, with what belongs to that kind.
    pub kind: Kind,
    /// The lower twelve bits of `st_mode`: permissions, set-user-ID, set-group-ID and sticky.
    pub mode: u16,
    /// Number of the user who owns the object.
    pub uid: u32,
    /// Number of the group that owns the object.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Timestamp,
    /// Extended attributes as pairs of name and value, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Bytes of a file's data, without its holes; 0 for what is not a file.
    pub fn data_len(&self) -> u64 {
        match &self.kind {
            Kind::File { extents, .. } => {
                extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.len))
            }
            _ => 0,
        }
    }
}

/// A point in time as seconds and nanoseconds since 1970 (UTC), as `st_mtim` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970; negative before.
    pub secs: i64,
    /// Nanoseconds of the second, below 1,000,000,000.
    pub nanos: u32,
}

/// The kind of a file system object, with what belongs to that kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes, holes included.
        size: u64,
        /// Where the file's data stand in the raw stream.
        extents: Vec<Extent>,
        /// Hash of the bytes of all extents in order.
        hash: ContentHash,
    },
    /// A symbolic link.
    Symlink {
        /// The path that the link holds: any bytes but NUL, not empty.
        target: Vec<u8>,
    },
    /// Another name of an earlier `File` entry.
    Hardlink {
        /// The `File` entry.
        target: EntryId,
    },
    /// A named pipe.
    Fifo,
    /// A socket of the local domain.
    Socket,
    /// A character device.
    CharDevice {
        /// Major device number.
        major: u32,
        /// Minor device number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major device number.
        major: u32,
        /// Minor device number.
        minor: u32,
    },
}

/// A range of a file that has data, and where these stand in the raw stream.
///
/// The extents of a file are sorted by `file_offset` and do not overlap. Bytes of the file that no
/// extent covers are zeros (holes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset of the range in the file.
    pub file_offset: u64,
    /// Offset of the data in the raw stream.
    pub raw_offset: u64,
    /// Length of the range in bytes.
    pub len: u64,
}

//! What an archive knows of one file system object (spec/format.md, section "Entries").
//!
//! All file contents of an archive form one raw stream, cut into chunks without regard to file
//! boundaries; a file is a list of extents of that stream.

/// Number of an entry in the archive, in the order in which entries were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u32);

/// Number of a chunk in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub u32);

/// First 16 bytes of the BLAKE3 of a file's content; of short content the first 6, and zeros.
pub type ContentHash = [u8; 16];

/// Data of fewer bytes have a short hash: its checks are no longer than a small part of what they check.
pub const SHORT_DATA: u64 = 4096;
/// Bytes of a short hash.
pub const SHORT_HASH: usize = 6;

/// The hash of data of `len` bytes whose BLAKE3 is `digest`.
pub fn content_hash(digest: &[u8; 32], len: u64) -> ContentHash {
    let mut hash = [0; 16];
    let kept = hash_len(len);
    hash[..kept].copy_from_slice(&digest[..kept]);
    hash
}

/// Bytes of the hash of data of `len` bytes that are stored; the rest is zeros.
pub fn hash_len(len: u64) -> usize {
    if len < SHORT_DATA { SHORT_HASH } else { 16 }
}

/// One file system object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the archive's root: components joined by `/`, no leading or trailing `/`, no
    /// empty, `.` or `..` component, no NUL. Any other bytes. Empty for the root itself.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// The lower twelve bits of `st_mode`.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Bytes of a file that are no holes; none of what is no file.
    pub fn data_len(&self) -> u64 {
        match &self.kind {
            Kind::File { extents, .. } => {
                extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.len))
            }
            _ => 0,
        }
    }
}

/// Seconds and nanoseconds since 1970, as `st_mtim` has them. `nanos < 1_000_000_000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

/// What kind of object an entry is, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File {
        size: u64,
        extents: Vec<Extent>,
        hash: ContentHash,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of an earlier `File` entry.
    Hardlink {
        target: EntryId,
    },
    Fifo,
    Socket,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// `len` bytes of a file from `file_offset` on, found in the raw stream at `raw_offset`.
/// Extents are sorted by `file_offset` and do not overlap; bytes that none covers are zeros (holes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub file_offset: u64,
    pub raw_offset: u64,
    pub len: u64,
}

//! Upper bounds of everything that an archive may claim (spec/format.md).
//!
//! A claim above its bound is refused where it is read, so that no reader allocates more or works
//! longer for it.

/// The smallest raw length of a full chunk, in bytes.
pub const CHUNK_SIZE_MIN: u32 = 4 << 10;
/// The largest raw length of a full chunk, and of a block, in bytes.
pub const CHUNK_SIZE_MAX: u32 = 1 << 20;

/// Chunks that one chunk may name as history.
pub const REFS: usize = 8;
/// How deep such references may chain; the header states the bound of its archive.
pub const REF_DEPTH: u8 = 8;
/// Raw bytes that references may reach back: window times chunk size.
pub const REF_BYTES: u64 = 64 << 20;
/// Chunks that must be decoded to decode one, itself included.
pub const CLOSURE: usize = 64;

/// Raw bytes of a group.
pub const GROUP_LEN: u32 = 64 << 20;
/// Chunks of a group.
pub const GROUP_CHUNKS: u32 = 1 << 16;
/// Entries of a group.
pub const GROUP_ENTRIES: u32 = 1 << 16;
/// Bytes of all paths of a group, each written out in full.
pub const GROUP_PATH_BYTES: usize = 16 << 20;

/// Bytes of a frame's content, as stored and as unpacked.
pub const FRAME_LEN: u32 = 64 << 20;
/// The most bytes that `stored_len` bytes of a frame may unpack to: 4 MiB and 64 times as many.
pub fn unpacked_len(stored_len: u32) -> u32 {
    stored_len.saturating_mul(64).saturating_add(4 << 20)
}
/// Fewest bytes of a frame: a head without unpacked length, no content, and the CRC.
pub const FRAME_MIN: u32 = 14;
/// Bytes of content of a frame that carries a model file, as stored and as unpacked.
pub const MODEL_LEN: u32 = 512 << 20;
/// Bytes of a group's dictionary.
pub const DICTIONARY_LEN: u32 = 1 << 20;
/// Window of zstd data, as a power of two.
pub const ZSTD_WINDOW_LOG: u32 = 23;

/// Models of an archive.
pub const MODELS: usize = 255;
/// Bytes of a model's name.
pub const MODEL_NAME: usize = 255;

/// Bytes of a path.
pub const PATH_LEN: usize = 16 << 10;
/// Bytes of the target of a symbolic link.
pub const TARGET_LEN: usize = 16 << 10;
/// Bytes of the name of an extended attribute (Linux has 255).
pub const XATTR_NAME: usize = 1 << 10;
/// Bytes of the value of an extended attribute (Linux has 65,536).
pub const XATTR_VALUE: usize = 1 << 20;

/// Raw bytes of an archive, and bytes of a file: as many as an `off_t` can count.
pub const RAW_LEN: u64 = i64::MAX as u64;

//! Upper bounds of everything that an archive may claim (spec/format.md, section 10).
//!
//! A claim above its bound is refused where it is read, so that no reader holds or does more.

/// Smallest and largest raw length of a full chunk.
pub const CHUNK_SIZE_MIN: u32 = 4 << 10;
pub const CHUNK_SIZE_MAX: u32 = 1 << 20;

/// Chunks that one chunk may name as history.
pub const REFS: usize = 8;
/// How deep such references may chain; the header states the bound of its archive.
pub const REF_DEPTH: u8 = 8;
/// Raw bytes that references may reach back: window times chunk size.
pub const REF_BYTES: u64 = 64 << 20;
/// Chunks that must be decoded to decode one, itself included.
pub const CLOSURE: usize = 64;

/// Raw bytes, chunks and entries of a group.
pub const GROUP_LEN: u32 = 64 << 20;
pub const GROUP_CHUNKS: u32 = 1 << 16;
pub const GROUP_ENTRIES: u32 = 1 << 16;
/// Bytes of all paths of a group, written out.
pub const GROUP_PATH_BYTES: usize = 16 << 20;

/// Bytes of a frame, as stored and unpacked.
pub const FRAME_LEN: u32 = 64 << 20;
/// To how many bytes a frame of `stored_len` may unpack: 4 MiB and 64 times as many.
pub fn unpacked_len(stored_len: u32) -> u32 {
    stored_len.saturating_mul(64).saturating_add(4 << 20)
}
/// Fewest bytes of a frame.
pub const FRAME_MIN: u32 = 14;
/// The same for a frame that carries a model file.
pub const MODEL_LEN: u32 = 512 << 20;
/// Bytes of a group's dictionary.
pub const DICTIONARY_LEN: u32 = 1 << 20;
/// Window of a zstd frame, as a power of two.
pub const ZSTD_WINDOW_LOG: u32 = 23;

/// Models of an archive, and bytes of a model's name.
pub const MODELS: usize = 255;
pub const MODEL_NAME: usize = 255;

/// Bytes of a path, and of a link's target.
pub const PATH_LEN: usize = 16 << 10;
pub const TARGET_LEN: usize = 16 << 10;
/// Bytes of the name and the value of an extended attribute (Linux has 255 and 65,536).
pub const XATTR_NAME: usize = 1 << 10;
pub const XATTR_VALUE: usize = 1 << 20;

/// Raw bytes of an archive, and of a file's size: what an `off_t` holds.
pub const RAW_LEN: u64 = i64::MAX as u64;

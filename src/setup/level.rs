//! What `-l 1` to `-l 9` stand for. Options that say otherwise go before a level.

use crate::archive::write::blocks::LZ_BYTES_PER_MS;

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Names of models, the first that is at hand counts; none to pack with zstd alone.
    pub models: &'static [&'static str],
    pub chunk_size: u32,
    pub references: u8,
    pub depth: u8,
    /// Learned sequences that are tried for a chunk, beside the empty one.
    pub effort: u16,
    /// zstd's level.
    pub zstd: i32,
    /// Most bytes of a group's dictionary.
    pub dictionary: u32,
    /// Milliseconds that a cold read may take on the nominal machine: how long blocks are; 0 for no blocks.
    pub read_time: u32,
    /// Files are looked at first, to bring those that are alike together.
    pub arrange: bool,
}

/// The level of who names none.
pub(crate) const DEFAULT: u8 = 5;

const DICTIONARY: u32 = 112 << 10;

const LEVELS: [Level; 9] = {
    let fast = Level {
        models: &[],
        chunk_size: 16 << 10,
        references: 0,
        depth: 1,
        effort: 1,
        zstd: 3,
        dictionary: DICTIONARY,
        read_time: 0,
        arrange: false,
    };
    let dense = Level { arrange: true, references: 8, depth: 4, zstd: 19, ..fast };
    // Chunks of 8 KiB that look back on others are smaller than ones of 16 KiB that stand alone, and a read
    // decodes hardly more bytes (docs/research/references.md).
    let small = Level { chunk_size: 8 << 10, references: 4, depth: 2, dictionary: 0, read_time: 20, ..dense };
    let small = Level { models: &["default"], ..small };
    let large = Level { chunk_size: 32 << 10, references: 8, depth: 4, ..small };
    [
        fast,
        Level { zstd: 9, references: 4, depth: 2, ..dense },
        dense,
        Level { models: &["nano", "default"], ..small },
        small,
        Level { chunk_size: 16 << 10, ..small },
        large,
        Level { effort: 4, ..large },
        Level { models: &["base", "default"], chunk_size: 64 << 10, effort: 8, ..large },
    ]
};

/// What a level from 1 to 9 stands for; beyond them, the nearest.
pub(crate) fn level(number: u8) -> Level {
    LEVELS[usize::from(number.clamp(1, 9)) - 1]
}

/// Raw bytes of the longest block that is read in so many milliseconds.
pub(crate) fn block_len(read_time: u32) -> u32 {
    match read_time {
        0 => 0,
        ms => ms.saturating_mul(LZ_BYTES_PER_MS).clamp(64 << 10, 1 << 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_keep_the_bounds_of_the_format() {
        for number in 0..=u8::MAX {
            let level = level(number);
            assert!((4 << 10..=1 << 20).contains(&level.chunk_size));
            assert!(level.references <= 8 && (1..=8).contains(&level.depth));
            assert!((1..=22).contains(&level.zstd) && level.dictionary <= 1 << 20);
            assert!(level.models.is_empty() || level.models.ends_with(&["default"]));
        }
        assert_eq!(level(DEFAULT).models, ["default"]);
    }
}

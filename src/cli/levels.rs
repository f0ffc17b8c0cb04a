//! What `-l 1` to `-l 9` stand for. Options that say otherwise go before a level.

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
        arrange: false,
    };
    let dense = Level { arrange: true, references: 8, depth: 4, zstd: 19, ..fast };
    let small = Level { models: &["default"], references: 0, dictionary: 0, ..dense };
    [
        fast,
        Level { zstd: 9, references: 4, depth: 2, ..dense },
        dense,
        Level { models: &["nano", "default"], ..small },
        small,
        Level { references: 2, depth: 1, ..small },
        Level { references: 4, depth: 2, ..small },
        Level { references: 8, effort: 4, ..small },
        Level { models: &["base", "default"], references: 8, effort: 8, ..small },
    ]
};

/// What a level from 1 to 9 stands for; beyond them, the nearest.
pub(crate) fn level(number: u8) -> Level {
    LEVELS[usize::from(number.clamp(1, 9)) - 1]
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

//! The header of a tar member: its fields and its checksum.

/// Everything in a tar stream is in blocks of this length.
pub(crate) const BLOCK: usize = 512;

/// Sum of a header's bytes, its own field counted as blanks; and the same with signed bytes, as some
/// have it.
pub(crate) fn checksums(header: &[u8; BLOCK]) -> (i64, i64) {
    let sum = |value: fn(u8) -> i64| -> i64 {
        let counted =
            |(at, &byte): (usize, &u8)| value(if field::CHECKSUM.contains(&at) { b' ' } else { byte });
        header.iter().enumerate().map(counted).sum()
    };
    (sum(i64::from), sum(|byte| i64::from(byte as i8)))
}

/// Where the fields of a header lie. Those of `prefix` are ustar's, GNU has others there.
pub(crate) mod field {
    use std::ops::Range;

    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MTIME: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const KIND: usize = 156;
    pub const LINK: Range<usize> = 157..257;
    pub const MAGIC: Range<usize> = 257..265;
    pub const MAJOR: Range<usize> = 329..337;
    pub const MINOR: Range<usize> = 337..345;
    pub const PREFIX: Range<usize> = 345..500;
    pub const GNU_SPARSE: Range<usize> = 386..482;
    pub const GNU_EXTENDED: usize = 482;
    pub const GNU_REAL_SIZE: Range<usize> = 483..495;
}

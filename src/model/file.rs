//! The elements of a model file (spec/numerics.md section 11), and bounds that its writer and its
//! loader share.

/// Metadata entry that holds the header.
pub const HEADER_KEY: &str = "s3a";
/// Largest magnitude of a bias.
pub(crate) const BIAS_MAX: i32 = 1 << 20;

/// The elements of a tensor, all at once.
pub fn numbers<T: Clone + Default>(bytes: &[u8], read_into: fn(&[u8], &mut [T])) -> Vec<T> {
    let mut all = vec![T::default(); bytes.len() / size_of::<T>()];
    read_into(bytes, &mut all);
    all
}

/// Values of a table that is stored in halves of bytes (spec section 11).
pub fn nibbles(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().flat_map(|&byte| [byte & 15, byte >> 4]).map(|half| half as i8 - 8).collect()
}

/// The tensor of the first set of weights to which a tensor of another set is stored as the
/// difference (spec section 11).
pub(crate) fn first_set(name: &str) -> Option<&str> {
    Some(name.strip_prefix("expert.")?.split_once('.')?.1)
}

/// Turns the differences of weights to those of the first set, modulo 256, into weights.
pub(crate) fn add(differences: &mut [u8], first: &[u8]) {
    differences.iter_mut().zip(first).for_each(|(byte, &first)| *byte = byte.wrapping_add(first));
}

/// The bound of `linear` for a row whose weights' magnitudes add up to `sum`.
pub(crate) fn row_bound_holds(sum: u32, pre: u32) -> bool {
    127 * u64::from(sum) < (1 << (14 + pre)) - (1 << pre)
}

//! Maps of sparse files in tar streams: those of GNU's old headers and of the three forms that its
//! pax headers have.

use super::number::{decimal, read};

/// Where data lie in a file: (offset, length), in order.
pub type Map = Vec<(u64, u64)>;

/// How many parts a file may have; GNU's headers would allow any number.
pub const PARTS: usize = 1 << 20;

/// Adds the parts in a run of pairs of twelve-byte fields; an empty pair ends them.
pub fn read_old(fields: &[u8], map: &mut Map) -> Option<()> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let (offset, len) = (read(&pair[..12])?, read(&pair[12..])?);
        map.push((offset.try_into().ok()?, len.try_into().ok()?));
    }
    (map.len() <= PARTS).then_some(())
}

/// The map of form 0.1: decimals with commas between them.
pub fn read_commas(text: &[u8]) -> Option<Map> {
    if text.is_empty() {
        return Some(Map::new());
    }
    let numbers: Option<Vec<u64>> = text.split(|&b| b == b',').map(decimal).collect();
    let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0 && numbers.len() <= 2 * PARTS)?;
    Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The map of form 1.0, which stands before the data: a count and pairs, a number a line.
pub fn write_lines(map: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, len) in map {
        text += &format!("{offset}\n{len}\n");
    }
    text.into_bytes()
}

/// Parts in order, within the file, as long together as the data; empty ones are left out.
pub fn check(map: Map, size: u64, data_len: u64) -> Option<Map> {
    let (mut end, mut sum) = (0u64, 0u64);
    for &(offset, len) in &map {
        let over = offset.checked_add(len).filter(|&over| offset >= end && over <= size)?;
        (end, sum) = (over, sum + len);
    }
    (sum == data_len).then(|| map.into_iter().filter(|(_, len)| *len > 0).collect())
}

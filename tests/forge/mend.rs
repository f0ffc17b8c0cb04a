/// Makes the CRCs of all frames and of the trailer right, as far as lengths lead from frame to
/// frame. Chunks stay as they are, since their CRC depends on their group.
pub fn mend(bytes: &mut [u8]) {
    if bytes.len() < s3a::wire::header::HEADER_LEN {
        return;
    }
    let crc = crc32fast::hash(&bytes[..s3a::wire::header::HEADER_LEN - 4]);
    bytes[s3a::wire::header::HEADER_LEN - 4..s3a::wire::header::HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    let mut at = s3a::wire::header::HEADER_LEN;
    while at + 14 <= bytes.len() {
        let Some(found) = bytes[at..].windows(4).position(|w| w == s3a::wire::frame::MARKER || w == s3a::wire::index::TRAILER_MARKER) else { return };
        at += found;
        if bytes[at..].starts_with(&s3a::wire::index::TRAILER_MARKER) {
            if let Some(trailer) = bytes.get_mut(at..at + s3a::wire::index::TRAILER_LEN) {
                let crc = crc32fast::hash(&trailer[..24]);
                trailer[24..28].copy_from_slice(&crc.to_le_bytes());
            }
            at += 4;
            continue;
        }
        let packed = bytes.get(at + 5).is_some_and(|flags| flags & 1 != 0);
        let Some(len) = bytes.get(at + 6..at + 10) else { return };
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        let end = at.saturating_add(if packed { 14 } else { 10 }).saturating_add(len);
        if end.saturating_add(4) <= bytes.len() {
            let crc = crc32fast::hash(&bytes[at..end]);
            bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
            at = end + 4;
        } else {
            at += 4;
        }
    }
}

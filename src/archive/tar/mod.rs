//! tar streams: read as input of archives, and written from them.
//!
//! Read are the formats ustar, pax and GNU, with long names, extended attributes, times in
//! nanoseconds and sparse files; written is pax, with extended headers only where a plain one does
//! not do. Names and values are bytes throughout. Nothing is held but one member's headers, which
//! are bounded.

pub(crate) mod header;
pub mod number;
pub mod read;
pub mod sparse;
pub mod write;

pub use read::{End, Member, MemberKind, TarReader};
pub use write::TarWriter;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::archive::tar::header::BLOCK;
    use crate::wire::entry::Timestamp;

    fn member(path: &[u8], kind: MemberKind, size: u64) -> Member {
        Member { path: path.to_vec(), kind, mode: 0o644, size, ..Member::default() }
    }

    #[test]
    fn members_come_back_whatever_they_are_called() {
        let long = [b"folder/".repeat(40), b"name\nwith\xff".to_vec()].concat();
        let link = MemberKind::Symlink { target: [b"../".repeat(90), b"x\ny".to_vec()].concat() };
        let mut odd = member(&long, MemberKind::File, 5);
        odd.mtime = Timestamp { secs: -7, nanos: 250_000_001 };
        (odd.uid, odd.gid) = (u32::MAX, 4_000_000_000);
        odd.xattrs = vec![(b"user.a=b".to_vec(), b"1\n2\0\xff".to_vec()), (b"user.empty".to_vec(), vec![])];
        let mut sparse = member(b"sparse", MemberKind::File, 1 << 40);
        sparse.segments = Some(vec![(0, 3), (1 << 30, 600), ((1 << 40) - 4, 4)]);
        let mut hole = member(b"hole", MemberKind::File, 1 << 20);
        hole.segments = Some(vec![]);
        let members = [
            (member(b"", MemberKind::Folder, 0), &b""[..]),
            (member(b"plain", MemberKind::File, 0), b""),
            (member(&[b'p'; 200], MemberKind::Folder, 0), b""),
            (odd, b"bytes"),
            (member(b"link", link, 0), b""),
            (member(b"hard", MemberKind::Hardlink { target: long }, 0), b""),
            (sparse, &[7; 607]),
            (hole, b""),
            (member(b"tty", MemberKind::CharDevice { major: 5, minor: 1 }, 0), b""),
            (member(b"disk", MemberKind::BlockDevice { major: 8, minor: 300 }, 0), b""),
            (member(b"fifo", MemberKind::Fifo, 0), b""),
        ];
        let mut writer = TarWriter::new(Vec::new());
        for (member, data) in &members {
            writer.member(member).unwrap();
            writer.data(data).unwrap();
        }
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % 10240, 0);
        let mut reader = TarReader::new(&bytes[..]);
        for (member, data) in &members {
            let found = reader.next_member().unwrap().unwrap();
            assert_eq!(found, *member);
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            assert!(content == *data);
        }
        assert!(reader.next_member().unwrap().is_none());
    }

    #[test]
    fn cut_and_flipped_streams_are_errors_or_other_members_and_never_panic() {
        let mut writer = TarWriter::new(Vec::new());
        let mut odd = member(&[b'x'; 300], MemberKind::File, 3000);
        odd.segments = Some(vec![(5, 700), (2000, 1000)]);
        odd.xattrs = vec![(b"user.k".to_vec(), b"v".to_vec())];
        writer.member(&odd).unwrap();
        writer.data(&[1; 1700]).unwrap();
        let bytes = writer.finish().unwrap();
        let drain = |bytes: &[u8]| -> std::io::Result<()> {
            let mut reader = TarReader::new(bytes);
            while reader.next_member()?.is_some() {
                std::io::copy(&mut reader, &mut std::io::sink())?;
            }
            Ok(())
        };
        drain(&bytes).unwrap();
        let end = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
        // Miri would take an hour for all of them.
        let step = if cfg!(miri) { 9973 } else { 1 };
        for cut in (1..end).step_by(step).filter(|cut| cut % BLOCK != 0) {
            assert!(drain(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in (0..end * 8).step_by(step) {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = drain(&bytes);
        }
    }
}

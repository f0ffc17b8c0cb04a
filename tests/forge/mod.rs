//! Archives with any claims, and with correct checksums.
//!
//! An archive is taken apart into its records. A test changes these as structures or as bytes, and
//! gets the file that a hostile writer would make.
#![allow(dead_code)]

use s3a::archive::{Entry, Kind, Timestamp};
use s3a::codec::Codec;
use s3a::wire::chunk::{ChunkHead, Place, plain_check, write_chunk};
use s3a::wire::entries::{Base, Entries};
use s3a::wire::frame::{FrameKind, write_frame};
use s3a::wire::group::{Group, Table};
use s3a::wire::header::{HEADER_LEN, Header, MAJOR, MINOR};
use s3a::wire::index::{GroupRecord, Index, TRAILER_END, TRAILER_LEN, TRAILER_MARKER};
use s3a::wire::models::{ModelRef, write_models};

type Change<T> = Box<dyn Fn(&mut T)>;
type Bytes = Change<Vec<u8>>;

/// One group; parts that are `None` are derived from the others.
pub struct ForgedGroup {
    pub entries: Entries,
    pub chunks: Vec<(ChunkHead, Vec<u8>)>,
    pub group: Group,
    pub table: Option<Table>,
    /// Changes the content of the GROUP frame before its CRC is made.
    pub group_bytes: Option<Bytes>,
    /// Likewise for the ENTRIES frame.
    pub entries_bytes: Option<Bytes>,
    /// Likewise for the TABLE frame.
    pub table_bytes: Option<Bytes>,
}

pub struct Forged {
    pub header: Header,
    pub models: Vec<ModelRef>,
    pub groups: Vec<ForgedGroup>,
    pub index: Option<Change<Index>>,
    pub index_bytes: Option<Bytes>,
    /// Changes generation, index length and archive length of the trailer.
    pub trailer: Option<Change<(u32, u64, u64)>>,
    /// Changes the bytes of the header before its CRC is made.
    pub header_bytes: Option<Bytes>,
    /// Bytes between the groups and the index.
    pub before_index: Vec<u8>,
}

pub fn entry(path: &str, kind: Kind) -> Entry {
    let mtime = Timestamp { secs: 1_700_000_000, nanos: 0 };
    Entry { path: path.into(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: vec![] }
}

/// A file with these extents, each as offset in the file, raw offset, and length.
pub fn file(path: &str, size: u64, extents: &[(u64, u64, u64)]) -> Entry {
    let extents = extents
        .iter()
        .map(|&(file_offset, raw_offset, len)| s3a::archive::Extent { file_offset, raw_offset, len })
        .collect();
    entry(path, Kind::File { size, extents, hash: [7; 16] })
}

/// A stored chunk of zeros.
pub fn stored(len: u32) -> (ChunkHead, Vec<u8>) {
    let head = ChunkHead { codec: Codec::Stored, model: 0, raw_len: len, coded_len: len, refs: vec![] };
    (head, vec![0; len as usize])
}

impl ForgedGroup {
    pub fn new(entries: Vec<Entry>, chunks: Vec<(ChunkHead, Vec<u8>)>) -> Self {
        let group = Group {
            salt: 5,
            raw_len: chunks.iter().map(|(head, _)| head.raw_len).sum(),
            chunk_size: 4096,
            chunk_count: chunks.len() as u32,
            entry_count: entries.len() as u32,
            dictionary_len: 0,
            body_len: 0,
            models: vec![],
        };
        let entries = Entries { salt: 5, ended: None, open: false, first_raw: 0, entries };
        Self {
            entries,
            chunks,
            group,
            table: None,
            group_bytes: None,
            entries_bytes: None,
            table_bytes: None,
        }
    }

    fn frames(&self, base: Base) -> (Group, u32, Vec<u8>, Vec<u8>, Vec<u8>) {
        let (mut body, mut frame_lens) = (Vec::new(), Vec::new());
        for (index, (head, payload)) in (0..).zip(&self.chunks) {
            let start = body.len();
            let check = plain_check(&vec![0; head.raw_len as usize]);
            let place = Place { salt: self.group.salt, index };
            write_chunk(head, self.group.chunk_size, payload, check, place, &mut body);
            frame_lens.push((body.len() - start) as u32);
        }
        let body_len = if self.group.body_len > 0 { self.group.body_len } else { body.len() as u32 };
        let group = Group { body_len, ..self.group.clone() };
        let seal = |kind, plain: &mut Vec<u8>, change: &Option<Bytes>, out: &mut Vec<u8>| {
            if let Some(change) = change {
                change(plain);
            }
            write_frame(kind, plain, out).unwrap()
        };
        let (mut head, mut plain) = (Vec::new(), Vec::new());
        group.write(&mut plain);
        let crc = seal(FrameKind::Group, &mut plain, &self.group_bytes, &mut head);
        plain.clear();
        self.entries.write(base, &mut plain);
        seal(FrameKind::Entries, &mut plain, &self.entries_bytes, &mut head);
        plain.clear();
        let raw_lens = self.chunks.iter().map(|(head, _)| head.raw_len).collect();
        let table = self.table.clone().unwrap_or(Table { group: group.clone(), frame_lens, raw_lens });
        table.write(&mut plain);
        let mut end = Vec::new();
        seal(FrameKind::Table, &mut plain, &self.table_bytes, &mut end);
        (group, crc, head, body, end)
    }
}

impl Forged {
    /// An archive of groups whose files are whole and correct, except for their hashes.
    pub fn new(groups: Vec<ForgedGroup>) -> Self {
        let header = Header {
            major: MAJOR,
            minor: MINOR,
            required: 0,
            optional: 0,
            chunk_size: 4096,
            ref_depth: 8,
            ref_window: 4096,
            group_len: 1 << 20,
        };
        Self {
            header,
            models: vec![],
            groups,
            index: None,
            index_bytes: None,
            trailer: None,
            header_bytes: None,
            before_index: vec![],
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header.write().to_vec();
        if let Some(change) = &self.header_bytes {
            change(&mut out);
            let crc = crc32fast::hash(&out[..HEADER_LEN - 4]);
            out[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        }
        let mut plain = Vec::new();
        if !self.models.is_empty() {
            write_models(&self.models, &mut plain);
            write_frame(FrameKind::Models, &plain, &mut out).unwrap();
        }
        let mut index = Index { models: self.models.clone(), ..Index::default() };
        let mut base = Base::default();
        for forged in &self.groups {
            let (group, crc, head, body, table) = forged.frames(base);
            index.groups.push(GroupRecord {
                offset: out.len() as u64,
                head_len: head.len() as u32,
                body_len: group.body_len,
                table_len: table.len() as u32,
                raw_len: group.raw_len,
                chunk_count: group.chunk_count,
                entry_count: group.entry_count,
                crc,
            });
            base.entry += group.entry_count;
            base.raw += u64::from(group.raw_len);
            out.extend([head, body, table].concat());
        }
        out.extend(&self.before_index);
        if let Some(change) = &self.index {
            change(&mut index);
        }
        let mut plain = Vec::new();
        index.write(&mut plain);
        if let Some(change) = &self.index_bytes {
            change(&mut plain);
        }
        let start = out.len();
        write_frame(FrameKind::Index, &plain, &mut out).unwrap();
        let mut trailer = (0, (out.len() - start) as u64, (out.len() + TRAILER_LEN) as u64);
        if let Some(change) = &self.trailer {
            change(&mut trailer);
        }
        let start = out.len();
        out.extend(TRAILER_MARKER);
        out.extend(trailer.0.to_le_bytes());
        out.extend(trailer.1.to_le_bytes());
        out.extend(trailer.2.to_le_bytes());
        let crc = crc32fast::hash(&out[start..]);
        out.extend(crc.to_le_bytes());
        out.extend(TRAILER_END);
        out
    }
}

include!("mend.rs");

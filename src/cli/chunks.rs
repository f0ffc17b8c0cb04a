//! `s3a ls --chunks`: the chunks of an archive, each with its learned sequence.

use serde::Serialize;

use super::output::Out;
use crate::archive::read::archive::Archive;
use crate::error::Result;
use crate::wire::chunk::Codec;
use crate::wire::entry::ChunkId;

#[derive(Serialize)]
struct Row {
    chunk: u32,
    codec: &'static str,
    raw_len: u32,
    coded_len: u32,
    /// Numbers of the chunks that it looks back on.
    references: Vec<u32>,
    /// The learned sequence; absent where the chunk has none or its model is not at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    c_bits: Option<u64>,
}

/// Prints all chunks, as lines or as a JSON array.
pub(crate) fn list(archive: &Archive, json: bool, out: &mut Out) -> Result<()> {
    let mut rows = Vec::new();
    for id in (0..archive.chunk_count()).map(ChunkId) {
        let (head, learned) = archive.learned(id)?;
        let row = Row {
            chunk: id.0,
            codec: name(head.codec),
            raw_len: head.raw_len,
            coded_len: head.coded_len,
            references: head.refs.iter().map(|distance| id.0.saturating_sub(*distance)).collect(),
            c_bits: learned.as_ref().map(|learned| learned.bits),
            c: learned.map(|learned| learned.c),
        };
        if json { rows.push(row) } else { line(&row, out)? }
    }
    if json { out.json(&rows) } else { Ok(()) }
}

fn line(row: &Row, out: &mut Out) -> Result<()> {
    let list = |numbers: &mut dyn Iterator<Item = String>| numbers.collect::<Vec<_>>().join(" ");
    let references = list(&mut row.references.iter().map(u32::to_string));
    let c = row.c.as_ref().map(|c| format!("  c [{}]", list(&mut c.iter().map(u16::to_string))));
    let bits = row.c_bits.map(|bits| format!(" {bits} bits")).unwrap_or_default();
    let references = if references.is_empty() { String::new() } else { format!("  on {references}") };
    out.line(format_args!(
        "{:>8}  {:<6}  {:>7} to {:>7}{}{bits}{references}",
        row.chunk,
        row.codec,
        row.raw_len,
        row.coded_len,
        c.unwrap_or_default()
    ))
}

fn name(codec: Codec) -> &'static str {
    match codec {
        Codec::Stored => "stored",
        Codec::Zstd => "zstd",
        Codec::Neural => "neural",
        Codec::Lz => "lz",
    }
}

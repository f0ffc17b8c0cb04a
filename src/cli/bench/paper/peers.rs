//! Other programs on the same chunks one by one, and on everything at once.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use super::measure::{SAMPLED, Sizes};
use super::sample::{Length, Piece, spread};
use crate::cli::bench::tree::Scratch;
use crate::error::{Error, Result};
use crate::wire::zstd_raw::compress_at;

/// A program that packs its standard input.
struct Peer {
    name: &'static str,
    command: &'static [&'static str],
}

/// xz also without its container, which is some 60 bytes: much for a short chunk.
const PEERS: [Peer; 3] = [
    Peer { name: "gzip -9", command: &["gzip", "-9", "-n", "-c"] },
    Peer { name: "xz -9e", command: &["xz", "-9e", "-T1", "-c"] },
    Peer { name: "xz -9e, no container", command: &["xz", "--format=raw", "--lzma2=preset=9e", "-T1", "-c"] },
];

/// By the library: frames without magic number, content size and checksum.
const ZSTD: &str = "zstd -19";

fn wants(names: &[String], program: &str) -> bool {
    names.iter().any(|name| name == "all" || name == program)
}

fn chosen(names: &[String]) -> impl Iterator<Item = &'static Peer> {
    PEERS.iter().filter(|peer| peer.command.first().is_some_and(|program| wants(names, program)))
}

/// Programs on chunks; a process each gets a sample of them, zstd's library all. `whose` vocabulary
/// the chunks were cut with is said where there are several.
pub(crate) fn chunks(
    names: &[String],
    length: Length,
    pieces: &[Piece<'_>],
    whose: Option<&str>,
    scratch: &Scratch,
) -> Result<Vec<Sizes>> {
    let called = |name: &str| whose.map_or_else(|| name.into(), |whose| format!("{name}, chunks of {whose}"));
    let few: Vec<Piece<'_>> =
        spread(pieces.len(), SAMPLED).filter_map(|nth| pieces.get(nth).copied()).collect();
    let mut rows = Vec::new();
    for peer in chosen(names) {
        let mut bytes = Some(0);
        for piece in &few {
            let packed = packed_len(peer, piece.raw, scratch)?;
            bytes = bytes.zip(packed).map(|(bytes, packed)| bytes + packed);
            if bytes.is_none() {
                break;
            }
        }
        rows.extend(bytes.map(|bytes| {
            let row = row(called(peer.name), Some(length), &few, bytes);
            Sizes { sampled: row.bits_per_byte(), ..row }
        }));
    }
    if wants(names, "zstd") {
        let zstd = |pieces: &[Piece<'_>]| -> Result<Sizes> {
            let packed =
                |piece: &Piece<'_>| compress_at(piece.raw, &[], 19).map(|packed| packed.len() as u64);
            let bytes = pieces.iter().map(packed).sum::<Result<u64>>()?;
            Ok(row(called(ZSTD), Some(length), pieces, bytes))
        };
        rows.push(Sizes { sampled: zstd(&few)?.bits_per_byte(), ..zstd(pieces)? });
    }
    Ok(rows)
}

/// Programs on everything at once.
pub(crate) fn solid(names: &[String], bytes: &[u8], scratch: &Scratch) -> Result<Vec<Sizes>> {
    let all = [Piece { raw: bytes, tokens: 0 }];
    let mut rows = Vec::new();
    for peer in chosen(names) {
        let packed = packed_len(peer, bytes, scratch)?;
        rows.extend(packed.map(|packed| row(peer.name.into(), None, &all, packed)));
    }
    if wants(names, "zstd") {
        rows.push(row(ZSTD.into(), None, &all, compress_at(bytes, &[], 19)?.len() as u64));
    }
    Ok(rows)
}

fn row(program: String, length: Option<Length>, pieces: &[Piece<'_>], bytes: u64) -> Sizes {
    let raw: u64 = pieces.iter().map(|piece| piece.raw.len() as u64).sum();
    Sizes {
        program,
        length,
        chunks: pieces.len(),
        tokens: pieces.iter().map(|piece| piece.tokens).sum(),
        raw,
        bytes,
        sampled: bytes as f64 * 8.0 / raw.max(1) as f64,
        learned: 0.0,
        pack: 0.0,
    }
}

/// The length of what a program makes of bytes; nothing if it is not installed.
fn packed_len(peer: &Peer, raw: &[u8], scratch: &Scratch) -> Result<Option<u64>> {
    let Some((program, args)) = peer.command.split_first() else { return Ok(None) };
    let path = scratch.path("chunk");
    std::fs::write(&path, raw).map_err(|e| Error::io(&path, e))?;
    let input = File::open(&path).map_err(|e| Error::io(&path, e))?;
    let output = Command::new(program).args(args).stdin(input).stderr(Stdio::null()).output();
    match output {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(Path::new(program), e)),
        Ok(output) if output.status.success() => Ok(Some(output.stdout.len() as u64)),
        Ok(output) => {
            let failed = std::io::Error::other(format!("it ended with {}", output.status));
            Err(Error::io(Path::new(program), failed))
        }
    }
}

//! The result as a table on the terminal and as CSV.

use std::path::Path;

use super::row::{Reads, Row};
use super::tree::Tree;
use crate::archive::path::escape;
use crate::cli::output::{Out, human_bytes};
use crate::error::{Error, Result};

/// A size as a chunk or block has it, in whole KiB or MiB where it is.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

pub(crate) fn access(row: &Row) -> String {
    row.access.map_or_else(|| "solid".into(), size)
}

/// A speed with three digits that count.
fn speed(mbs: f64) -> String {
    match mbs {
        _ if mbs < 9.995 => format!("{mbs:.2}"),
        _ if mbs < 99.95 => format!("{mbs:.1}"),
        _ => format!("{mbs:.0}"),
    }
}

/// The value below which so many percent of the sorted ones are.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0)
}

pub(crate) fn print(tree: &Tree, rows: &[Row], reads: &[Reads], absent: &[&str]) -> Result<()> {
    let mut out = Out::new();
    let path = escape(tree.path.as_os_str().as_encoded_bytes());
    out.line(format_args!(
        "{path}: {} files, {} ({} bytes)",
        tree.files,
        human_bytes(tree.bytes),
        tree.bytes
    ))?;
    out.line("")?;
    out.line(format_args!(
        "{:<36} {:>8} {:>13} {:>9} {:>10} {:>10}",
        "program", "access", "bytes", "bits/byte", "pack MB/s", "read MB/s"
    ))?;
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.bits_per_byte.total_cmp(&b.bits_per_byte));
    for row in sorted {
        out.line(format_args!(
            "{:<36} {:>8} {:>13} {:>9.4} {:>10} {:>10}",
            row.program,
            access(row),
            row.bytes,
            row.bits_per_byte,
            speed(row.pack),
            speed(row.unpack)
        ))?;
    }
    if !absent.is_empty() {
        out.line(format_args!("not installed: {}", absent.join(", ")))?;
    }
    if !reads.is_empty() {
        out.line("")?;
        out.line(format_args!(
            "{:<36} {:>8} {:>10} {:>10} {:>10} {:>8}",
            "cold reads of 4 KiB", "chunk", "median ms", "99 % ms", "worst ms", "decoded"
        ))?;
    }
    for read in reads {
        let ms = |percent| format!("{:.2}", percentile(&read.micros, percent) as f64 / 1e3);
        out.line(format_args!(
            "{:<36} {:>8} {:>10} {:>10} {:>10} {:>8.2}",
            read.program,
            size(read.chunk_size.into()),
            ms(50),
            ms(99),
            ms(100),
            read.decoded
        ))?;
    }
    out.finish()
}

pub(crate) fn write(folder: &Path, rows: &[Row], reads: &[Reads]) -> Result<()> {
    let mut sizes = String::from("program,access,bytes,bits_per_byte,pack_mb_per_s,read_mb_per_s\n");
    for row in rows {
        sizes += &format!(
            "{},{},{},{:.4},{:.3},{:.3}\n",
            quoted(&row.program),
            access(row),
            row.bytes,
            row.bits_per_byte,
            row.pack,
            row.unpack
        );
    }
    save(folder, "bench.csv", &sizes)?;
    let mut cold = String::from("program,chunk_bytes,reads,decoded,median_us,p90_us,p99_us,worst_us\n");
    for read in reads {
        cold += &format!(
            "{},{},{},{:.3}",
            quoted(&read.program),
            read.chunk_size,
            read.micros.len(),
            read.decoded
        );
        for percent in [50, 90, 99, 100] {
            cold += &format!(",{}", percentile(&read.micros, percent));
        }
        cold.push('\n');
    }
    save(folder, "bench_reads.csv", &cold)
}

pub(crate) fn quoted(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

pub(crate) fn save(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|e| Error::io(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(
            (size(4096), size(1 << 20), size(5000)),
            ("4 KiB".into(), "1 MiB".into(), "5000 B".into())
        );
        assert_eq!(
            (speed(0.123), speed(45.67), speed(1234.5)),
            ("0.12".into(), "45.7".into(), "1234".into())
        );
        assert_eq!(percentile(&[1, 2, 3, 4, 100], 50), 3);
        assert_eq!((percentile(&[7], 99), percentile(&[], 99)), (7, 0));
        assert_eq!(quoted("a, b"), "\"a, b\"");
    }
}

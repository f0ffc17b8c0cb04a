//! The result as tables on the terminal, CSV files and the paper's three figures.

use std::collections::BTreeMap;
use std::path::Path;

use super::measure::Sizes;
use super::measured::Measured;
use super::sample::{Length, Sample};
use crate::archive::path::escape;
use crate::cli::bench::plot::{Curve, curves};
use crate::cli::bench::report::{quoted, save};
use crate::cli::output::Out;
use crate::error::Result;

/// The paper's best: 64 tokens a chunk, batched, on a GPU.
const PAPER_RATE: f64 = 511.0;

/// A length for a narrow column.
fn short(length: Option<Length>) -> String {
    match length {
        Some(Length::Tokens(tokens)) => tokens.to_string(),
        Some(bytes) => bytes.to_string(),
        None => "solid".into(),
    }
}

/// Programs in the order in which they were measured.
fn programs(sizes: &[Sizes]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for row in sizes {
        if !names.contains(&row.program.as_str()) {
            names.push(&row.program);
        }
    }
    names
}

pub(crate) fn print(path: &Path, sample: &Sample, result: &Measured) -> Result<()> {
    let mut out = Out::new();
    let shown = escape(path.as_os_str().as_encoded_bytes());
    out.line(format_args!("{shown}: {} bytes of {}", sample.bytes.len(), sample.of))?;
    out.line("")?;
    out.line("Bits per byte, all-in, against tokens of a chunk; each chunk stands alone")?;
    let columns: Vec<Option<Length>> = Length::ALL.into_iter().map(Some).chain([None]).collect();
    let head: String = columns.iter().map(|&length| format!(" {:>7}", short(length))).collect();
    out.line(format_args!("{:<36}{head}", "program"))?;
    for program in programs(&result.sizes) {
        let cell = |length: &Option<Length>| {
            let mine = |row: &&Sizes| row.program == program && row.length == *length;
            let row = result.sizes.iter().find(mine);
            let value = row.map_or_else(|| "-".into(), |row| format!("{:.3}", row.bits_per_byte()));
            format!(" {value:>7}")
        };
        let cells: String = columns.iter().map(cell).collect();
        out.line(format_args!("{program:<36}{cells}"))?;
    }
    out.line("")?;
    out.line(format_args!(
        "{:<28} {:>7} {:>8} {:>10} {:>11} {:>13} {:>9} {:>11}",
        "model", "chunk", "tokens", "latency ms", "alone tok/s", "batched tok/s", "to paper", "pack tok/s"
    ))?;
    for row in &result.speeds {
        out.line(format_args!(
            "{:<28} {:>7} {:>8.0} {:>10.2} {:>11.0} {:>13.0} {:>8.1}x {:>11.0}",
            row.model,
            short(Some(row.length)),
            row.tokens,
            row.latency as f64 / 1e3,
            row.alone,
            row.batched,
            row.batched / PAPER_RATE,
            row.pack
        ))?;
    }
    out.line(format_args!(
        "The paper's best: {PAPER_RATE} tokens/s, batched, chunks of 64 tokens; here {} threads",
        rayon::current_num_threads()
    ))?;
    out.finish()
}

pub(crate) fn write(folder: &Path, result: &Measured) -> Result<()> {
    let mut sizes = String::from(
        "program,chunk,chunks,mean_tokens,raw_bytes,bytes,bits_per_byte,ratio,sampled_bits_per_byte,\
         c_bits_per_byte,pack_tokens_per_s\n",
    );
    for row in &result.sizes {
        sizes += &format!(
            "{},{},{},{:.1},{},{},{:.4},{:.3},{:.4},{:.5},{:.0}\n",
            quoted(&row.program),
            short(row.length),
            row.chunks,
            row.mean_tokens(),
            row.raw,
            row.bytes,
            row.bits_per_byte(),
            row.raw as f64 / row.bytes.max(1) as f64,
            row.sampled,
            row.learned,
            row.pack
        );
    }
    save(folder, "paper_sizes.csv", &sizes)?;
    let mut speeds = String::from(
        "model,chunk,chunks,mean_tokens,latency_us,alone_tokens_per_s,batched_tokens_per_s,\
         pack_tokens_per_s,threads\n",
    );
    for row in &result.speeds {
        speeds += &format!(
            "{},{},{},{:.1},{},{:.0},{:.0},{:.0},{}\n",
            quoted(&row.model),
            short(Some(row.length)),
            row.chunks,
            row.tokens,
            row.latency,
            row.alone,
            row.batched,
            row.pack,
            rayon::current_num_threads()
        );
    }
    save(folder, "paper_speeds.csv", &speeds)?;
    save(folder, "paper_figure4.svg", &figure4(result))?;
    save(folder, "paper_figure5.svg", &figure5(result))?;
    save(folder, "paper_figure6.svg", &figure6(result))
}

/// Marks of the axis of lengths: where the first program's chunks of each length stand.
fn marks(result: &Measured) -> Vec<(f64, String)> {
    let first = result.sizes.first().map(|row| row.program.as_str());
    let mine = result.sizes.iter().filter(|row| Some(row.program.as_str()) == first && row.length.is_some());
    mine.map(|row| (place(row.length, row.mean_tokens()), short(row.length))).collect()
}

/// Where chunks stand on that axis; the last one of a length is shorter than the others.
fn place(length: Option<Length>, mean_tokens: f64) -> f64 {
    match length {
        Some(Length::Tokens(tokens)) => tokens as f64,
        _ => mean_tokens,
    }
}

fn figure4(result: &Measured) -> String {
    let mut lines = Vec::new();
    for program in programs(&result.sizes) {
        let mine = result.sizes.iter().filter(|row| row.program == program && row.length.is_some());
        let points: Vec<(f64, f64)> =
            mine.map(|row| (place(row.length, row.mean_tokens()), row.bits_per_byte())).collect();
        if !points.is_empty() {
            lines.push(Curve { name: program.into(), points });
        }
    }
    curves("Bits per byte against tokens of a chunk (Figure 4)", &lines, &marks(result), false)
}

/// What a way to measure is called, and its figure.
type Way = (&'static str, fn(&super::measure::Speed) -> f64);

/// One curve for each model and way to measure.
fn by_model(result: &Measured, ways: &[Way]) -> Vec<Curve> {
    let mut lines: BTreeMap<(&str, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for row in &result.speeds {
        for (way, value) in ways {
            let points = lines.entry((row.model.as_str(), way)).or_default();
            points.push((place(Some(row.length), row.tokens), value(row)));
        }
    }
    let name =
        |(model, way): (&str, &str)| if way.is_empty() { model.into() } else { format!("{model}, {way}") };
    lines.into_iter().map(|(key, points)| Curve { name: name(key), points }).collect()
}

fn figure5(result: &Measured) -> String {
    let lines = by_model(result, &[("", |row| row.latency as f64 / 1e3)]);
    curves("Latency of one chunk in ms against its tokens (Figure 5)", &lines, &marks(result), true)
}

fn figure6(result: &Measured) -> String {
    let ways: [Way; 2] = [("batched", |row| row.batched), ("one by one", |row| row.alone)];
    let mut lines = by_model(result, &ways);
    let marks = marks(result);
    let paper = marks.iter().map(|&(tokens, _)| (tokens, PAPER_RATE)).collect();
    lines.push(Curve { name: format!("the paper's best, {PAPER_RATE}"), points: paper });
    curves("Tokens/s against tokens of a chunk (Figure 6)", &lines, &marks, true)
}

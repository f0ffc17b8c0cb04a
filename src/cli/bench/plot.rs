//! The result as SVG plots: sizes as bars, size against speed and against what a read decodes, and
//! how long cold reads take.

use std::collections::BTreeMap;
use std::path::Path;

use super::report::{access, save};
use super::row::{Reads, Row};
use crate::cli::svg::Canvas;
use crate::error::Result;

const OWN: &str = "#c0392b";
const BLOCKS: &str = "#5b7fa6";
const SOLID: &str = "#999999";
const LINES: [&str; 6] = ["#c0392b", "#2c7a4b", "#5b3fa6", "#c07d2b", "#2b8ec0", "#777777"];

pub(crate) fn write(folder: &Path, rows: &[Row], reads: &[Reads]) -> Result<()> {
    save(folder, "sizes.svg", &sizes(rows))?;
    save(folder, "speed.svg", &speed(rows))?;
    save(folder, "access.svg", &by_access(rows))?;
    if !reads.is_empty() {
        save(folder, "reads.svg", &cold_reads(reads))?;
    }
    Ok(())
}

fn color(row: &Row) -> &'static str {
    match row.access {
        _ if row.own => OWN,
        Some(_) => BLOCKS,
        None => SOLID,
    }
}

/// From values to places.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    /// Around the values, with some room.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64, log: bool) -> Self {
        let scale = |value: f64| if log { value.max(1e-6).ln() } else { value };
        let (low, high) = values
            .map(scale)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let room = ((high - low) * 0.06).max(if log { 0.2 } else { 0.02 });
        Self { low: low - room, high: high + room, from, to, log }
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.max(1e-6).ln() } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values within: 1, 2, 5 times powers of ten.
    fn ticks(&self) -> Vec<f64> {
        let real = |value: f64| if self.log { value.exp() } else { value };
        let (low, high) = (real(self.low), real(self.high));
        if self.log {
            let round = (-6..=9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
            let mut ticks: Vec<f64> = round.filter(|tick| (low..=high).contains(tick)).collect();
            if ticks.len() > 8 {
                ticks.retain(|tick| (tick.log10() - tick.log10().round()).abs() < 0.01);
            }
            return ticks;
        }
        let step =
            [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0].into_iter().find(|step| (high - low) / step <= 10.0);
        let step = step.unwrap_or(5.0);
        (0..)
            .map(|i| (low / step).ceil() * step + f64::from(i) * step)
            .take_while(|tick| *tick <= high)
            .collect()
    }
}

/// A canvas with both axes drawn.
fn framed(title: &str, x: &Axis, y: &Axis, tick: impl Fn(f64) -> String) -> Canvas {
    let mut canvas = Canvas::new(860.0, 520.0, title);
    for value in y.ticks() {
        canvas.line((x.from, y.at(value)), (x.to, y.at(value)), "#eeeeee");
        let text = format!("{value:.2}");
        canvas.styled(x.from - 8.0, y.at(value) + 4.0, &text, "text-anchor=\"end\"");
    }
    for value in x.ticks() {
        canvas.line((x.at(value), y.from), (x.at(value), y.to), "#eeeeee");
        canvas.styled(x.at(value), y.from + 20.0, &tick(value), "text-anchor=\"middle\"");
    }
    canvas
}

/// One bar per row, the smallest first.
fn sizes(rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| a.bits_per_byte.total_cmp(&b.bits_per_byte));
    let most = rows.iter().map(|row| row.bits_per_byte).fold(0.1, f64::max);
    let (left, step) = (330.0, 24.0);
    let scale = 420.0 / most;
    let height = 50.0 + rows.len() as f64 * step;
    let mut canvas = Canvas::new(830.0, height, "Bits per byte, and the least that a read decodes");
    for (row, i) in rows.iter().zip(0u32..) {
        let y = 36.0 + f64::from(i) * step;
        let width = row.bits_per_byte * scale;
        canvas.styled(left - 8.0, y + 15.0, &label(row), "text-anchor=\"end\"");
        canvas.bar(left, y + 2.0, width, step - 6.0, color(row));
        canvas.styled(left + width + 6.0, y + 15.0, &format!("{:.3}", row.bits_per_byte), "");
    }
    canvas.finish()
}

fn label(row: &Row) -> String {
    // Some have it in their name.
    if row.program.ends_with("iB") {
        row.program.clone()
    } else {
        format!("{}, {}", row.program, access(row))
    }
}

fn plain(value: f64) -> String {
    if value < 0.1 {
        format!("{value:.2}")
    } else if value < 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn speed(rows: &[Row]) -> String {
    let x = Axis::around(rows.iter().map(|row| row.unpack), 60.0, 840.0, true);
    let y = Axis::around(rows.iter().map(|row| row.bits_per_byte), 480.0, 40.0, false);
    let mut canvas = framed("Bits per byte against MB/s of unpacking", &x, &y, plain);
    for row in rows {
        let (at_x, at_y) = (x.at(row.unpack), y.at(row.bits_per_byte));
        canvas.dot(at_x, at_y, color(row));
        let (dx, anchor) = if at_x > 600.0 { (-8.0, "end") } else { (8.0, "start") };
        let style = format!("text-anchor=\"{anchor}\" fill=\"{}\"", color(row));
        canvas.styled(at_x + dx, at_y + 4.0, &label(row), &style);
    }
    canvas.finish()
}

fn by_access(rows: &[Row]) -> String {
    let blocks = rows.iter().filter_map(|row| row.access);
    // Solid ones stand beyond the largest block.
    let solid = blocks.clone().max().unwrap_or(1 << 16) as f64 * 4.0;
    let place = |row: &Row| row.access.map_or(solid, |bytes| bytes as f64);
    let x = Axis::around(rows.iter().map(place), 60.0, 840.0, true);
    let y = Axis::around(rows.iter().map(|row| row.bits_per_byte), 480.0, 40.0, false);
    let mut canvas = Canvas::new(860.0, 520.0, "Bits per byte against the least that a read decodes");
    for value in y.ticks() {
        canvas.line((x.from, y.at(value)), (x.to, y.at(value)), "#eeeeee");
        canvas.styled(x.from - 8.0, y.at(value) + 4.0, &format!("{value:.2}"), "text-anchor=\"end\"");
    }
    let mut sizes: Vec<u64> = blocks.collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let at = x.at(size as f64);
        canvas.line((at, y.from), (at, y.to), "#eeeeee");
        canvas.styled(at, y.from + 20.0, &super::report::size(size), "text-anchor=\"middle\"");
    }
    if rows.iter().any(|row| row.access.is_none()) {
        canvas.styled(x.at(solid), y.from + 20.0, "solid", "text-anchor=\"middle\"");
    }
    // Chunk sizes of one program are joined.
    let mut lines: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        lines.entry(row.program.split(", ").next().unwrap_or_default()).or_default().push(row);
    }
    for (name, mut rows) in lines {
        rows.sort_by_key(|row| row.access);
        let points: Vec<(f64, f64)> =
            rows.iter().map(|row| (x.at(place(row)), y.at(row.bits_per_byte))).collect();
        let Some((first, (at_x, at_y))) = rows.first().zip(points.last()) else { continue };
        if points.len() > 1 {
            canvas.path(&points, color(first));
        }
        points.iter().for_each(|&(x, y)| canvas.dot(x, y, color(first)));
        let (dx, anchor) = if *at_x > 600.0 { (-8.0, "end") } else { (8.0, "start") };
        let style = format!("text-anchor=\"{anchor}\" fill=\"{}\"", color(first));
        canvas.styled(at_x + dx, at_y - 6.0, name, &style);
    }
    canvas.finish()
}

fn cold_reads(reads: &[Reads]) -> String {
    let ms = |micros: &u64| *micros as f64 / 1e3;
    let x = Axis::around(reads.iter().flat_map(|read| &read.micros).map(ms), 60.0, 840.0, true);
    let y = Axis { low: 0.0, high: 1.0, from: 480.0, to: 40.0, log: false };
    let mut canvas = framed("Share of cold reads of 4 KiB that take at most so many ms", &x, &y, plain);
    for ((read, color), i) in reads.iter().zip(LINES.iter().cycle()).zip(0u32..) {
        let count = read.micros.len().max(1) as f64;
        let points: Vec<(f64, f64)> = read
            .micros
            .iter()
            .zip(1u32..)
            .map(|(us, nth)| (x.at(ms(us)), y.at(f64::from(nth) / count)))
            .collect();
        canvas.path(&points, color);
        let text = format!("{}, {}", read.program, super::report::size(read.chunk_size.into()));
        canvas.styled(x.from + 10.0, 60.0 + 18.0 * f64::from(i), &text, &format!("fill=\"{color}\""));
    }
    canvas.finish()
}

/// A line through points.
pub(crate) struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Curves over a logarithmic axis with the marks that are given, and their names beside them.
pub(crate) fn curves(title: &str, curves: &[Curve], marks: &[(f64, String)], log: bool) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let x = Axis::around(all().map(|point| point.0), 70.0, 590.0, true);
    let y = Axis::around(all().map(|point| point.1), 480.0, 40.0, log);
    let mut canvas = Canvas::new(860.0, 520.0, title);
    for value in y.ticks() {
        canvas.line((x.from, y.at(value)), (x.to, y.at(value)), "#eeeeee");
        let text = if log { plain(value) } else { format!("{value:.2}") };
        canvas.styled(x.from - 8.0, y.at(value) + 4.0, &text, "text-anchor=\"end\"");
    }
    for (value, text) in marks {
        canvas.line((x.at(*value), y.from), (x.at(*value), y.to), "#eeeeee");
        canvas.styled(x.at(*value), y.from + 20.0, text, "text-anchor=\"middle\"");
    }
    for ((curve, color), i) in curves.iter().zip(LINES.iter().cycle()).zip(0u32..) {
        let points: Vec<(f64, f64)> =
            curve.points.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
        canvas.path(&points, color);
        points.iter().for_each(|&(x, y)| canvas.dot(x, y, color));
        canvas.styled(x.to + 14.0, 60.0 + 18.0 * f64::from(i), &curve.name, &format!("fill=\"{color}\""));
    }
    canvas.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(program: &str, access: Option<u64>, bits_per_byte: f64) -> Row {
        Row {
            program: program.into(),
            access,
            bytes: 10,
            bits_per_byte,
            pack: 1.0,
            unpack: 100.0,
            own: access.is_some(),
        }
    }

    #[test]
    fn plots_stay_within_their_frames_whatever_the_values() {
        let reads =
            Reads { program: "a<b".into(), chunk_size: 4096, micros: vec![1, 5, 900_000], decoded: 1.0 };
        for rows in [
            vec![row("one", None, 1.0)],
            vec![row("one", Some(4096), 0.0), row("one", Some(1 << 20), 8.0), row("two", None, 2.5)],
        ] {
            for svg in
                [sizes(&rows), speed(&rows), by_access(&rows), cold_reads(std::slice::from_ref(&reads))]
            {
                assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
                assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b"));
                for place in svg.split("cx=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                    assert!((60.0..=840.0).contains(&place.parse::<f64>().unwrap()), "{place}");
                }
            }
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        let axis = Axis { low: 1.13, high: 2.41, from: 0.0, to: 1.0, log: false };
        assert!((3..=11).contains(&axis.ticks().len()));
        let axis = Axis::around([0.3, 4000.0].into_iter(), 0.0, 1.0, true);
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0, 1000.0]);
    }
}

//! Printing to standard output, and quantities for people.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::time::Duration;

use serde::Serialize;

use super::standard::{STDOUT, Stdout, stdout};
use crate::error::{Error, Result};
use crate::wire::entry::Timestamp;

/// Standard output, buffered.
pub(crate) struct Out(BufWriter<Stdout>);

impl Out {
    pub fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, stdout()))
    }

    /// Prints a line.
    pub fn line(&mut self, line: impl std::fmt::Display) -> Result<()> {
        writeln!(self.0, "{line}").map_err(failed)
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(failed)
    }

    /// Prints a value as indented JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(&mut self.0, value).map_err(|e| failed(e.into()))?;
        self.line("")
    }

    /// Prints a value as one line of JSON, without the end of the line.
    pub fn json_part(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.0, value).map_err(|e| failed(e.into()))
    }

    /// To be called at the end: what is still buffered may fail to be written.
    pub fn finish(mut self) -> Result<()> {
        self.0.flush().map_err(failed)
    }
}

fn failed(e: io::Error) -> Error {
    Error::io(STDOUT, e)
}

/// Whether a path that the user names stands for standard output.
pub(crate) fn is_stdout(path: &std::path::Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether the reader of standard output went away, which is its right.
pub(crate) fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { path, source } if path.as_os_str() == STDOUT && source.kind() == ErrorKind::BrokenPipe)
}

/// A number of bytes in powers of 1,024, with one decimal.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = (63 - (bytes | 1).leading_zeros()) / 10;
    if power == 0 {
        return format!("{bytes} B");
    }
    // In tenths, rounded to the nearest.
    let tenths = (u128::from(bytes) * 10 + (1 << (power * 10 - 1))) >> (power * 10);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power as usize])
}

/// A duration, to the second from a minute on.
pub(crate) fn human_time(time: Duration) -> String {
    match time.as_secs() {
        secs @ 3600.. => format!("{}h{:02}m", secs / 3600, secs / 60 % 60),
        secs @ 60.. => format!("{}m{:02}s", secs / 60, secs % 60),
        secs => format!("{secs}s"),
    }
}

/// `a / b` with `decimals` decimals; `-` where b is zero.
pub(crate) fn ratio(a: u64, b: u64, decimals: u32) -> String {
    if b == 0 {
        return "-".into();
    }
    let unit = 10u128.pow(decimals);
    let scaled = (u128::from(a) * unit + u128::from(b) / 2) / u128::from(b);
    format!("{}.{:0width$}", scaled / unit, scaled % unit, width = decimals as usize)
}

/// A time as `2026-01-31 12:00:00`, in UTC.
pub(crate) fn date(time: Timestamp) -> String {
    let (days, secs) = (time.secs.div_euclid(86_400), time.secs.rem_euclid(86_400));
    // Civil date from days since 1970, after Howard Hinnant's "chrono-compatible date algorithms".
    let shifted = i128::from(days) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_rounded_for_people() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(u64::MAX), "16.0 EiB");
        assert_eq!(ratio(170, 100, 2), "1.70");
        assert_eq!(ratio(1, 3, 3), "0.333");
        assert_eq!(ratio(1, 0, 3), "-");
        assert_eq!(human_time(Duration::from_secs(3725)), "1h02m");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |secs| date(Timestamp { secs, nanos: 0 });
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(-1), "1969-12-31 23:59:59");
        assert_eq!(at(1_769_860_800), "2026-01-31 12:00:00");
        at(i64::MIN);
        at(i64::MAX);
    }
}

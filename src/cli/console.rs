//! What a command says while it works: warnings, progress with rate and time left, entries.
//!
//! All of it goes to standard error. The bar is drawn only on a terminal; `plain` prints a line
//! now and then, for logs.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{Global, ProgressMode};
use super::exit;
use super::output::{human_bytes, human_time};
use crate::archive::observer::{Observer, Remedy, Warning};
use crate::archive::path::escape;
use crate::archive::remote::location;
use crate::error::Error;

/// How often `plain` prints a line.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Talks to the user. Clones talk to the same one.
#[derive(Clone)]
pub(crate) struct Console(Arc<Inner>);

struct Inner {
    quiet: bool,
    verbose: bool,
    mode: ProgressMode,
    warnings: AtomicU64,
    interrupt: Arc<AtomicBool>,
    done: AtomicU64,
    phase: Mutex<Option<Phase>>,
    /// The archive at hand, which errors are about unless they name a file themselves.
    about: Mutex<Option<PathBuf>>,
}

struct Phase {
    name: String,
    total: Option<u64>,
    start: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Console {
    pub fn new(global: &Global) -> Self {
        let mode = match global.progress {
            ProgressMode::Auto if !std::io::stderr().is_terminal() => ProgressMode::None,
            _ if global.quiet => ProgressMode::None,
            mode => mode,
        };
        Self(Arc::new(Inner {
            quiet: global.quiet,
            verbose: global.verbose,
            mode,
            warnings: AtomicU64::new(0),
            interrupt: Arc::default(),
            done: AtomicU64::new(0),
            phase: Mutex::new(None),
            about: Mutex::new(None),
        }))
    }

    /// The flag that stops the work.
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.interrupt)
    }

    /// Whether there was a warning.
    pub fn warned(&self) -> bool {
        self.0.warnings.load(Ordering::Relaxed) > 0
    }

    /// Whether nothing is to be said but what is wrong.
    pub fn is_quiet(&self) -> bool {
        self.0.quiet
    }

    /// Says something that is not an error, unless told to be quiet.
    pub fn say(&self, line: &str) {
        if !self.0.quiet {
            self.line(line);
        }
    }

    /// Notes which archive the work is about from now on.
    pub fn about(&self, archive: &Path) {
        *self.0.about.lock().unwrap_or_else(PoisonError::into_inner) = Some(location::shown(archive));
    }

    /// Says why the command failed.
    pub fn error(&self, error: &Error) {
        self.finish();
        let about = self.0.about.lock().unwrap_or_else(PoisonError::into_inner).take();
        // These name what they are about.
        let named = matches!(
            error,
            Error::Usage(_)
                | Error::Exists(_)
                | Error::Clash(_)
                | Error::InArchive { .. }
                | Error::Io { .. }
                | Error::ObjectChanged(_)
                | Error::BadModel { .. }
                | Error::Interrupted
        );
        let prefix = about.filter(|_| !named).map(|path| format!("{}: ", path.display())).unwrap_or_default();
        self.line(&format!("s3a: {}", one_line(&format!("{prefix}{error}{}", exit::advice(error)))));
    }

    /// Shows the progress of work that has steps instead of bytes.
    #[cfg(feature = "train")]
    pub fn steps(&self, name: &str, total: u64) -> Steps {
        let bar = (self.0.mode == ProgressMode::Auto).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(4));
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len}, {eta} left, {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.with_prefix(name.to_owned())
        });
        let plain = self.0.mode == ProgressMode::Plain;
        Steps { bar, plain, name: name.to_owned(), total, last_line: Mutex::new(Instant::now()) }
    }

    /// Takes the progress bar away.
    pub fn finish(&self) {
        if let Some(bar) = self.phase().take().and_then(|phase| phase.bar) {
            bar.finish_and_clear();
        }
    }

    fn phase(&self) -> MutexGuard<'_, Option<Phase>> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a line beside the bar. Nothing can be done if standard error is gone.
    fn line(&self, line: &str) {
        let print = || drop(writeln!(std::io::stderr(), "{line}"));
        match self.phase().as_ref().and_then(|phase| phase.bar.as_ref()) {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// Progress in steps.
#[cfg(feature = "train")]
pub(crate) struct Steps {
    bar: Option<ProgressBar>,
    plain: bool,
    name: String,
    total: u64,
    last_line: Mutex<Instant>,
}

#[cfg(feature = "train")]
impl Steps {
    /// Shows that `step` is done, and what there is to say of it.
    pub fn at(&self, step: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_position(step);
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if self.plain && (last_line.elapsed() >= LINE_EVERY || step == self.total) {
            *last_line = Instant::now();
            drop(writeln!(std::io::stderr(), "{}: step {step} of {}, {message}", self.name, self.total));
        }
    }
}

/// Messages may quote names out of an archive, which must not steer the terminal.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

impl Observer for Console {
    fn archive(&self, name: &Path) {
        self.about(name);
    }

    fn warning(&self, warning: Warning) {
        self.0.warnings.fetch_add(1, Ordering::Relaxed);
        let advice = match warning.remedy {
            Some(Remedy::PackSpecial) => "; --special packs such objects",
            Some(Remedy::IgnoreZeros) => "; --ignore-zeros packs it too",
            None => "",
        };
        self.line(&format!("s3a: warning: {}{advice}", one_line(&warning.to_string())));
    }

    fn phase(&self, name: &str, bytes: Option<u64>) {
        self.finish();
        self.0.done.store(0, Ordering::Relaxed);
        let bar = (self.0.mode == ProgressMode::Auto).then(|| {
            let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr_with_hz(8));
            let known = "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}, {eta} left";
            let unknown = "{spinner} {msg} {bytes} {binary_bytes_per_sec}";
            let style = ProgressStyle::with_template(if bytes.is_some() { known } else { unknown });
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_message(name.to_owned());
            bar
        });
        let now = Instant::now();
        *self.phase() = Some(Phase { name: name.to_owned(), total: bytes, start: now, last_line: now, bar });
    }

    fn advanced(&self, bytes: u64) {
        let done = self.0.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut phase = self.phase();
        let Some(phase) = phase.as_mut() else { return };
        if let Some(bar) = &phase.bar {
            bar.set_position(done);
        }
        if self.0.mode == ProgressMode::Plain && phase.last_line.elapsed() >= LINE_EVERY {
            phase.last_line = Instant::now();
            let line = plain_line(&phase.name, done, phase.total, phase.start.elapsed());
            drop(writeln!(std::io::stderr(), "{line}"));
        }
    }

    fn entry(&self, path: &[u8]) {
        if self.0.verbose {
            self.line(&escape(path));
        }
    }

    fn interrupted(&self) -> bool {
        self.0.interrupt.load(Ordering::Relaxed)
    }
}

fn plain_line(name: &str, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / millis;
    let mut line = format!("{name}: {}, {}/s", human_bytes(done), human_bytes(rate));
    if let Some(total) = total.filter(|&total| total > 0) {
        let percent = done.min(total).saturating_mul(100) / total;
        let left = total.saturating_sub(done) / rate.max(1);
        line += &format!(
            ", {percent} % of {}, {} left",
            human_bytes(total),
            human_time(Duration::from_secs(left))
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_tell_rate_and_time_left() {
        let line = plain_line("packing", 1 << 20, Some(4 << 20), Duration::from_secs(2));
        assert_eq!(line, "packing: 1.0 MiB, 512.0 KiB/s, 25 % of 4.0 MiB, 6s left");
        assert_eq!(plain_line("x", 0, Some(0), Duration::ZERO), "x: 0 B, 0 B/s");
    }

    #[test]
    fn messages_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}

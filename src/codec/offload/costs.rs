//! What decoding costs on the CPU and on a device, and which of them ends sooner.
//!
//! Costs are in nanoseconds. Rates are for 1,024 raw bytes, because the bytes of a chunk are known
//! before it is decoded and its tokens are not. Costs begin as conservative guesses and follow what
//! was measured. They decide where work is done and have no effect on its result: both sides give
//! the same bits.

use crate::codec::work::Work;
use crate::error::{Error, Result};
use crate::model::config::Config;

/// Most chunks that a device is given at once: as many as a large GPU runs at the same time.
pub const BATCH: usize = 4096;

/// With this many chunks in lockstep, a thread of the CPU is as fast as it gets.
const SIDE_BY_SIDE: u64 = crate::codec::work::LANES as u64;
/// The bytes that a rate is for.
const UNIT: u64 = 1024;
/// Most tokens of `UNIT` bytes of text that a model has learned; for other data the guess is wrong
/// in favor of the CPU.
const TOKENS: u64 = 512;

/// What decoding with one model costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Nanoseconds for 1,024 bytes on a thread of the CPU that decodes one chunk.
    pub alone: u64,
    /// Nanoseconds for 1,024 bytes on a thread of the CPU that decodes as many chunks in lockstep
    /// as it is fastest with.
    pub beside: u64,
    /// Nanoseconds of a batch on the device for 1,024 bytes of its longest chunk, whose tokens come
    /// one after another.
    pub step: u64,
    /// Nanoseconds of a batch on the device for 1,024 bytes of all its chunks together.
    pub share: u64,
    /// Nanoseconds until a device that is not open takes its first batch: driver, kernel, weights,
    /// self-test.
    pub start: u64,
}

impl Costs {
    /// The costs before anything was measured. For the device: 4 us for each time that its threads
    /// wait for one another, ten tera multiply-adds a second, and 2 s to compile the kernel. For
    /// the CPU: the slowest that is likely, so that work below that limit need not be measured.
    pub fn guess(config: &Config) -> Self {
        let multiply_adds = config.products_per_token() as u64;
        let meetings = 8 * config.layers as u64 + 4;
        let slowest = (TOKENS * multiply_adds / 2).max(1);
        Self {
            alone: slowest,
            beside: slowest,
            step: TOKENS * meetings * 4000,
            share: (TOKENS * multiply_adds / 10_000).max(1),
            start: 2_000_000_000,
        }
    }

    /// The costs that the environment variable `S3A_DEVICE_COSTS` gives, if it is set.
    pub fn given() -> Result<Option<Self>> {
        let text = std::env::var("S3A_DEVICE_COSTS").ok().filter(|text| !text.is_empty());
        text.map(|text| Self::parse(&text)).transpose()
    }

    /// Reads `ALONE,BESIDE,STEP,SHARE,START`: the fields in their order, as whole numbers. Fails
    /// with `Error::Usage` on other texts.
    pub fn parse(text: &str) -> Result<Self> {
        let numbers: Option<Vec<u64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[alone, beside, step, share, start]) => Ok(Self { alone, beside, step, share, start }),
            _ => Err(Error::Usage(format!(
                "costs {text:?} are not five numbers: alone, beside, step and share in nanoseconds for 1,024 \
                 bytes, and start in nanoseconds"
            ))),
        }
    }

    /// Nanoseconds that the CPU needs for this work.
    pub fn on_cpu(&self, work: Work) -> u64 {
        let threads = work.threads.clamp(1, work.chunks.max(1)) as u64;
        let lanes = (work.chunks as u64).div_ceil(threads).clamp(1, SIDE_BY_SIDE);
        // What a thread does once for all its chunks is divided among them.
        let rate = self.beside.saturating_add(self.alone.saturating_sub(self.beside) / lanes);
        let bytes = work.bytes.div_ceil(threads).max(work.longest);
        for_bytes(rate, bytes)
    }

    /// Nanoseconds until a device that is free after `delay` has done this work.
    pub fn on_device(&self, work: Work, delay: u64) -> u64 {
        let (steps, shares) = self.parts(work);
        delay.saturating_add(steps).saturating_add(shares)
    }

    fn parts(&self, work: Work) -> (u64, u64) {
        let batches = work.chunks.div_ceil(BATCH) as u64;
        let steps = for_bytes(self.step, work.longest).saturating_mul(batches);
        (steps, for_bytes(self.share, work.bytes))
    }

    /// Whether a device that is free after `delay` ends sooner than the CPU.
    pub fn device_is_sooner(&self, work: Work, delay: u64) -> bool {
        self.on_device(work, delay) < self.on_cpu(work)
    }

    /// Adjusts the costs to the time that a thread of the CPU took for some chunks.
    pub fn cpu_took(&mut self, chunks: usize, bytes: u64, nanos: u64) {
        if bytes < UNIT {
            return;
        }
        let seen = rate_of(bytes, nanos);
        let rate = match chunks as u64 {
            1 => &mut self.alone,
            SIDE_BY_SIDE.. => &mut self.beside,
            _ => return,
        };
        *rate = (*rate - *rate / 4).saturating_add(seen / 4).max(1);
    }
}

/// A fit of the two rates of a device to the times of its batches: least squares of relative
/// errors, in which older batches count less, and which stays near the guess where batches do not
/// tell the two rates apart.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    guess: Costs,
    /// Sums over batches: squares and products of the two parts as guessed, and the parts
    /// themselves, all as fractions of the time that the batch took.
    squares: (f64, f64),
    products: f64,
    parts: (f64, f64),
}

/// What each new batch leaves of the weight of older ones.
const FADING: f64 = 0.8;
/// Weight of the guess; a batch has weight 1.
const OF_GUESS: f64 = 1e-6;
/// A rate is at least this part of its guess.
const LEAST: f64 = 1e-3;

impl Fit {
    /// A fit that starts from these costs.
    pub fn new(guess: Costs) -> Self {
        Self { guess, squares: (0.0, 0.0), products: 0.0, parts: (0.0, 0.0) }
    }

    /// Adds the time of a batch, and adjusts the rates of `costs`.
    pub fn took(&mut self, costs: &mut Costs, work: Work, nanos: u64) {
        let (steps, shares) = self.guess.parts(work);
        if work.bytes < UNIT || steps == 0 || shares == 0 {
            return;
        }
        let took = nanos.max(1) as f64;
        let (a, b) = (steps as f64 / took, shares as f64 / took);
        self.squares = (FADING * self.squares.0 + a * a, FADING * self.squares.1 + b * b);
        self.products = FADING * self.products + a * b;
        self.parts = (FADING * self.parts.0 + a, FADING * self.parts.1 + b);
        let (aa, bb, ab) = (self.squares.0 + OF_GUESS, self.squares.1 + OF_GUESS, self.products);
        let (at, bt) = (self.parts.0 + OF_GUESS, self.parts.1 + OF_GUESS);
        let determinant = aa * bb - ab * ab;
        let (mut x, mut y) = ((at * bb - bt * ab) / determinant, (bt * aa - at * ab) / determinant);
        // No rate may be negative; where one would be, the other one explains all of the time.
        if x < LEAST {
            (x, y) = (LEAST, (bt - ab * LEAST) / bb);
        } else if y < LEAST {
            (x, y) = ((at - ab * LEAST) / aa, LEAST);
        }
        let rate = |guess: u64, times: f64| (guess as f64 * times.max(LEAST)).max(1.0) as u64;
        if x.is_finite() && y.is_finite() {
            (costs.step, costs.share) = (rate(self.guess.step, x), rate(self.guess.share, y));
        }
    }
}

/// Nanoseconds for `UNIT` bytes, if `bytes` bytes took `nanos`.
pub fn rate_of(bytes: u64, nanos: u64) -> u64 {
    (nanos.saturating_mul(UNIT) / bytes.max(1)).max(1)
}

fn for_bytes(rate: u64, bytes: u64) -> u64 {
    let nanos = u128::from(rate) * u128::from(bytes) / u128::from(UNIT);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;
    /// A CPU of 0.5 MB/s a thread with one chunk and 1 MB/s with many; a device of 25 ms for 1,024
    /// bytes of its longest chunk and 100 MB/s.
    const COSTS: Costs =
        Costs { alone: 2 * MILLI, beside: MILLI, step: 25 * MILLI, share: 10_000, start: 1000 * MILLI };

    #[test]
    fn work_goes_where_it_ends_sooner() {
        // Chunks of 16 KiB, threads, milliseconds until the device is free, whether the device is
        // chosen.
        for (chunks, threads, delay, device) in [
            // A cold read: 32 ms on the CPU, 400 on the device.
            (1, 1, 0, false),
            (1, 64, 0, false),
            (8, 2, 0, false),
            // A window: the device takes as long for 64 chunks, two threads half a second.
            (64, 2, 0, true),
            (64, 2, 300, false),
            (64, 64, 0, false),
            // The start is waited for where it is worth it.
            (64, 2, 1000, false),
            (512, 2, 1000, true),
            (512, 64, 1000, false),
            (100_000, 16, 1000, true),
            // One thread that has them all waits for a device longer than many.
            (1000, 1, 10_000, true),
            (1000, 16, 10_000, false),
            (0, 2, 0, false),
        ] {
            let work = Work::of(chunks, 16 << 10, threads);
            assert_eq!(COSTS.device_is_sooner(work, delay * MILLI), device, "{chunks} {threads} {delay}");
        }
    }

    #[test]
    fn a_fast_device_answers_a_cold_read_and_a_slow_one_nothing() {
        let (cold, all) = (Work::of(1, 4096, 8), Work::of(1_000_000, 1 << 20, 2));
        assert!(Costs { step: MILLI, ..COSTS }.device_is_sooner(cold, 0));
        assert!(!Costs { step: MILLI, ..COSTS }.device_is_sooner(cold, 10 * MILLI));
        assert!(!Costs { share: 600_000, ..COSTS }.device_is_sooner(all, 0));
    }

    #[test]
    fn times_are_those_of_the_longest_chunk_and_of_all_bytes() {
        let work = |chunks, longest| Work { chunks, bytes: 1 << 20, longest, threads: 4 };
        // A thread's own share, or the longest chunk.
        assert_eq!(COSTS.on_cpu(work(256, 4096)), 256 * (MILLI + MILLI / 12));
        assert_eq!(COSTS.on_cpu(work(256, 1 << 19)), 512 * (MILLI + MILLI / 12));
        assert_eq!(COSTS.on_cpu(work(4, 1 << 18)), 512 * MILLI);
        assert_eq!(COSTS.on_device(work(256, 4096), 5), 5 + 100 * MILLI + 10 * MILLI + 240_000);
        // Batches follow each other.
        assert_eq!(COSTS.on_device(work(BATCH + 1, 1024), 0), 50 * MILLI + 10 * MILLI + 240_000);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let most =
            Costs { alone: u64::MAX, beside: u64::MAX, step: u64::MAX, share: u64::MAX, start: u64::MAX };
        for mut costs in [most, Costs { alone: 0, beside: 0, step: 0, share: 0, start: 0 }] {
            for work in [Work::of(usize::MAX, u64::MAX, usize::MAX), Work::default(), Work::of(1, 1, 0)] {
                costs.device_is_sooner(work, u64::MAX);
                let mut fit = Fit::new(costs);
                fit.took(&mut costs, work, u64::MAX);
                fit.took(&mut costs, work, 0);
                costs.cpu_took(work.chunks, work.bytes, u64::MAX);
            }
        }
    }

    fn near(learned: u64, known: u64) -> bool {
        learned.abs_diff(known) * 20 < known
    }

    #[test]
    fn what_the_cpu_took_is_learned() {
        let mut costs = COSTS;
        for _ in 0..50 {
            costs.cpu_took(1, 5000, 9 * MILLI * 5000 / 1024);
            costs.cpu_took(100, 500_000, 3 * MILLI * 500_000 / 1024);
            // Between the two, and too little to tell.
            costs.cpu_took(4, 50_000, 1);
            costs.cpu_took(1, 100, 1);
        }
        assert!(near(costs.alone, 9 * MILLI) && near(costs.beside, 3 * MILLI), "{costs:?}");
    }

    #[test]
    fn what_batches_took_is_learned_however_far_off_the_guess_is() {
        for (step, share) in [(MILLI, 300_000), (300 * MILLI, 1000), (20 * MILLI, 10_000)] {
            let (truth, mut costs) = (Costs { step, share, ..COSTS }, COSTS);
            let mut fit = Fit::new(COSTS);
            for _ in 0..3 {
                for work in [Work::of(64, 16 << 10, 1), Work::of(4000, 16 << 10, 1), Work::of(700, 9000, 1)] {
                    fit.took(&mut costs, work, truth.on_device(work, 0));
                }
            }
            assert!(near(costs.step, step) && near(costs.share, share), "{truth:?} {costs:?}");
        }
    }

    #[test]
    fn batches_of_one_size_are_predicted_and_the_guess_tells_the_rest() {
        let work = Work::of(500, 16 << 10, 1);
        for took in [50 * MILLI, 500 * MILLI, 5000 * MILLI] {
            let (mut costs, mut fit) = (COSTS, Fit::new(COSTS));
            // Of a long run, in which times vary.
            for round in 0..1000 {
                fit.took(&mut costs, work, took + round % 10 * (took / 1000));
            }
            assert!(near(costs.on_device(work, 0), took), "{took} {costs:?}");
            assert!(costs.step > 0 && costs.share > 0);
        }
    }

    #[test]
    fn the_device_follows_when_it_becomes_slower() {
        let (mut costs, mut fit) = (COSTS, Fit::new(COSTS));
        let works = [Work::of(64, 16 << 10, 1), Work::of(4000, 16 << 10, 1)];
        for round in 0..60 {
            let times = if round < 30 { 1 } else { 5 };
            let work = works[round % 2];
            fit.took(&mut costs, work, times * COSTS.on_device(work, 0));
        }
        assert!(near(costs.step, 5 * COSTS.step) && near(costs.share, 5 * COSTS.share), "{costs:?}");
    }

    #[test]
    fn guesses_follow_the_model_and_leave_a_cold_read_to_the_cpu() {
        let small = Costs::guess(&Config::new("m", 128, 2, 1024));
        let large = Costs::guess(&Config::new("m", 512, 8, 4096));
        assert!(large.step > small.step && large.share > small.share && large.alone > small.alone);
        // With the slowest CPU that is likely.
        assert!(!small.device_is_sooner(Work::of(1, 16 << 10, 2), small.start));
        assert!(small.device_is_sooner(Work::of(4096, 16 << 10, 2), small.start));
    }

    #[test]
    fn costs_are_read() {
        let costs = Costs { alone: 1, beside: 2, step: 3, share: 4, start: 5 };
        assert_eq!(Costs::parse("1,2, 3,4,5").unwrap(), costs);
        for bad in ["", "1,2,3,4", "1,2,3,4,5,6", "1,2,3,4,x", "-1,2,3,4,5"] {
            assert!(matches!(Costs::parse(bad), Err(Error::Usage(_))), "{bad}");
        }
    }
}

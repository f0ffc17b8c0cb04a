//! A device beside the CPU: when it gets work, one batch at a time, and what happens when it fails.
//!
//! A device is faster than the CPU with thousands of chunks and slower with a few; work goes to the
//! side that ends sooner (`costs`). The CPU also takes over whatever a device fails to do, even in
//! the middle of a batch. A device that failed gets no more work.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::costs::{BATCH, Costs, Fit};
use super::device::{Device, Output};
use crate::codec::work::Work;
use crate::model::device::job::Request;
use crate::model::weights::Model;

type Open = Box<dyn Fn() -> Result<Box<dyn Device>, String> + Send + Sync>;

/// A device that takes work off the CPU. It is opened when there is work for it.
pub struct Offload {
    open: Open,
    device: OnceLock<Result<Box<dyn Device>, String>>,
    lost: OnceLock<String>,
    asked_for: bool,
    /// Whether the device takes all work, whatever the costs.
    all: AtomicBool,
    /// How many threads prepare the device while no work waits for it.
    apart: AtomicUsize,
    /// Costs that were given and are not measured.
    fixed: Option<Costs>,
    known: Mutex<HashMap<[u8; 32], Known>>,
    /// Nanoseconds that preparing the device for the last model took; 0 before that.
    prepared_in: AtomicU64,
    queue: Mutex<Queue>,
    turn: Mutex<()>,
}

/// What is known of a model.
#[derive(Clone, Copy)]
struct Known {
    costs: Costs,
    /// The fit of the device's costs.
    fit: Fit,
    /// Whether the costs on the CPU were measured.
    measured: bool,
    /// Whether starting the device for this model was decided, so that the start costs nothing
    /// more.
    begun: bool,
    /// Whether the device is prepared for this model.
    ready: bool,
}

/// The work that a device has to do, as predicted, in nanoseconds.
#[derive(Default)]
struct Queue {
    waiting: Vec<u64>,
    running: Option<(Instant, u64)>,
}

impl Queue {
    /// Nanoseconds until the device is free.
    fn delay(&self) -> u64 {
        let left = self.running.map_or(0, |(since, nanos)| nanos.saturating_sub(nanos_since(since)));
        self.waiting.iter().fold(left, |sum, &nanos| sum.saturating_add(nanos))
    }

    fn begin(&mut self, nanos: u64) {
        if let Some(at) = self.waiting.iter().position(|&waiting| waiting == nanos) {
            self.waiting.swap_remove(at);
        }
        self.running = Some((Instant::now(), nanos));
    }
}

fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A lock that a panic poisoned is still good: the values behind these locks are always
    // complete.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Offload {
    /// A device that `open` opens when there is work that it does sooner than the CPU.
    pub fn new(open: Open) -> Self {
        Self {
            open,
            device: OnceLock::new(),
            lost: OnceLock::new(),
            asked_for: false,
            all: AtomicBool::new(false),
            apart: AtomicUsize::new(0),
            fixed: None,
            known: Mutex::default(),
            prepared_in: AtomicU64::new(0),
            queue: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// An open device, which takes all work, encoding included.
    pub fn to(device: Box<dyn Device>) -> Self {
        let offload = Self::new(Box::new(|| Err("it was opened before".into())));
        // No other thread has it yet.
        let _ = offload.device.set(Ok(device));
        Self { asked_for: true, all: AtomicBool::new(true), ..offload }
    }

    /// Uses these costs and measures none.
    pub fn with_costs(self, fixed: Option<Costs>) -> Self {
        Self { fixed, ..self }
    }

    /// Leaves to the CPU the work that it does sooner, even if this device was asked for.
    pub fn by_costs(&self) {
        self.all.store(false, Ordering::Relaxed);
    }

    /// Whether the device takes all work.
    pub fn takes_all(&self) -> bool {
        self.all.load(Ordering::Relaxed)
    }

    /// Whether the device takes this work. `measure` measures a thread of the CPU, where its costs
    /// matter and are not known.
    pub fn takes(&self, model: &Model, work: Work, measure: &dyn Fn() -> Option<(u64, u64)>) -> bool {
        let idle = self.apart.load(Ordering::Acquire) == 0;
        idle && self.usable()
            && (self.takes_all() || self.sooner(model, work, measure))
            && self.device().is_ok()
    }

    /// Whether the device may get work at all; opens nothing.
    fn usable(&self) -> bool {
        self.lost.get().is_none() && !self.device.get().is_some_and(Result::is_err)
    }

    /// Whether the device ends sooner than the CPU.
    fn sooner(&self, model: &Model, work: Work, measure: &dyn Fn() -> Option<(u64, u64)>) -> bool {
        let delay = lock(&self.queue).delay();
        let wins = |known: Known| {
            let start = match self.prepared_in.load(Ordering::Relaxed) {
                _ if known.begun => 0,
                nanos if nanos > 0 && self.fixed.is_none() => nanos,
                _ => known.costs.start,
            };
            known.costs.device_is_sooner(work, delay.saturating_add(start))
        };
        let known = self.known(model);
        if !wins(known) || known.measured {
            return wins(known);
        }
        if let Some((alone, beside)) = measure() {
            self.learn(model, |known| {
                (known.costs.alone, known.costs.beside, known.measured) = (alone, beside, true);
            });
        }
        wins(self.known(model))
    }

    fn known(&self, model: &Model) -> Known {
        self.learn(model, |_| ())
    }

    /// What decoding with a model costs, as far as that is known.
    pub fn costs(&self, model: &Model) -> Costs {
        self.known(model).costs
    }

    /// Changes what is known of a model, except costs that were given.
    fn learn(&self, model: &Model, change: impl FnOnce(&mut Known)) -> Known {
        let mut all = lock(&self.known);
        let known = all.entry(model.fingerprint()).or_insert_with(|| {
            let costs = Costs::guess(model.config());
            Known { costs, fit: Fit::new(costs), measured: self.fixed.is_some(), begun: false, ready: false }
        });
        change(known);
        known.costs = self.fixed.unwrap_or(known.costs);
        *known
    }

    /// Adjusts the costs to the time that a thread of the CPU took for some chunks.
    pub fn cpu_took(&self, model: &Model, chunks: usize, bytes: u64, start: Instant) {
        let nanos = nanos_since(start);
        // The guess is far off, so it is replaced by a measurement before it is adjusted.
        if self.fixed.is_none() && self.known(model).measured {
            self.learn(model, |known| known.costs.cpu_took(chunks, bytes, nanos));
        }
    }

    /// Opens the device on another thread and prepares it for a model, if that is worth it for this
    /// much work. Until then the device takes no work.
    pub fn prepare_apart(
        self: &Arc<Self>,
        model: Arc<Model>,
        work: Work,
        measure: impl Fn() -> Option<(u64, u64)> + Send + 'static,
    ) {
        self.apart.fetch_add(1, Ordering::AcqRel);
        let offload = self.clone();
        let work_apart = move || {
            let worth = offload.usable() && (offload.asked_for || offload.sooner(&model, work, &measure));
            if worth && offload.device().is_ok() {
                let turn = lock(&offload.turn);
                offload.prepare(&model, work.chunks.min(BATCH));
                drop(turn);
            }
            offload.apart.fetch_sub(1, Ordering::AcqRel);
        };
        if std::thread::Builder::new().name("s3a-device".into()).spawn(work_apart).is_err() {
            // A thread that needs the device before then prepares it itself.
            self.apart.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Prepares the device for batches of this many chunks, while the caller has its turn. `None`
    /// if the device has failed.
    fn prepare(&self, model: &Arc<Model>, chunks: usize) -> Option<&dyn Device> {
        let start = Instant::now();
        let ready = self.device().map_err(str::to_owned).and_then(|device| {
            device.prepare(model, chunks)?;
            Ok(device)
        });
        match ready {
            Ok(device) => {
                let prepared = |known: &mut Known| {
                    if !std::mem::replace(&mut known.ready, true) {
                        self.prepared_in.store(nanos_since(start).max(1), Ordering::Relaxed);
                    }
                    known.begun = true;
                };
                self.learn(model, prepared);
                Some(device)
            }
            Err(why) => self.lose(why),
        }
    }

    /// Whether the device encodes chunks: only where a user asked for it, since what it encodes is
    /// read on other machines.
    pub fn takes_encoding(&self) -> bool {
        self.asked_for && self.takes_all() && self.usable()
    }

    /// How many of the chunks the device wants at once; 0 if it wants none. The device is started
    /// for work that it wants, even if that comes in parts.
    pub fn bulk(&self, model: &Model, work: Work, measure: &dyn Fn() -> Option<(u64, u64)>) -> usize {
        let takes = self.takes(model, work, measure);
        if takes {
            self.learn(model, |known| known.begun = true);
        }
        if takes { BATCH } else { 0 }
    }

    /// The device, or why there is none.
    pub fn device(&self) -> Result<&dyn Device, &str> {
        self.device.get_or_init(&self.open).as_deref().map_err(String::as_str)
    }

    /// Does the work when its turn comes. `None` if the device fails; it then gets no more work.
    pub fn run(&self, model: &Arc<Model>, requests: &[Request<'_>]) -> Option<Vec<Output>> {
        let mut work = Work::default();
        requests.iter().for_each(|request| work.add(request.raw_len as u64));
        let expected = self.known(model).costs.on_device(work, 0);
        lock(&self.queue).waiting.push(expected);
        let turn = lock(&self.turn);
        lock(&self.queue).begin(expected);
        let outputs = self.run_now(model, requests, work);
        lock(&self.queue).running = None;
        drop(turn);
        outputs
    }

    fn run_now(&self, model: &Arc<Model>, requests: &[Request<'_>], work: Work) -> Option<Vec<Output>> {
        if self.lost.get().is_some() {
            return None;
        }
        let device = self.prepare(model, requests.len())?;
        let start = Instant::now();
        match device.run(model, requests) {
            Ok(outputs) if outputs.len() == requests.len() => {
                if self.fixed.is_none() && requests.iter().all(|request| request.known.is_none()) {
                    let nanos = nanos_since(start);
                    self.learn(model, |known| known.fit.took(&mut known.costs, work, nanos));
                }
                Some(outputs)
            }
            Ok(_) => self.lose("it returned too few results".into()),
            Err(why) => self.lose(why),
        }
    }

    /// Gives the device up because what it computes is wrong.
    pub fn distrust(&self) {
        self.lose::<()>("it gave other bytes than the CPU".into());
    }

    fn lose<T>(&self, why: String) -> Option<T> {
        let _ = self.lost.set(why);
        None
    }

    /// A sentence for people about why the device was given up, if it was.
    pub fn warning(&self) -> Option<String> {
        let why = self.lost.get()?;
        let name = self.device().map_or_else(|_| "the device".into(), |device| device.name());
        Some(format!("{name} was given up, and the CPU did the rest: {why}"))
    }
}

impl std::fmt::Debug for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = self.device.get().map(|device| device.as_ref().map(|device| device.name()));
        f.debug_struct("Offload").field("device", &device).field("lost", &self.lost.get()).finish()
    }
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;

//! Devices that decode many chunks at once, and when they are asked (docs/gpu.md).
//!
//! A device is faster with thousands of chunks and slower with a few: those stay on the CPU, which also takes
//! over whatever a device fails to do, in the midst of the work. A failed device is not asked again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::coder::Share;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::device::Request;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The tokens of a chunk; their bytes are as many as it has.
    Tokens(Vec<u16>),
    /// For known tokens, the share of each and the total.
    Shares(Vec<(Share, u64)>),
    /// The payload does not decode to its length.
    Damaged,
}

/// Something that runs models for many chunks at once, with the results of the scalar kernels.
pub trait Device: Send + Sync {
    /// What people call it.
    fn name(&self) -> String;

    /// One output for each request, in their order; or why there is none, and nothing more is to be expected.
    fn run(&self, model: &Arc<Model>, requests: &[Request<'_>]) -> Result<Vec<Output>, String>;
}

/// Which devices a user lets work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A GPU for much work, if one answers.
    #[default]
    Auto,
    Cpu,
    /// The GPU of this number.
    Cuda(u32),
}

impl Choice {
    /// Reads `auto`, `cpu`, `cuda` or `cuda:N`.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) if number.parse::<u32>().is_ok() => {
                Ok(Self::Cuda(number.parse().unwrap_or_default()))
            }
            _ => Err(Error::Usage(format!("device {text:?} is not known; auto, cpu or cuda[:N]"))),
        }
    }
}

/// Fewest chunks with which a GPU that nobody asked for is started.
pub const WORTH_STARTING: usize = 512;
/// Fewest chunks that a GPU answers sooner than the CPU: a token takes it ten times as long, whatever their
/// number.
pub const SOONER: usize = 64;
/// Chunks that a GPU is given at once, where there are so many: as many as a large one runs side by side.
const BULK: usize = 4096;

type Open = Box<dyn Fn() -> Result<Box<dyn Device>, String> + Send + Sync>;

/// A device that takes work off the CPU, found when there is work for it.
pub struct Offload {
    open: Open,
    device: OnceLock<Result<Box<dyn Device>, String>>,
    /// Fewest chunks that it is asked for.
    least: AtomicUsize,
    lost: OnceLock<String>,
    asked_for: bool,
    /// Whether nobody waits for it to be opened.
    apart: AtomicBool,
}

impl Offload {
    /// One that is opened when there are at least so many chunks.
    pub fn new(least: usize, open: Open) -> Self {
        let least = AtomicUsize::new(least);
        Self {
            open,
            device: OnceLock::new(),
            least,
            lost: OnceLock::new(),
            asked_for: false,
            apart: AtomicBool::new(false),
        }
    }

    /// A device that is there, for any number of chunks, and for encoding.
    pub fn to(device: Box<dyn Device>) -> Self {
        let offload = Self::new(1, Box::new(|| Err("it was opened before".into())));
        // Nobody else has it yet.
        let _ = offload.device.set(Ok(device));
        Self { asked_for: true, ..offload }
    }

    /// Asks for no fewer chunks than these.
    pub fn at_least(&self, chunks: usize) {
        self.least.fetch_max(chunks, Ordering::Relaxed);
    }

    /// Opens it on a thread of its own; until it is there, it takes nothing.
    pub fn open_apart(self: &Arc<Self>) {
        self.apart.store(true, Ordering::Relaxed);
        let offload = self.clone();
        std::thread::spawn(move || offload.device().is_ok());
    }

    /// Whether so many chunks are for it.
    pub fn takes(&self, chunks: usize) -> bool {
        if self.apart.load(Ordering::Relaxed) && self.device.get().is_none() {
            return false;
        }
        chunks >= self.least.load(Ordering::Relaxed) && self.lost.get().is_none() && self.device().is_ok()
    }

    /// Whether so many chunks are to be encoded by it: only where a user asked for it, for what it encodes is
    /// to be read elsewhere.
    pub fn takes_encoding(&self, chunks: usize) -> bool {
        self.asked_for && self.takes(chunks)
    }

    /// How many of so many chunks it wants at once; 0 if it does not want them.
    pub fn bulk(&self, chunks: usize) -> usize {
        if self.takes(chunks) { BULK } else { 0 }
    }

    /// The device, or why there is none.
    pub fn device(&self) -> Result<&dyn Device, &str> {
        self.device.get_or_init(&self.open).as_deref().map_err(String::as_str)
    }

    /// Does the work, if the device does. `None` if not; it is not asked again then.
    pub fn run(&self, model: &Arc<Model>, requests: &[Request<'_>]) -> Option<Vec<Output>> {
        let outputs = self.device().map_err(str::to_owned).and_then(|device| device.run(model, requests));
        match outputs {
            Ok(outputs) if outputs.len() == requests.len() => Some(outputs),
            Ok(_) => self.lose("it returned too few results".into()),
            Err(why) => self.lose(why),
        }
    }

    /// Gives the device up: what it computes is wrong.
    pub fn distrust(&self) {
        self.lose::<()>("it gave other bytes than the CPU".into());
    }

    fn lose<T>(&self, why: String) -> Option<T> {
        let _ = self.lost.set(why);
        None
    }

    /// Why the device was given up, if it was: in words, for people.
    pub fn warning(&self) -> Option<String> {
        let name = self.device().map_or_else(|_| "the device".into(), |device| device.name());
        self.lost.get().map(|why| format!("{name} was given up, and the CPU did the rest: {why}"))
    }
}

impl std::fmt::Debug for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = self.device.get().map(|device| device.as_ref().map(|device| device.name()));
        f.debug_struct("Offload").field("device", &device).field("lost", &self.lost.get()).finish()
    }
}

static CHOSEN: OnceLock<Option<Arc<Offload>>> = OnceLock::new();

/// Sets what this process works with; the first call counts. A GPU that was asked for is started at once.
///
/// # Errors
/// `Usage` if the GPU that was asked for cannot be had, with the reason.
pub fn choose(choice: Choice) -> Result<()> {
    let offload = match choice {
        Choice::Cpu => None,
        Choice::Auto => Some(Arc::new(Offload::new(WORTH_STARTING, Box::new(|| open(0))))),
        Choice::Cuda(number) => {
            let refused = |why| Error::Usage(format!("device cuda:{number}: {why}; use --device cpu"));
            Some(Arc::new(Offload::to(open(number).map_err(refused)?)))
        }
    };
    CHOSEN.get_or_init(|| offload);
    Ok(())
}

/// What this process works with beside the CPU.
pub fn chosen() -> Option<Arc<Offload>> {
    CHOSEN.get().cloned().flatten()
}

#[cfg(feature = "gpu")]
pub use super::cuda::{Found, devices, open};

#[cfg(not(feature = "gpu"))]
fn open(_: u32) -> Result<Box<dyn Device>, String> {
    Err("this s3a was built without `gpu`; build it with `--features gpu`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        for (text, choice) in [
            ("auto", Choice::Auto),
            ("cpu", Choice::Cpu),
            ("cuda", Choice::Cuda(0)),
            ("cuda:3", Choice::Cuda(3)),
        ] {
            assert_eq!(Choice::parse(text).unwrap(), choice);
        }
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:1", "auto:0", "cuda:-1"] {
            assert!(matches!(Choice::parse(bad), Err(Error::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_asked_for_once_and_takes_nothing() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let offload = Offload::new(
            10,
            Box::new(|| {
                ASKED.fetch_add(1, Ordering::Relaxed);
                Err("no".into())
            }),
        );
        assert!(!offload.takes(9));
        assert_eq!(ASKED.load(Ordering::Relaxed), 0, "a few chunks start no device");
        assert!(!offload.takes(10) && !offload.takes(1000) && offload.bulk(1000) == 0);
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
        assert_eq!(offload.warning(), None);
    }

    #[test]
    fn nobody_waits_for_a_device_that_is_opened_apart() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let receive = std::sync::Mutex::new(receive);
        let open = move || {
            let _ = receive.lock().unwrap().recv();
            Err("no".into())
        };
        let offload = Arc::new(Offload::new(1, Box::new(open)));
        offload.open_apart();
        assert!(!offload.takes(1000));
        drop(send);
        assert!(offload.device().is_err() && !offload.takes(1000));
    }
}

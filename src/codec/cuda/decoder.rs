//! The GPU as a device of the codec. A batch is as large as the GPU's memory allows; its chunks are
//! grouped in tiles that share weights, and each launch decodes about a thousand tokens of every
//! chunk.
//!
//! Between launches the chunks that are done are taken out, so that the rest fill their tiles.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tiles::{Running, Tile, fitting, tiles_of};
use crate::codec::neural::chunk_model::Neural;
use crate::codec::neural::lockstep::begin;
use crate::codec::offload::device::{Device, Output};
use crate::coder::share::Share;
use crate::kernels::backend::Backend;
use crate::kernels::cuda;
use crate::kernels::cuda::device::Kernel;
use crate::kernels::cuda::fault::Fault;
use crate::model::device::image;
use crate::model::device::job::{Job, Memory, Request, Status};
use crate::model::device::shape::Shape;
use crate::model::latent;
use crate::model::weights::Model;

/// Tokens of a launch: it takes some ten milliseconds, so that a screen on the same device can
/// still be drawn.
const STEPS: u64 = 1024;
/// Elements of history that the kernel lays in in the time of one token.
const LAID_PER_STEP: u64 = 16;
/// Chunks of a block, where there are enough chunks for all multiprocessors.
const TILE: usize = 16;
const SMALL_TILE: usize = 8;
/// What the self-test decodes: text that repeats itself, so that all inputs of a model are used.
const SAMPLE: &[u8] =
    b"Four score and seven score and seven years, and four years: \x00\xff\x80 1, 2, 4, 8, 16, 32";
/// Fewest chunks whose tokens are worth a thread of their own for copying.
const READ_SHARE: usize = 64;
/// The kernel's name.
const KERNEL: &str = "s3a_decode";

/// What is known of one GPU.
#[derive(Clone, Debug)]
pub struct Found {
    /// The GPU's name.
    pub name: String,
    /// Instruction set, such as 90 for compute capability 9.0.
    pub arch: u32,
    /// Number of multiprocessors.
    pub processors: u32,
    /// Bytes of memory.
    pub memory: usize,
}

/// All GPUs: for each what is known of it, or why it cannot be used.
///
/// # Errors
/// Why there is none.
pub fn devices() -> Result<Vec<Result<Found, String>>, String> {
    let words = |fault: Fault| fault.to_string();
    let count = cuda::Device::count().map_err(words)?;
    let found = |device: Arc<cuda::Device>| Found {
        name: device.name().to_owned(),
        arch: device.arch(),
        processors: device.processors(),
        memory: device.memory(),
    };
    let all = (0..count).map(|number| cuda::Device::open(number).map(found).map_err(words));
    Ok(all.collect())
}

/// Opens the GPU with this number.
///
/// # Errors
/// Why it cannot be used.
pub fn open(number: u32) -> Result<Box<dyn Device>, String> {
    let device = cuda::Device::open(number).map_err(|fault| fault.to_string())?;
    Ok(Box::new(Cuda { device, loaded: Mutex::default() }))
}

/// One GPU, which takes one batch at a time.
#[derive(Debug)]
struct Cuda {
    device: Arc<cuda::Device>,
    loaded: Mutex<HashMap<[u8; 32], Loaded>>,
}

/// A model on the device, and its kernels by tile.
#[derive(Debug)]
struct Loaded {
    image: cuda::Memory,
    kernels: HashMap<usize, (Shape, Kernel)>,
}

impl Device for Cuda {
    fn name(&self) -> String {
        self.device.name().to_owned()
    }

    fn prepare(&self, model: &Arc<Model>, chunks: usize) -> Result<(), String> {
        let ready = self.load(&mut self.turn(), model, self.tile(chunks)).map(|_| ());
        ready.map_err(|fault| fault.to_string())
    }

    fn run(&self, model: &Arc<Model>, requests: &[Request<'_>]) -> Result<Vec<Output>, String> {
        let mut loaded = self.turn();
        self.all(&mut loaded, model, requests).map_err(|fault| fault.to_string())
    }
}

impl Cuda {
    fn turn(&self) -> MutexGuard<'_, HashMap<[u8; 32], Loaded>> {
        // A lock that a panic poisoned is still good: entries are put in when they are complete.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chunks of a block in a batch of `chunks` chunks.
    fn tile(&self, chunks: usize) -> usize {
        let wide = chunks >= 2 * TILE * self.device.processors() as usize;
        if wide { TILE } else { SMALL_TILE }
    }

    fn all(
        &self,
        loaded: &mut HashMap<[u8; 32], Loaded>,
        model: &Arc<Model>,
        requests: &[Request<'_>],
    ) -> Result<Vec<Output>, Fault> {
        let config = model.config();
        let tile = self.tile(requests.len());
        let model_here = self.load(loaded, model, tile)?;
        // Chunks of one expert stand together, and within them chunks that take about as long.
        let mut order: Vec<usize> = (0..requests.len()).collect();
        let length = |i: usize| {
            let request: &Request<'_> = &requests[i];
            request.known.as_ref().map_or(request.payload.len(), Vec::len)
        };
        order.sort_by_key(|&i| (model.expert(&requests[i].c), std::cmp::Reverse(length(i))));
        let memory: Vec<Memory> = order.iter().map(|&i| requests[i].memory(config)).collect();
        let mut outputs: Vec<Option<Output>> = requests.iter().map(|_| None).collect();
        let mut room = self.device.free_memory()? / 8 * 7;
        let mut next = 0;
        while next < order.len() {
            let count = fitting(&memory[next..], room, Job::LEN + model_here.workspace_of_chunk(tile));
            let batch: Vec<&Request<'_>> = order[next..next + count].iter().map(|&i| &requests[i]).collect();
            match self.batch(model_here, tile, model, &batch) {
                Ok(results) => {
                    for (&i, result) in order[next..].iter().zip(results) {
                        outputs[i] = Some(result);
                    }
                    next += count;
                }
                Err(Fault::Memory) if count > 1 => {
                    let taken: usize = memory[next..next + count].iter().map(Memory::total).sum();
                    room = taken / 2;
                }
                Err(fault) => return Err(fault),
            }
        }
        let all: Option<Vec<Output>> = outputs.into_iter().collect();
        all.ok_or_else(|| Fault::Failed("a chunk was left out".into()))
    }

    /// The model's weights and a kernel for this tile, on the device.
    fn load<'a>(
        &self,
        loaded: &'a mut HashMap<[u8; 32], Loaded>,
        model: &Arc<Model>,
        tile: usize,
    ) -> Result<&'a Loaded, Fault> {
        let here = match loaded.entry(model.fingerprint()) {
            Entry::Occupied(here) => here.into_mut(),
            Entry::Vacant(free) => {
                let bytes = image(model).ok_or_else(|| Fault::Failed("the model is too large".into()))?;
                let image = self.device.allocate(bytes.len())?;
                image.write(0, &bytes)?;
                free.insert(Loaded { image, kernels: HashMap::new() })
            }
        };
        let Entry::Vacant(free) = here.kernels.entry(tile) else { return Ok(here) };
        let shape = Shape::new(model.config(), tile, self.device.shared());
        let kernel = self.kernel(&shape)?;
        free.insert((shape, kernel));
        if let Err(fault) = self.self_test(here, tile, model) {
            here.kernels.remove(&tile);
            return Err(fault);
        }
        Ok(here)
    }

    fn kernel(&self, shape: &Shape) -> Result<Kernel, Fault> {
        let compile = |fresh| cuda::compile(self.device.arch(), shape.macros(), fresh);
        let image = compile(false)?;
        match self.device.load(&image.bytes, KERNEL) {
            // A cached kernel may be of a compiler that is too new for this driver.
            Err(Fault::Failed(_)) if image.kept => self.device.load(&compile(true)?.bytes, KERNEL),
            loaded => loaded,
        }
    }

    /// Decodes what the CPU has encoded, with and without c, to find a device or a compiler that
    /// does not do what it promises. What a device encodes is read on other machines, so a device
    /// that fails here is not used at all.
    fn self_test(&self, here: &Loaded, tile: usize, model: &Arc<Model>) -> Result<(), Fault> {
        let cpu = Neural::new(model.clone());
        let tokens = model.vocabulary().tokenize(SAMPLE);
        for c in std::iter::once(vec![]).chain(latent::likely(model, 1)) {
            let failed = || Fault::Failed("the self-test could not be prepared".into());
            let payload = cpu.encode_with(SAMPLE, &[], &c).map_err(|_| failed())?.payload;
            let (reader, c) = begin(model, &payload).map_err(|_| failed())?;
            let (code, range, payload) = reader.state();
            let (raw_len, history) = (SAMPLE.len(), vec![model.vocabulary().separator()]);
            let capacity = raw_len;
            let request = Request { c, code, range, payload, raw_len, capacity, history, known: None };
            if self.batch(here, tile, model, &[&request])? != [Output::Tokens(tokens.clone())] {
                return Err(Fault::Failed("it fails its self-test".into()));
            }
        }
        Ok(())
    }

    /// Decodes chunks that are on the device at the same time.
    fn batch(
        &self,
        here: &Loaded,
        tile: usize,
        model: &Model,
        requests: &[&Request<'_>],
    ) -> Result<Vec<Output>, Fault> {
        let Some((shape, kernel)) = here.kernels.get(&tile) else {
            return Err(Fault::Failed("the kernel was lost".into()));
        };
        let config = model.config();
        let mut sum = Memory::default();
        requests.iter().for_each(|request| sum.add(request.memory(config)));
        let device = &self.device;
        let input = device.allocate(sum.input)?;
        let tables = device.allocate(sum.tables)?;
        let scratch = device.allocate(sum.scratch)?;
        let output = device.allocate(sum.output)?;
        let mut at = Memory::default();
        let mut bytes = Vec::with_capacity(sum.input);
        let mut running = Vec::with_capacity(requests.len());
        for (number, request) in requests.iter().enumerate() {
            let places = [
                input.place() + at.input as u64,
                tables.place() + at.tables as u64,
                scratch.place() + at.scratch as u64,
                output.place() + at.output as u64,
            ];
            let job = Job::new(model, Backend::best(), request, places, &mut bytes);
            running.push(Running { number, set: model.expert(&request.c), job });
            at.add(request.memory(config));
        }
        input.write(0, &bytes)?;
        tables.fill(0, sum.tables, 0xff)?;

        let ended = self.advance_all(here, (shape, kernel), requests, running)?;
        let mut results = vec![0; sum.output];
        output.read(0, &mut results)?;
        let mut rest = &results[..];
        let chunks: Vec<Ended<'_>> = requests
            .iter()
            .zip(ended)
            .map(|(request, (status, position))| {
                let (bytes, others) = rest.split_at(request.memory(config).output);
                rest = others;
                Ended { request, status, position, bytes }
            })
            .collect();
        // These are not tasks of the thread pool: it might give this thread another batch, which
        // would wait for the end of this one.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = chunks.len().div_ceil(threads).max(READ_SHARE);
        std::thread::scope(|scope| {
            let read =
                |share: &[Ended<'_>]| share.iter().map(Ended::output).collect::<Result<Vec<_>, Fault>>();
            let parts: Vec<_> = chunks.chunks(share).map(|share| scope.spawn(move || read(share))).collect();
            let mut outputs = Vec::with_capacity(chunks.len());
            for part in parts {
                outputs.extend(part.join().map_err(|_| Fault::Failed("a thread was lost".into()))??);
            }
            Ok(outputs)
        })
    }

    /// Launches the kernel until all chunks have ended. Returns how each of them ended, and its
    /// tokens.
    fn advance_all(
        &self,
        here: &Loaded,
        (shape, kernel): (&Shape, &Kernel),
        requests: &[&Request<'_>],
        mut running: Vec<Running>,
    ) -> Result<Vec<(Status, usize)>, Fault> {
        let device = &self.device;
        let most_tiles = running.len().div_ceil(shape.tile) + 256;
        let jobs = device.allocate(running.len() * Job::LEN)?;
        let tiles = device.allocate(most_tiles * Tile::LEN)?;
        let blocks = tiles_of(&running, shape.tile).len();
        let workspace = device.allocate(blocks * shape.workspace)?;
        let mut ended = vec![(Status::Damaged, 0); requests.len()];
        // Every launch codes `STEPS` tokens of every chunk, or lays in as much history.
        let launches = |request: &&Request<'_>| {
            let tokens = request.known.as_ref().map_or(request.raw_len, Vec::len) as u64;
            tokens / STEPS + request.history.len() as u64 / (STEPS * LAID_PER_STEP) + 3
        };
        let mut left = requests.iter().map(launches).max().unwrap_or(0);
        while !running.is_empty() {
            left = left
                .checked_sub(1)
                .ok_or_else(|| Fault::Failed("the kernel does not come to an end".into()))?;
            let all: Vec<u8> = running.iter().flat_map(|running| *running.job.bytes()).collect();
            let now = tiles_of(&running, shape.tile);
            let records: Vec<u8> = now.iter().flat_map(Tile::bytes).collect();
            jobs.write(0, &all)?;
            tiles.write(0, &records)?;
            let arguments = [here.image.place(), jobs.place(), tiles.place(), workspace.place(), STEPS];
            // There are fewer tiles than 2^32 chunks.
            kernel.run(now.len() as u32, shape.threads() as u32, shape.shared, arguments)?;
            let mut all = all;
            jobs.read(0, &mut all)?;
            for (running, bytes) in running.iter_mut().zip(all.as_chunks::<{ Job::LEN }>().0) {
                running.job = Job::from_bytes(*bytes);
                let status = running.job.status();
                let status = status.ok_or_else(|| Fault::Failed("the kernel writes nonsense".into()))?;
                ended[running.number] = (status, running.job.position());
            }
            running.retain(|running| ended[running.number].0 == Status::Running);
        }
        Ok(ended)
    }
}

impl Loaded {
    fn workspace_of_chunk(&self, tile: usize) -> usize {
        self.kernels.get(&tile).map_or(0, |(shape, _)| shape.workspace.div_ceil(shape.tile))
    }
}

/// A chunk that has ended, and what the kernel has written of it.
struct Ended<'a> {
    request: &'a Request<'a>,
    status: Status,
    position: usize,
    bytes: &'a [u8],
}

impl Ended<'_> {
    fn output(&self) -> Result<Output, Fault> {
        let written = |each: usize| {
            let bytes = self.bytes.get(..each * self.position);
            bytes.ok_or_else(|| Fault::Failed("the kernel writes beyond a chunk".into()))
        };
        match (self.status, &self.request.known) {
            (Status::Done, None) => {
                let tokens = written(2)?.as_chunks().0;
                Ok(Output::Tokens(tokens.iter().map(|&token| u16::from_le_bytes(token)).collect()))
            }
            (Status::Done, Some(_)) => {
                let shares = written(16)?.as_chunks::<8>().0.chunks_exact(2);
                let share = |pair: &[[u8; 8]]| {
                    let (packed, total) = (u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1]));
                    (Share { cum: packed & ((1 << 40) - 1), slot: packed >> 40 }, total)
                };
                Ok(Output::Shares(shares.map(share).collect()))
            }
            (Status::Damaged, _) => Ok(Output::Damaged),
            (Status::Running, _) => Err(Fault::Failed("a chunk was left undecoded".into())),
        }
    }
}

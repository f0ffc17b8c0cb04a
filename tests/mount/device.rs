//! A mount with an emulated device, whose launches are counted. Every byte that is read is
//! compared.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};
use s3a::archive::{Archive, OpenOptions};
use s3a::codec::Models;
use s3a::codec::choice::open;
use s3a::codec::neural::chunk_model::Neural;
use s3a::codec::offload::costs::Costs;
use s3a::codec::offload::dispatch::Offload;
use s3a::model::sample::Random;
use s3a::model::{Model, device};
use s3a::mount::MountOptions;

use crate::emulation;
use crate::place::{Mounted, Place, fuse, run, s3a, wait_until};

const CHUNK: usize = 4 << 10;
/// One second for 1,024 bytes on the CPU, and five seconds on the device for 1,024 bytes of the
/// longest chunk: one thread of the CPU is sooner for up to five chunks, the device for more.
const COSTS: &str = "1000000000,1000000000,5000000000,1,0";
const FILES: [(&str, usize); 3] = [("a", 20 * CHUNK), ("b", 13 * CHUNK + 1234), ("c", 300)];

/// An archive packed with a model that is small enough for the emulation.
struct Emulated {
    place: Place,
    libraries: PathBuf,
    model: Model,
}

impl Emulated {
    /// `None`, with a message, where there is no FUSE or no compiler.
    fn new() -> Option<Self> {
        if !fuse() {
            return None;
        }
        let Some(libraries) = emulation::libraries() else {
            println!("skipped: there is no C++ compiler `c++`");
            return None;
        };
        let file = emulation::tiny();
        let model = Model::from_bytes(&file).unwrap();
        let mut random = Random::new(11);
        let place = Place::new(|root| {
            for (name, len) in FILES {
                let mut words = emulation::words(&model, &mut random, len / 5 + 1);
                words.truncate(len);
                fs::write(root.join(name), words).unwrap();
            }
        });
        let path = place.dir.path().join("tiny.safetensors");
        fs::write(&path, file).unwrap();
        let mut pack = s3a();
        pack.args([
            "pack",
            "--chunk-size",
            "4k",
            "--read-time",
            "0",
            "--no-check",
            "--embed-model",
            "--device",
            "cpu",
            "--model",
        ]);
        run(pack.arg(path).arg(place.source()).arg("-o").arg(place.archive()));
        let info = run(s3a().arg("info").arg(place.archive()).args(["--chunks", "--json"]));
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        assert!(info["codecs"]["neural"]["chunks"].as_u64() > Some(30), "{info}");
        Some(Self { place, libraries, model })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.dir.path().join(name)
    }

    /// A command that finds the emulated device.
    fn command(&self, mut command: Command, variables: &[(&str, &str)]) -> Command {
        command
            .env("S3A_CUDA_PATH", &self.libraries)
            .env("XDG_CACHE_HOME", self.libraries.join("cache"))
            .env("S3A_EMULATED_LOG", self.path("log"))
            .env("S3A_DEVICE_COSTS", COSTS)
            .envs(variables.iter().copied());
        command
    }

    /// Mounts with the device, and waits until it is ready.
    fn mount(&self, target: &Path, options: &str, variables: &[(&str, &str)]) -> Mounted {
        let mut command = self.command(s3a(), variables);
        command.args(["mount", "-f", "--device", "cuda", "-o", options]);
        let said = File::create(target.with_extension("said")).unwrap();
        let mounted = self.place.mount_by(command.stderr(said), target);
        wait_until("the device", || {
            let threads = fs::read_dir(format!("/proc/{}/task", mounted.daemon.id())).unwrap().flatten();
            let name =
                |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            self.launches() > 0 && !threads.map(name).any(|name| name.trim() == "s3a-device")
        });
        mounted
    }

    fn launches(&self) -> usize {
        fs::read_to_string(self.path("log")).map_or(0, |log| log.lines().count())
    }

    /// Reads all files from their beginning to their end.
    fn read_all(&self, target: &Path) {
        for (name, len) in FILES {
            let read = fs::read(target.join(name)).unwrap();
            assert_eq!(read.len(), len, "{name}");
            assert!(read == fs::read(self.place.source().join(name)).unwrap(), "{name} has other bytes");
        }
    }

    /// Unmounts; returns the daemon's exit code and its messages.
    fn end(&self, mounted: Mounted) -> (Option<i32>, String) {
        let target = mounted.target.clone();
        run(s3a().arg("umount").arg(&target));
        let code = mounted.ended();
        (code, fs::read_to_string(target.with_extension("said")).unwrap())
    }
}

#[test]
fn a_sequential_reader_gets_its_windows_from_the_device() {
    let Some(emulated) = Emulated::new() else { return };
    let target = emulated.place.target();
    let mounted = emulated.mount(&target, "workers=2", &[]);
    let before = emulated.launches();
    emulated.read_all(&target);
    let after = emulated.launches();
    assert!(after > before, "the device had nothing to do");
    // Decoded chunks are cached.
    emulated.read_all(&target);
    assert_eq!(emulated.launches(), after);
    let (code, said) = emulated.end(mounted);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn a_cold_read_goes_to_the_cpu_and_a_large_one_to_the_device() {
    let Some(emulated) = Emulated::new() else { return };
    let target = emulated.place.target();
    let mounted = emulated.mount(&target, "workers=1,cachesize=0", &[]);
    let (ours, theirs) = (fs::read(emulated.place.source().join("a")).unwrap(), target.join("a"));
    let theirs = File::open(theirs).unwrap();
    let mut random = Random::new(5);
    let mut read = |len: usize| {
        let at = random.below((ours.len() - len) as u32 / 512) as usize * 512;
        // No read-ahead of the kernel, and no page from its cache.
        fadvise(&theirs, 0, None, Advice::Random).unwrap();
        fadvise(&theirs, 0, None, Advice::DontNeed).unwrap();
        let mut got = vec![0; len];
        theirs.read_exact_at(&mut got, at as u64).unwrap();
        assert!(got == ours[at..at + len], "{len} bytes at {at}");
    };
    let before = emulated.launches();
    (0..60).for_each(|_| read(1500));
    assert_eq!(emulated.launches(), before, "a chunk or two are for the CPU");
    (0..3).for_each(|_| read(12 * CHUNK));
    assert!(emulated.launches() > before);
    drop(theirs);
    let (code, said) = emulated.end(mounted);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn a_device_that_is_lost_in_the_midst_of_a_read_costs_no_byte() {
    let Some(emulated) = Emulated::new() else { return };
    let target = emulated.place.target();
    // Launch 1 is the self-test; the work begins with the next.
    for launch in ["2", "3"] {
        fs::write(emulated.path("log"), "").unwrap();
        let mounted = emulated.mount(&target, "workers=2", &[("S3A_EMULATED_FAIL", launch)]);
        emulated.read_all(&target);
        let (code, said) = emulated.end(mounted);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("emulated was given up") && said.contains("launch failure"), "{said}");
    }
}

#[test]
fn with_little_memory_a_device_takes_smaller_batches() {
    let Some(emulated) = Emulated::new() else { return };
    let target = emulated.place.target();
    let whole = {
        let mounted = emulated.mount(&target, "workers=1", &[]);
        emulated.read_all(&target);
        emulated.end(mounted);
        emulated.launches()
    };
    let (payload, history) = (vec![1; CHUNK / 3], vec![0]);
    let request =
        device::Request { payload: &payload, raw_len: CHUNK, capacity: CHUNK, history, ..Default::default() };
    let chunk = request.memory(emulated.model.config()).total();
    let weights = device::image(&emulated.model).unwrap().len();
    // The driver says so beforehand, or only when memory is asked for.
    for memory in [weights + 4 * chunk, weights + 6 * chunk * 8 / 7 + 3000] {
        fs::write(emulated.path("log"), "").unwrap();
        let memory = memory.to_string();
        let mounted = emulated.mount(&target, "workers=1", &[("S3A_EMULATED_MEMORY", &memory)]);
        emulated.read_all(&target);
        let (code, said) = emulated.end(mounted);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{memory}");
        assert!(emulated.launches() > whole, "{memory}: {} {whole}", emulated.launches());
    }
}

#[test]
fn two_mounts_have_a_device_at_once() {
    let Some(emulated) = Emulated::new() else { return };
    let targets = ["mnt", "other"].map(|name| emulated.path(name));
    fs::create_dir(&targets[1]).unwrap();
    let mounted = targets.each_ref().map(|target| emulated.mount(target, "workers=2", &[]));
    let before = emulated.launches();
    std::thread::scope(|scope| {
        for target in &targets {
            scope.spawn(|| emulated.read_all(target));
        }
    });
    assert!(emulated.launches() > before + 1);
    for mounted in mounted {
        let (code, said) = emulated.end(mounted);
        assert_eq!((code, said.as_str()), (Some(0), ""));
    }
}

#[test]
fn two_mounts_of_one_process_share_its_device_and_lose_it() {
    for variables in [&[][..], &[("S3A_EMULATED_FAIL", "3")]] {
        let Some(emulated) = Emulated::new() else { return };
        let mut command = emulated.command(Command::new(std::env::current_exe().unwrap()), variables);
        command.args(["--exact", "device::two_mounts_here", "--ignored", "--nocapture"]);
        let output = run(command.env("S3A_TEST_PLACE", emulated.place.dir.path()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("1 passed"), "{text}");
        let warning = text.contains("emulated was given up");
        assert_eq!(warning, !variables.is_empty(), "{text}");
        assert!(emulated.launches() >= 2, "{text}");
    }
}

#[test]
#[ignore = "is started by the test above, in a process that finds the emulated device"]
fn two_mounts_here() {
    let dir = PathBuf::from(std::env::var_os("S3A_TEST_PLACE").unwrap());
    let model = Arc::new(Model::from_bytes(&fs::read(dir.join("tiny.safetensors")).unwrap()).unwrap());
    let offload = Offload::to(open(0).unwrap()).with_costs(Some(Costs::parse(COSTS).unwrap()));
    offload.by_costs();
    let offload = Arc::new(offload);
    let targets = ["one", "two"].map(|name| dir.join(name));
    let options = MountOptions { workers: 2, ..MountOptions::default() };
    let mounted = targets.each_ref().map(|target| {
        fs::create_dir(target).unwrap();
        let mut archive = Archive::open(dir.join("packed.s3a"), &OpenOptions::default()).unwrap();
        let neural = Neural::new(model.clone()).offloading(Some(offload.clone()));
        archive.set_models(Models::one(Arc::new(neural)));
        s3a::mount::start(archive, target, &options).unwrap()
    });
    std::thread::scope(|scope| {
        for target in &targets {
            for (name, len) in FILES {
                let source = dir.join("source").join(name);
                scope.spawn(move || {
                    let read = fs::read(target.join(name)).unwrap();
                    assert_eq!(read.len(), len, "{name}");
                    assert!(read == fs::read(source).unwrap(), "{name} has other bytes");
                });
            }
        }
    });
    for mounted in mounted {
        mounted.unmount().unwrap();
    }
    println!("{:?}", offload.warning());
}

use std::sync::mpsc::channel;

use super::*;
use crate::model::config::Config;
use crate::model::sample::{Draw, model_file};

const MILLI: u64 = 1_000_000;
const COSTS: Costs =
    Costs { alone: 2 * MILLI, beside: MILLI, step: 25 * MILLI, share: 10_000, start: 1000 * MILLI };

fn model() -> Arc<Model> {
    seeded(1)
}

fn seeded(seed: u64) -> Arc<Model> {
    let file = model_file(Config::new("m", 16, 1, 300), Draw::Even, seed).unwrap();
    Arc::new(Model::from_bytes(&file).unwrap())
}

fn chunks(count: usize) -> Work {
    Work::of(count, 16 << 10, 2)
}

fn unmeasured() -> Option<(u64, u64)> {
    panic!("nothing is to be measured")
}

/// A device that takes its time and returns what it was told to.
struct Slow {
    wait: Box<dyn Fn() + Send + Sync>,
    prepares: Result<(), String>,
}

impl Device for Slow {
    fn name(&self) -> String {
        "slow".into()
    }

    fn prepare(&self, _: &Arc<Model>, _: usize) -> Result<(), String> {
        self.prepares.clone()
    }

    fn run(&self, _: &Arc<Model>, requests: &[Request<'_>]) -> Result<Vec<Output>, String> {
        (self.wait)();
        Ok(vec![Output::Damaged; requests.len()])
    }
}

fn slow(prepares: Result<(), String>) -> Box<dyn Device> {
    Box::new(Slow { wait: Box::new(|| ()), prepares })
}

#[test]
fn a_device_that_is_not_there_is_asked_for_once_and_takes_nothing() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let open = || {
        ASKED.fetch_add(1, Ordering::Relaxed);
        Err("no".into())
    };
    let (model, offload) = (model(), Offload::new(Box::new(open)).with_costs(Some(COSTS)));
    assert!(!offload.takes(&model, chunks(64), &unmeasured));
    assert_eq!(ASKED.load(Ordering::Relaxed), 0, "a few chunks start no device");
    for _ in 0..3 {
        assert!(!offload.takes(&model, chunks(600), &unmeasured));
        assert_eq!(offload.bulk(&model, chunks(5000), &unmeasured), 0);
    }
    assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    assert_eq!(offload.warning(), None);
}

#[test]
fn a_device_is_started_for_all_of_the_work_and_then_takes_its_parts() {
    let (model, offload) = (model(), Offload::new(Box::new(|| Ok(slow(Ok(()))))));
    let offload = offload.with_costs(Some(COSTS));
    let takes = |count| offload.takes(&model, chunks(count), &unmeasured);
    assert!(!takes(1) && !takes(100));
    assert_eq!(offload.bulk(&model, chunks(100), &unmeasured), 0);
    assert_eq!(offload.bulk(&model, chunks(600), &unmeasured), BATCH);
    assert!(!takes(1) && takes(100));
    assert!(!offload.takes_encoding(), "nobody asked for it");
    offload.distrust();
    assert!(!takes(10_000));
}

#[test]
fn the_cpu_is_measured_once_and_only_where_that_may_matter() {
    let (model, offload) = (model(), Offload::new(Box::new(|| Ok(slow(Ok(()))))));
    let measured = AtomicUsize::new(0);
    let fast = || {
        measured.fetch_add(1, Ordering::Relaxed);
        Some((1, 1))
    };
    assert!(!offload.takes(&model, chunks(1), &unmeasured));
    for _ in 0..3 {
        assert!(!offload.takes(&model, chunks(1_000_000), &fast), "a CPU like this needs no device");
    }
    assert_eq!(measured.load(Ordering::Relaxed), 1);
    assert_eq!((offload.costs(&model).alone, offload.costs(&model).beside), (1, 1));
}

#[test]
fn what_the_start_for_one_model_took_is_expected_for_the_next() {
    let offload = Offload::new(Box::new(|| Ok(slow(Ok(())))));
    // A second of the CPU that is guessed, and much more of the one that is measured; the device
    // takes 25 ms.
    let (first, next, work) = (seeded(1), seeded(2), Work::of(500, 1024, 1));
    let measure = || Some((1000 * MILLI, 1000 * MILLI));
    assert!(!offload.takes(&next, work, &unmeasured), "two seconds of start are guessed");
    let request = Request { raw_len: 1024, ..Request::default() };
    assert!(offload.run(&first, &[request]).is_some());
    assert!(offload.takes(&next, work, &measure));
}

#[test]
fn one_that_was_asked_for_takes_everything_or_goes_by_costs() {
    let (model, offload) = (model(), Offload::to(slow(Ok(()))).with_costs(Some(COSTS)));
    assert!(offload.takes(&model, chunks(1), &unmeasured) && offload.takes_encoding());
    offload.by_costs();
    assert!(!offload.takes(&model, chunks(1), &unmeasured) && !offload.takes_encoding());
    assert!(offload.takes(&model, chunks(1000), &unmeasured));
}

#[test]
fn who_comes_to_a_busy_device_is_told_how_long_it_will_be() {
    let ((go, wait), (begun, begins)) = (channel::<()>(), channel::<()>());
    let wait = Mutex::new(wait);
    let waits = move || {
        let _ = begun.send(());
        let _ = wait.lock().unwrap().recv();
    };
    let device = Box::new(Slow { wait: Box::new(waits), prepares: Ok(()) });
    // An hour a batch: no test takes that long.
    let hour = 3_600_000 * MILLI;
    let costs = Costs { step: hour, alone: hour, beside: hour, share: 1, start: 0 };
    let (model, offload) = (model(), Offload::to(device).with_costs(Some(costs)));
    offload.by_costs();
    // An hour and a half on the CPU.
    let work = Work { chunks: 3, bytes: 1536, longest: 1024, threads: 1 };
    let takes = || offload.takes(&model, work, &unmeasured);
    assert!(takes());
    std::thread::scope(|scope| {
        let requests = [Request { raw_len: 1024, ..Request::default() }];
        let (offload, model) = (&offload, &model);
        scope.spawn(move || assert_eq!(offload.run(model, &requests), Some(vec![Output::Damaged])));
        begins.recv().unwrap();
        assert!(!takes());
        go.send(()).unwrap();
    });
    assert!(takes());
}

#[test]
fn nobody_waits_for_a_device_that_is_prepared_apart() {
    let (send, receive) = channel::<()>();
    let receive = Mutex::new(receive);
    let open = move || {
        let _ = receive.lock().unwrap().recv();
        Ok(slow(Ok(())))
    };
    let model = model();
    let offload = Arc::new(Offload::new(Box::new(open)).with_costs(Some(COSTS)));
    offload.prepare_apart(model.clone(), chunks(5000), unmeasured);
    assert!(!offload.takes(&model, chunks(5000), &unmeasured));
    drop(send);
    while offload.apart.load(Ordering::Acquire) > 0 {
        std::thread::yield_now();
    }
    assert!(offload.takes(&model, chunks(100), &unmeasured), "it is ready");
    // Too little for a start.
    let offload = Arc::new(Offload::new(Box::new(|| panic!("not for this"))).with_costs(Some(COSTS)));
    offload.prepare_apart(model.clone(), chunks(5), unmeasured);
    while offload.apart.load(Ordering::Acquire) > 0 {
        std::thread::yield_now();
    }
    // One that cannot be made ready is given up.
    let offload = Arc::new(Offload::to(slow(Err("no compiler".into()))).with_costs(Some(COSTS)));
    offload.prepare_apart(model.clone(), chunks(5), unmeasured);
    while offload.apart.load(Ordering::Acquire) > 0 {
        std::thread::yield_now();
    }
    assert!(!offload.takes(&model, chunks(5000), &unmeasured));
    assert!(offload.warning().unwrap().contains("no compiler"));
}

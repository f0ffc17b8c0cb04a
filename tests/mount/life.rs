//! How mounts begin, end and fail.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{noise, snapshot};
use crate::place::{Place, SOON, fuse, is_mounted, run, s3a, tree};

#[test]
fn signals_unmount_even_while_files_are_open() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    for (signal, busy) in
        [(Signal::TERM, false), (Signal::INT, false), (Signal::HUP, false), (Signal::TERM, true)]
    {
        let mounted = place.mount(&[]);
        let open = busy.then(|| File::open(place.target().join("text")).unwrap());
        mounted.signal(signal);
        assert_eq!(mounted.ended(), Some(0));
        assert!(!is_mounted(&place.target()));
        if let Some(open) = open {
            assert!(open.read_at(&mut [0; 10], 500_000).is_err());
        }
    }
}

#[test]
fn an_unmount_from_outside_ends_the_daemon() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let mounted = place.mount(&[]);
    let open = File::open(place.target().join("text")).unwrap();
    let output = s3a().arg("umount").arg(place.target()).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"));
    drop(open);
    run(s3a().arg("umount").arg(place.target()));
    assert_eq!(mounted.ended(), Some(0));
}

#[test]
fn readers_of_a_killed_daemon_get_errors_and_the_mount_can_be_cleared() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &["--chunk-size", "4k"]);
    let mounted = place.mount(&["-o", "cachesize=20k"]);
    let readers: Vec<_> = (0..8u64)
        .map(|seed| {
            let path = place.target().join(if seed % 2 == 0 { "text" } else { "noise" });
            std::thread::spawn(move || {
                // Never the same page twice, so that the kernel has to ask the daemon.
                let end = Instant::now() + SOON;
                let mut page = seed * 13;
                while Instant::now() < end {
                    page += 7;
                    let read = File::open(&path).and_then(|file| {
                        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                        file.read_at(&mut [0; 4096], page * 4096 % 290_000)
                    });
                    if read.is_err() {
                        return true;
                    }
                }
                false
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    mounted.signal(Signal::KILL);
    let killed = Instant::now();
    for reader in readers {
        assert!(reader.join().unwrap(), "a reader never saw an error");
    }
    assert!(killed.elapsed() < Duration::from_secs(5), "readers hung for {:?}", killed.elapsed());

    let output = s3a().arg("mount").arg(place.archive()).arg(place.target()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("s3a umount"), "{output:?}");
    run(s3a().arg("umount").arg(place.target()));
    run(s3a().arg("mount").arg(place.archive()).arg(place.target()));
    assert_eq!(fs::read(place.target().join("empty")).unwrap(), b"");
    run(s3a().arg("umount").arg(place.target()));
}

#[test]
fn an_archive_that_is_cut_or_replaced_under_its_mount_does_no_harm() {
    if !fuse() {
        return;
    }
    // With one block, everything would be cached after the first read.
    let chunks = ["--read-time", "0"];
    let place = Place::packed(|root| fs::write(root.join("noise"), noise(4, 400_000)).unwrap(), &chunks);
    let expected = fs::read(place.source().join("noise")).unwrap();
    let _mounted = place.mount(&[]);
    let file = File::open(place.target().join("noise")).unwrap();
    // The archive is replaced: the mount continues to read the file that it has opened.
    let kept = place.dir.path().join("kept");
    fs::rename(place.archive(), &kept).unwrap();
    fs::write(place.archive(), "another file").unwrap();
    let mut got = [0; 4096];
    file.read_exact_at(&mut got, 300_000 / 4096 * 4096).unwrap();
    assert!(got[..] == expected[300_000 / 4096 * 4096..][..4096]);
    // The archive is cut: what is gone is an error.
    File::options().write(true).open(&kept).unwrap().set_len(1000).unwrap();
    assert_eq!(file.read_at(&mut got, 100 * 1024).unwrap_err().raw_os_error(), Some(5));
}

#[test]
fn an_archive_can_be_mounted_over_its_own_folder() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let inside = place.target().join("packed.s3a");
    fs::rename(place.archive(), &inside).unwrap();
    let refused = s3a().arg("mount").arg(&inside).arg(place.target()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nonempty"));
    run(s3a().arg("mount").arg(&inside).arg(place.target()).args(["-o", "nonempty"]));
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(place.source()).arg(place.target()));
    run(s3a().arg("umount").arg(place.target()));
    assert!(inside.exists());
}

#[test]
fn impossible_mounts_say_why_and_leave_nothing() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let file = place.source().join("text");
    let missing = place.dir.path().join("missing");
    let (source, target) = (place.source(), place.target());
    let cases: [(&Path, &Path, &[&str], i32, &str); 6] = [
        (&place.archive(), &missing, &[], 2, "does not exist"),
        (&place.archive(), &file, &[], 2, "not a folder"),
        (&place.archive(), &source, &[], 2, "not empty"),
        (&place.archive(), &target, &["-o", "bogus"], 2, "bogus"),
        (&file, &target, &[], 3, "not an s3a archive"),
        (&missing, &target, &[], 7, "missing"),
    ];
    for (archive, target, options, code, words) in cases {
        let output = s3a().arg("mount").arg(archive).arg(target).args(options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!is_mounted(target));
    }
    let _mounted = place.mount(&[]);
    let again = s3a().arg("mount").arg(place.archive()).arg(place.target()).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"));
}

#[test]
fn a_mount_of_many_files_answers_at_once() {
    if !fuse() {
        return;
    }
    let place = Place::packed(
        |root| {
            for folder in 0..100 {
                let folder = root.join(format!("folder{folder:03}"));
                fs::create_dir(&folder).unwrap();
                for file in 0..100 {
                    fs::write(folder.join(format!("{file:03}")), format!("{file}")).unwrap();
                }
            }
        },
        &[],
    );
    let start = Instant::now();
    run(s3a().arg("mount").arg(place.archive()).arg(place.target()));
    assert_eq!(fs::read_dir(place.target()).unwrap().count(), 100);
    println!("ls after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5));
    let start = Instant::now();
    assert_eq!(snapshot(&place.target()).len(), 10_101);
    println!("10,100 names, attributes and contents in {:?}", start.elapsed());
    run(Command::new("diff").arg("-r").arg(place.source()).arg(place.target()));
    run(s3a().arg("umount").arg(place.target()));
}

//! Exit codes and messages of the command, one row of the table after the other.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{command, expect, noise, prose, put, s3a};
use s3a::wire::header::{HEADER_LEN, Header};

/// A directory with a small tree and its archive.
fn packed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a.txt", &prose(1, 50_000));
    put(dir.path(), b"tree/b.bin", &noise(2, 50_000));
    put(dir.path(), b"tree/sub/c.txt", &prose(3, 500));
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    dir
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn code_0_everything_done() {
    let dir = packed();
    for args in [
        &["ls", "tree.s3a"][..],
        &["info", "tree.s3a"],
        &["info", "--chunks", "--json", "tree.s3a"],
        &["verify", "tree.s3a"],
        &["verify", "--fast", "tree.s3a"],
        &["cat", "tree.s3a", "a.txt"],
        &["model", "ls"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
        &["pack", "--help"],
        &["list", "tree.s3a"],
        &["check", "tree.s3a"],
        &["x", "tree.s3a", "-C", "x"],
    ] {
        expect(&s3a(dir.path(), args), 0);
    }
}

#[test]
fn code_1_an_unreadable_file_is_left_out_with_a_warning() {
    let dir = packed();
    let secret = dir.path().join("tree/secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let mut pack = command(dir.path());
    if rustix::process::geteuid().is_root() {
        // Root can read everything; another user cannot.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        std::os::unix::process::CommandExt::uid(&mut pack, 65_534);
        if !reachable(dir.path()) {
            eprintln!(
                "skipped: code_1_an_unreadable_file_is_left_out_with_a_warning (another user cannot run the command here)"
            );
            return;
        }
    }
    let output = pack.args(["pack", "tree", "-o", "new.s3a"]).output().unwrap();
    let said = expect(&output, 1);
    assert!(said.contains("secret") && said.contains("left out") && said.contains("denied"), "{said}");
    let listed = String::from_utf8(s3a(dir.path(), &["ls", "new.s3a"]).stdout).unwrap();
    assert!(listed.contains("a.txt") && !listed.contains("secret"), "{listed}");
}

/// Whether a user without privileges can run the command in `folder`.
fn reachable(folder: &Path) -> bool {
    let mut run = command(folder);
    std::os::unix::process::CommandExt::uid(&mut run, 65_534);
    run.arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn code_2_wrong_usage_says_what_is_wrong() {
    let dir = packed();
    for (args, word) in [
        (&["pack"][..], "PATH"),
        (&["bogus"], "bogus"),
        (&["pack", "tree", "--chunk-size", "1k"], "4k to 1m"),
        (&["pack", "tree", "--chunk-size", "big"], "big"),
        (&["pack", "tree", "tree/sub"], "-o"),
        (&["pack", "tree", "-o", "tree"], "folder"),
        (&["pack", "tree", "-o", "x.s3a", "--exclude", "a[z-a]"], "a[z-a]"),
        (&["pack", "tree", "-o", "x.s3a", "--model", "no-such-model"], "no-such-model"),
        (&["cat", "tree.s3a", "nothing"], "nothing"),
        (&["cat", "tree.s3a", "sub"], "sub"),
        (&["ls", "tree.s3a", "--device", "abacus"], "abacus"),
        (&["unpack", "tree.s3a", "-C", "tree.s3a"], "tree.s3a"),
    ] {
        let said = expect(&s3a(dir.path(), args), 2);
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert_eq!(names(dir.path()), ["tree", "tree.s3a"]);
    let output =
        command(dir.path()).args(["pack", "tree", "-f"]).env("SOURCE_DATE_EPOCH", "soon").output().unwrap();
    assert!(expect(&output, 2).contains("SOURCE_DATE_EPOCH"));
}

#[test]
#[cfg(not(feature = "mount"))]
fn code_2_what_was_left_out_of_the_build_says_so() {
    let dir = packed();
    for args in [&["mount", "tree.s3a", "tree"][..], &["umount", "tree"]] {
        assert!(expect(&s3a(dir.path(), args), 2).contains("built without"));
    }
}

#[test]
fn code_3_what_is_no_archive_or_not_whole_is_told_apart() {
    let dir = packed();
    fs::write(dir.path().join("text"), "no archive at all, but long enough to look at").unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    let whole = fs::read(dir.path().join("tree.s3a")).unwrap();
    for (name, len) in [("cut-late", whole.len() - 1), ("cut-half", whole.len() / 2), ("cut-early", 20)] {
        fs::write(dir.path().join(name), &whole[..len]).unwrap();
    }
    for command in ["ls", "info", "verify", "unpack"] {
        for name in ["text", "empty", "cut-late", "cut-half", "cut-early"] {
            let said = expect(&s3a(dir.path(), &[command, name]), 3);
            assert!(said.contains(name), "{command} {name}: {said}");
        }
        assert!(expect(&s3a(dir.path(), &[command, "text"]), 3).contains("not an s3a archive"));
    }
    assert!(!names(dir.path()).iter().any(|name| name.contains("unpacked") || name == "cut"));
    // From a pipe, files that were complete stay, and the exit code reports the error.
    let output = command(dir.path())
        .args(["unpack", "-", "-C", "piped"])
        .stdin(File::open(dir.path().join("cut-half")).unwrap())
        .output();
    expect(&output.unwrap(), 3);
}

#[test]
fn code_3_a_flipped_bit_costs_the_file_it_is_in_and_no_other() {
    let dir = packed();
    // In one block, all files of the block would be lost together.
    expect(&s3a(dir.path(), &["pack", "tree", "-f", "--read-time", "0"]), 0);
    let mut bytes = fs::read(dir.path().join("tree.s3a")).unwrap();
    // The incompressible file is stored.
    let place = bytes.windows(64).position(|w| w == &noise(2, 50_000)[40_000..40_064]).unwrap();
    bytes[place] ^= 1;
    fs::write(dir.path().join("hurt.s3a"), &bytes).unwrap();
    let output = s3a(dir.path(), &["verify", "hurt.s3a"]);
    expect(&output, 3);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains("hurt.s3a") && shown.contains("b.bin") && !shown.contains("hit: sub/c.txt"),
        "{shown}"
    );
    let json: serde_json::Value =
        serde_json::from_slice(&s3a(dir.path(), &["verify", "--json", "hurt.s3a"]).stdout).unwrap();
    assert_eq!(json["clean"], false);
    let said = expect(&s3a(dir.path(), &["unpack", "hurt.s3a", "-C", "out"]), 3);
    assert!(said.contains("b.bin"), "{said}");
    assert!(!dir.path().join("out/b.bin").exists());
    assert_eq!(fs::read(dir.path().join("out/sub/c.txt")).unwrap(), prose(3, 500));
    assert!(
        !names(&dir.path().join("out")).iter().any(|name| name.starts_with('.')),
        "a temporary file is left"
    );
}

#[test]
fn code_6_more_than_is_allowed_is_refused_before_it_is_written() {
    let dir = packed();
    let said = expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "out", "--max-size", "60k"]), 6);
    assert!(said.contains("--max-size"), "{said}");
    assert!(!dir.path().join("out").exists());
}

#[test]
fn code_7_missing_files_and_full_disks_are_named() {
    let dir = packed();
    assert!(expect(&s3a(dir.path(), &["pack", "missing"]), 7).contains("missing"));
    assert!(expect(&s3a(dir.path(), &["ls", "missing.s3a"]), 7).contains("missing.s3a"));
    assert!(expect(&s3a(dir.path(), &["pack", "tree", "-o", "no/such/folder.s3a"]), 7).contains("no/such"));
}

#[test]
fn code_7_a_full_disk_leaves_nothing_behind() {
    let dir = packed();
    put(dir.path(), b"big/noise", &noise(9, 3 << 20));
    expect(&s3a(dir.path(), &["pack", "big"]), 0);
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: code_7_a_full_disk_leaves_nothing_behind (mounting a small disk needs root)");
        return;
    }
    let pack = s3a(dir.path(), &["pack", "big", "-o", "small/big.s3a"]);
    let left = names(&small);
    let unpack = s3a(dir.path(), &["unpack", "big.s3a", "-C", "small/out"]);
    let left_out = names(&small.join("out"));
    let unmounted = Command::new("umount").arg(&small).status().unwrap();
    assert!(unmounted.success());
    assert!(expect(&pack, 7).contains("small/big.s3a"));
    assert_eq!(left, Vec::<String>::new());
    assert!(expect(&unpack, 7).contains("noise"));
    assert_eq!(left_out, Vec::<String>::new());
}

#[test]
fn code_7_a_limit_on_file_sizes_is_an_error_and_no_signal() {
    let dir = packed();
    put(dir.path(), b"big/noise", &noise(9, 3 << 20));
    let script =
        format!("ulimit -f 512; exec {} pack big --model none -o limited.s3a", env!("CARGO_BIN_EXE_s3a"));
    let output = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    assert!(expect(&output, 7).contains("limited.s3a"));
    assert_eq!(names(dir.path()), ["big", "tree", "tree.s3a"]);
}

#[test]
fn code_8_a_newer_format_is_named() {
    let dir = packed();
    let mut bytes = fs::read(dir.path().join("tree.s3a")).unwrap();
    let header = Header::read(&bytes).unwrap();
    let newer = Header { major: header.major + 1, ..header.clone() };
    bytes[..HEADER_LEN].copy_from_slice(&newer.write());
    fs::write(dir.path().join("newer.s3a"), &bytes).unwrap();
    let featured = Header { required: 1 << 31, ..header };
    bytes[..HEADER_LEN].copy_from_slice(&featured.write());
    fs::write(dir.path().join("featured.s3a"), &bytes).unwrap();
    assert!(expect(&s3a(dir.path(), &["ls", "featured.s3a"]), 8).contains("0x80000000"));
    let output = s3a(dir.path(), &["ls", "newer.s3a"]);
    assert!(expect(&output, 8).contains("newer"));
}

#[test]
fn code_11_an_existing_destination_is_refused() {
    let dir = packed();
    let before = fs::read(dir.path().join("tree.s3a")).unwrap();
    let said = expect(&s3a(dir.path(), &["pack", "tree/sub", "-o", "tree.s3a"]), 11);
    assert!(said.contains("tree.s3a") && said.contains("--force"), "{said}");
    assert!(before == fs::read(dir.path().join("tree.s3a")).unwrap());
    let said = expect(&s3a(dir.path(), &["unpack", "tree.s3a"]), 11);
    assert!(said.contains("tree") && said.contains("--force"), "{said}");
    expect(&s3a(dir.path(), &["pack", "tree/sub", "-o", "tree.s3a", "--force"]), 0);
    assert!(before != fs::read(dir.path().join("tree.s3a")).unwrap());
    assert_eq!(names(dir.path()), ["tree", "tree.s3a"]);
}

#[test]
fn code_130_an_interrupt_leaves_nothing_half_done() {
    let dir = packed();
    put(dir.path(), b"big/noise", &prose(9, 64 << 20));
    let mut pack = command(dir.path())
        .args(["pack", "big", "-o", "big.s3a", "-j", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !names(dir.path()).iter().any(|name| name.contains(".partial-"))
        && start.elapsed() < Duration::from_secs(20)
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_raw(pack.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = pack.wait().unwrap();
    let mut said = String::new();
    pack.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(names(dir.path()), ["big", "tree", "tree.s3a"]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = packed();
    for args in [
        &["cat", "tree.s3a", "b.bin"][..],
        &["ls", "tree.s3a"],
        &["completions", "zsh"],
        &["info", "tree.s3a"],
    ] {
        let mut run =
            command(dir.path()).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(run.stdout.take());
        let output = run.wait_with_output().unwrap();
        assert_eq!(expect(&output, 0), "");
    }
}

#[test]
fn flags_have_mirrors_in_the_environment() {
    let dir = packed();
    let output = command(dir.path())
        .args(["pack", "tree", "-o", "env.s3a"])
        .env("S3A_CHUNK_SIZE", "64k")
        .output()
        .unwrap();
    expect(&output, 0);
    let info = s3a(dir.path(), &["info", "--json", "env.s3a"]).stdout;
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["chunk_size"], 65_536);
    assert_eq!(info["files"], 3);
    assert_eq!(info["file_bytes"], 100_500);
}

#[test]
fn levels_set_what_options_do_not() {
    let dir = packed();
    put(dir.path(), b"many/log", &prose(5, 600_000));
    let info = |args: &[&str]| -> serde_json::Value {
        expect(&s3a(dir.path(), &[&["pack", "many", "-f", "-o", "many.s3a"], args].concat()), 0);
        let shown = s3a(dir.path(), &["info", "--json", "--chunks", "many.s3a"]);
        expect(&shown, 0);
        expect(&s3a(dir.path(), &["verify", "many.s3a"]), 0);
        serde_json::from_slice(&shown.stdout).unwrap()
    };
    let sizes: Vec<u64> = ["1", "2", "3"]
        .map(|level| {
            let info = info(&["-l", level]);
            assert_eq!(
                (info["chunk_size"].as_u64(), info["models"].as_array().unwrap().len()),
                (Some(16_384), 0)
            );
            info["archive_bytes"].as_u64().unwrap()
        })
        .to_vec();
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    put(dir.path(), b"many/twice", &noise(7, 40_960).repeat(2));
    let fine = info(&["-l", "1", "--chunk-size", "4k", "--references", "1"]);
    assert_eq!(fine["chunk_size"], 4096);
    assert!(fine["references"]["naming"].as_u64().unwrap() > 0);
    let said = expect(&s3a(dir.path(), &["pack", "many", "-f", "-l", "10"]), 2);
    assert!(said.contains("10"), "{said}");
}

#[test]
fn a_model_is_shown_with_its_sizes_and_its_training() {
    let dir = tempfile::tempdir().unwrap();
    let shown = s3a(dir.path(), &["model", "info", "nano", "--json"]);
    expect(&shown, 0);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["config"]["layers"], &shown["config"]["width"]), (&2.into(), &64.into()));
    // 139,264 in the layers and the head, 448 in copy gates, 2 x 2 x 128 x 64 in attention.
    assert_eq!(shown["macs_per_token"], 139_264 + 448 + 32_768);
    assert!(shown["config"]["training"]["seed"].is_u64());
    let text = s3a(dir.path(), &["model", "info", "nano"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("sets of weights 9"));
    expect(&s3a(dir.path(), &["model", "info", "no-such-model"]), 2);
}

#[test]
fn a_level_whose_model_is_not_at_hand_says_what_it_takes_instead() {
    let dir = packed();
    let models = String::from_utf8(s3a(dir.path(), &["model", "ls"]).stdout).unwrap();
    for (level, name) in [("4", "nano"), ("9", "base")] {
        let mut pack = command(dir.path());
        pack.env_remove("S3A_MODEL").args(["pack", "tree/sub", "-f", "-o", "new.s3a", "-l", level]);
        let said = expect(&pack.output().unwrap(), 0);
        let at_hand = models.lines().any(|line| line.split("  ").nth(1) == Some(name));
        assert_eq!(said.contains("not at hand"), !at_hand, "{said}");
        expect(&s3a(dir.path(), &["verify", "new.s3a"]), 0);
    }
}

#[test]
fn bench_measures_and_writes_tables_and_plots() {
    let dir = packed();
    put(dir.path(), b"tree/more", &prose(6, 60_000));
    let args = ["bench", "tree", "-o", "results", "-l", "1,3", "--chunk-sizes", "4k,16k", "--reads", "5"];
    let output = s3a(dir.path(), &[&args[..], &["--peers", "gzip,zstd-blocks"]].concat());
    expect(&output, 0);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("s3a -l 3") && shown.contains("cold reads"), "{shown}");
    assert!(shown.contains("gzip -9"), "named in the table, or as not installed: {shown}");
    assert_eq!(
        names(&dir.path().join("results")),
        ["access.svg", "bench.csv", "bench_reads.csv", "reads.svg", "sizes.svg", "speed.svg"]
    );
    let rows = fs::read_to_string(dir.path().join("results/bench.csv")).unwrap();
    assert!(rows.lines().count() >= 5 && rows.lines().all(|line| line.split(',').count() >= 6), "{rows}");
    let reads = fs::read_to_string(dir.path().join("results/bench_reads.csv")).unwrap();
    assert_eq!(reads.lines().count(), 5);
    for plot in ["access.svg", "reads.svg", "sizes.svg", "speed.svg"] {
        let svg = fs::read_to_string(dir.path().join("results").join(plot)).unwrap();
        assert!(svg.starts_with("<svg") && !svg.contains("NaN"));
    }
    assert!(expect(&s3a(dir.path(), &["bench", "tree", "--peers", "abacus"]), 2).contains("abacus"));
    fs::create_dir(dir.path().join("void")).unwrap();
    assert!(expect(&s3a(dir.path(), &["bench", "void"]), 2).contains("void"));
    let output = s3a(dir.path(), &["bench", "tree/a.txt", "-l", "1", "--peers", "none", "--reads", "0"]);
    expect(&output, 0);
}

#[test]
fn source_date_epoch_bounds_the_times() {
    let dir = packed();
    let output =
        command(dir.path()).args(["pack", "tree", "-f"]).env("SOURCE_DATE_EPOCH", "1000").output().unwrap();
    expect(&output, 0);
    let listed: serde_json::Value =
        serde_json::from_slice(&s3a(dir.path(), &["ls", "--json", "tree.s3a"]).stdout).unwrap();
    for row in listed.as_array().unwrap() {
        assert_eq!((row["mtime"].as_i64(), row["mtime_nanos"].as_i64()), (Some(1000), Some(0)), "{row}");
    }
}

#[test]
fn the_archive_that_is_written_does_not_hold_itself() {
    let dir = packed();
    let tree = dir.path().join("tree");
    for _ in 0..2 {
        expect(&s3a(&tree, &["pack", ".", "-f"]), 0);
    }
    let listed = String::from_utf8(s3a(&tree, &["ls", "tree.s3a"]).stdout).unwrap();
    assert_eq!(listed, ".\na.txt\nb.bin\nsub\nsub/c.txt\n");
}

#[test]
fn quiet_says_nothing_and_plain_progress_is_lines() {
    let dir = packed();
    let output = s3a(dir.path(), &["pack", "-q", "tree", "-f"]);
    assert_eq!(expect(&output, 0), "");
    let said = expect(&s3a(dir.path(), &["pack", "tree", "-f", "-v", "--progress", "plain"]), 0);
    assert!(said.contains("a.txt\n") && said.contains("bits per byte"), "{said}");
    assert!(!said.contains('\x1b'), "{said}");
}

#[test]
fn salvage_unpacks_what_is_intact() {
    let dir = packed();
    let whole = fs::read(dir.path().join("tree.s3a")).unwrap();
    let mut file = File::create(dir.path().join("cut.s3a")).unwrap();
    file.write_all(&whole[..whole.len() - 40]).unwrap();
    let output = s3a(dir.path(), &["salvage", "cut.s3a", "-C", "saved"]);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(dir.path().join("saved/sub/c.txt")).unwrap(), prose(3, 500));
}

#[test]
fn a_file_of_a_models_name_is_not_taken_for_the_model() {
    let dir = packed();
    put(dir.path(), b"nano", b"planted");
    expect(&s3a(dir.path(), &["pack", "tree", "--model", "nano", "-o", "nano.s3a"]), 0);
    let info = s3a(dir.path(), &["info", "--json", "nano.s3a"]);
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["models"][0]["name"], "nano");
    expect(&s3a(dir.path(), &["pack", "tree", "--model", "./nano", "-o", "file.s3a"]), 4);
}

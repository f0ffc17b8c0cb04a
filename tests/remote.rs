//! Archives at URLs: on nginx, on a server that fails on demand, and in object stores.
#![cfg(feature = "remote")]

mod common;
mod http;

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{assert_same, command, expect, noise, prose, put, s3a, snapshot};
use http::{Fault, Server};
use s3a::{Archive, Error, OpenOptions, ReadAt, RemoteFile, RemoteOptions};

/// A tree with small files, one large one of prose and one of noise.
fn tree(folder: &Path) {
    for i in 0..200u64 {
        put(folder, format!("small/{}/{i}.txt", i % 7).as_bytes(), &prose(i, 500 + i as usize * 7));
    }
    put(folder, b"large.txt", &prose(1000, 3 << 20));
    put(folder, b"noise", &noise(7, 6 << 20));
    put(folder, b"empty", b"");
}

/// The tree in a new directory, packed into `a.s3a` with these arguments.
fn packed(args: &[&str]) -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    tree(&dir.path().join("t"));
    let args = [&["pack", "t", "-o", "a.s3a", "-l", "3"], args].concat();
    expect(&s3a(dir.path(), &args), 0);
    let bytes = std::fs::read(dir.path().join("a.s3a")).unwrap();
    (dir, bytes)
}

/// Runs the command with a short timeout.
fn run(folder: &Path, args: &[&str]) -> Output {
    command(folder).args(args).env("S3A_REMOTE_TIMEOUT", "3").output().unwrap()
}

fn quick() -> RemoteOptions {
    RemoteOptions { timeout: Duration::from_secs(3), ..RemoteOptions::default() }
}

fn open(server: &Server) -> Result<Archive, Error> {
    let url = server.url();
    let file = RemoteFile::open(Path::new(&url), &quick())?;
    Archive::from_source(Arc::new(file), Path::new(&url), &OpenOptions::default())
}

#[test]
fn every_reading_command_takes_a_url_and_gives_what_it_gives_of_a_file() {
    let (dir, bytes) = packed(&["--group-size", "1m"]);
    let server = Server::start(bytes);
    let url = &server.url();
    for args in [
        &["ls", "-l"][..],
        &["ls", "--json"],
        &["info", "--chunks"],
        &["cat", "@", "large.txt"],
        &["cat", "@", "noise", "--offset", "1m", "--length", "70k"],
        &["verify", "-q"],
        &["verify", "-q", "--fast"],
        &["unpack", "@", "--to-stdout", "small"],
    ] {
        let with = |archive: &str| {
            let mut args: Vec<&str> =
                args.iter().map(|arg| if *arg == "@" { archive } else { arg }).collect();
            if !args.contains(&archive) {
                args.push(archive);
            }
            run(dir.path(), &args)
        };
        let (local, remote) = (with("a.s3a"), with(url));
        expect(&remote, 0);
        assert!(local.stdout == remote.stdout, "{args:?}");
    }
    expect(&run(dir.path(), &["unpack", url]), 0);
    assert_same(&snapshot(&dir.path().join("t")), &snapshot(&dir.path().join("a")));
}

#[test]
fn an_archive_of_one_group_opens_in_three_requests_and_a_small_one_in_one() {
    let (_dir, bytes) = packed(&["--group-size", "64m"]);
    let server = Server::start(bytes);
    let archive = open(&server).unwrap();
    let opening = server.take_log();
    assert!(opening.len() <= 3, "{opening:?}");
    assert!(opening[0].header("range").unwrap().starts_with("bytes=-"));
    archive.read_range("noise", 5_000_000..5_004_096).unwrap();
    let reading = server.take_log();
    assert!(reading.len() <= 2, "{reading:?}");
    assert!(reading.iter().map(|request| request.sent).sum::<usize>() <= 128 << 10, "{reading:?}");

    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"t/file", &prose(1, 50_000));
    expect(&s3a(dir.path(), &["pack", "t", "-o", "a.s3a"]), 0);
    let server = Server::start(std::fs::read(dir.path().join("a.s3a")).unwrap());
    let archive = open(&server).unwrap();
    assert_eq!(archive.read_range("file", 0..50_000).unwrap(), prose(1, 50_000));
    assert_eq!(server.take_log().len(), 1);
}

#[test]
fn reading_in_sequence_takes_few_requests_and_each_byte_once() {
    let (dir, bytes) = packed(&["--group-size", "1m"]);
    let len = bytes.len();
    let server = Server::start(bytes);
    let remote = run(dir.path(), &["cat", &server.url(), "noise"]);
    expect(&remote, 0);
    assert!(remote.stdout == noise(7, 6 << 20));
    let log = server.take_log();
    let sent: usize = log.iter().map(|request| request.sent).sum();
    assert!(log.len() < 50, "{} requests", log.len());
    assert!(sent < len + len / 4, "{sent} of {len}");
}

#[test]
fn many_threads_that_read_the_same_bytes_ask_for_them_once() {
    let bytes = noise(3, 9_000_001);
    let server = Server::start(bytes.clone());
    let options = RemoteOptions { cache_bytes: 32 << 20, ..quick() };
    let file = RemoteFile::open(Path::new(&server.url()), &options).unwrap();
    assert_eq!(file.size(), 9_000_001);
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || {
                for step in 0..400usize {
                    let at = (step * 104_729 + thread * 13) % 8_900_000;
                    let mut buf = vec![0; 1 + step * 37];
                    file.read_exact_at(&mut buf, at as u64).unwrap();
                    assert!(buf == bytes[at..at + buf.len()], "{at}");
                }
            });
        }
    });
    let (requests, brought) = file.spent();
    assert_eq!(requests as usize, server.take_log().len());
    assert!(brought <= 9_100_000, "{brought}");
    let mut end = [0; 5];
    file.read_exact_at(&mut end, 8_999_996).unwrap();
    assert_eq!(end, bytes[8_999_996..]);
    assert!(matches!(file.read_exact_at(&mut end, 8_999_997), Err(Error::Truncated { .. })));
}

#[test]
fn a_cache_smaller_than_a_read_still_gives_its_bytes() {
    let bytes = noise(4, 12_000_000);
    let server = Server::start(bytes.clone());
    let options = RemoteOptions { cache_bytes: 0, ..quick() };
    let file = RemoteFile::open(Path::new(&server.url()), &options).unwrap();
    let mut buf = vec![0; 11_000_000];
    for at in [0, 999_999] {
        file.read_exact_at(&mut buf, at).unwrap();
        assert!(buf == bytes[at as usize..at as usize + buf.len()]);
    }
}

#[test]
fn a_server_that_fails_now_and_then_is_asked_again() {
    let (dir, bytes) = packed(&[]);
    let server = Server::start(bytes);
    for faults in [
        &[Fault::Status(503), Fault::Status(500), Fault::None, Fault::Status(429), Fault::Cut(0)][..],
        &[Fault::Cut(1000), Fault::Cut(70_000), Fault::None, Fault::Cut(200_000), Fault::Cut(5)],
        &[Fault::Stall(Some(100)), Fault::None, Fault::Stall(None)],
    ] {
        server.set(|served| served.faults = faults.iter().copied().collect());
        let remote = run(dir.path(), &["cat", &server.url(), "noise"]);
        expect(&remote, 0);
        assert!(remote.stdout == noise(7, 6 << 20), "{faults:?}");
    }
}

#[test]
fn what_was_brought_before_a_cut_is_not_asked_for_again() {
    let bytes = noise(5, 4_000_000);
    let server = Server::start(bytes.clone());
    let file = RemoteFile::open(Path::new(&server.url()), &quick()).unwrap();
    server.take_log();
    server.set(|served| served.faults = [Fault::Cut(700_000), Fault::Cut(300_000)].into());
    let mut buf = vec![0; 1 << 20];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert!(buf == bytes[..1 << 20]);
    let ranges: Vec<_> = server.take_log().iter().map(|r| r.header("range").unwrap().to_owned()).collect();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert!(ranges.iter().all(|range| range.ends_with("-1048575")), "{ranges:?}");
    // The client may not have received all bytes that were sent before the connection was cut.
    let starts: Vec<usize> =
        ranges.iter().map(|r| r[6..].split('-').next().unwrap().parse().unwrap()).collect();
    assert!(starts[1] > 0 && starts[1] <= 700_000 && starts[2] >= starts[1], "{starts:?}");
}

#[test]
fn a_slow_server_is_waited_for_as_long_as_bytes_come() {
    let (dir, bytes) = packed(&[]);
    let server = Server::start(bytes);
    server.set(|served| served.always = Fault::Slow(Duration::from_millis(2)));
    let remote = run(dir.path(), &["cat", &server.url(), "large.txt"]);
    expect(&remote, 0);
    assert!(remote.stdout == prose(1000, 3 << 20));
}

#[test]
fn a_server_that_goes_on_failing_is_told_with_code_7() {
    let (dir, bytes) = packed(&[]);
    let server = Server::start(bytes);
    for (after, fault, what) in [
        (0, Fault::Status(503), "status 503"),
        (2, Fault::Status(500), "status 500"),
        (0, Fault::Status(404), "no such object"),
        (0, Fault::Status(403), "denies access"),
        (0, Fault::Status(401), "credentials"),
        (0, Fault::Status(400), "status 400"),
        (2, Fault::Cut(10), "attempts"),
        (0, Fault::Stall(None), "S3A_REMOTE_TIMEOUT"),
        (2, Fault::Stall(Some(10)), "S3A_REMOTE_TIMEOUT"),
    ] {
        server.set(|served| {
            served.faults = std::iter::repeat_n(Fault::None, after).collect();
            served.always = fault;
        });
        let start = Instant::now();
        let output = command(dir.path())
            .args(["cat", &server.url(), "noise"])
            .env("S3A_REMOTE_TIMEOUT", "2")
            .output()
            .unwrap();
        let said = expect(&output, 7);
        assert!(said.contains(what) && said.contains(&server.url()), "{fault:?}: {said}");
        let own = noise(7, 6 << 20);
        assert!(own.starts_with(&output.stdout), "{fault:?}: wrong bytes");
        assert!(start.elapsed() < Duration::from_secs(30), "{fault:?} took {:?}", start.elapsed());
    }
    // No server listens there.
    let said = expect(&run(dir.path(), &["ls", "http://127.0.0.1:9/a.s3a"]), 7);
    assert!(said.to_lowercase().contains("refused"), "{said}");
}

#[test]
fn a_stalled_server_is_given_up_within_the_timeout() {
    let server = Server::start(noise(1, 1 << 20));
    server.set(|served| served.always = Fault::Stall(None));
    let start = Instant::now();
    let options = RemoteOptions { timeout: Duration::from_millis(1500), ..RemoteOptions::default() };
    let error = RemoteFile::open(Path::new(&server.url()), &options).err().unwrap();
    assert!(matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_changed_object_is_an_error_and_its_bytes_are_never_mixed_with_the_old() {
    let (dir, bytes) = packed(&[]);
    let other = Arc::new(bytes.iter().map(|byte| byte ^ 0x55).collect::<Vec<u8>>());
    let longer = Arc::new([&bytes[..], b"more"].concat());
    let old = noise(7, 6 << 20);
    // Four cases: the server checks the ETag; only the client compares it; the ETag is weak; there
    // is none, only a length.
    for (etag, next_etag, if_match, next) in [
        (Some("\"one\""), Some("\"two\""), true, &other),
        (Some("\"one\""), Some("\"two\""), false, &other),
        (Some("W/\"one\""), Some("W/\"two\""), true, &other),
        (None, None, true, &longer),
    ] {
        let server = Server::start(bytes.clone());
        let text = |etag: Option<&str>| etag.map(str::to_owned);
        server.set(|served| {
            (served.etag, served.if_match) = (text(etag), if_match);
            served.next = Some((3, next.clone(), text(next_etag)));
        });
        let output = run(dir.path(), &["cat", &server.url(), "noise"]);
        let said = expect(&output, 7);
        assert!(said.contains("replaced or changed"), "{etag:?}: {said}");
        assert!(old.starts_with(&output.stdout), "{etag:?}");
    }
    // Without an ETag, the time of the last change is compared.
    let server = Server::start(bytes);
    server.set(|served| served.etag = None);
    let archive = open(&server).unwrap();
    server.set(|served| served.modified = Some("Tue, 01 Dec 2026 10:00:01 GMT".into()));
    assert!(matches!(archive.read_range("noise", 0..4096), Err(Error::ObjectChanged(_))));
    // From then on nothing is read, not even from the cache.
    server.set(|served| served.modified = Some("Tue, 01 Dec 2026 10:00:00 GMT".into()));
    assert!(matches!(archive.read_range("noise", 0..4096), Err(Error::ObjectChanged(_))));
}

#[test]
fn a_weak_etag_is_compared_but_not_asked_for() {
    let (_dir, bytes) = packed(&[]);
    let server = Server::start(bytes);
    server.set(|served| served.etag = Some("W/\"one\"".into()));
    open(&server).unwrap().read_range("noise", 0..100_000).unwrap();
    assert!(server.take_log().iter().all(|request| request.header("if-match").is_none()));
    server.set(|served| served.etag = Some("\"one\"".into()));
    open(&server).unwrap().read_range("noise", 0..100_000).unwrap();
    assert!(server.take_log()[1..].iter().all(|request| request.header("if-match") == Some("\"one\"")));
}

#[test]
fn servers_without_ranges_from_the_end_or_without_any_are_read() {
    let (dir, bytes) = packed(&[]);
    let server = Server::start(bytes);
    server.set(|served| served.suffixes = false);
    expect(&run(dir.path(), &["verify", "-q", &server.url()]), 0);
    assert!(server.take_log().iter().any(|request| request.method == "HEAD"));
    // Without ranges, an archive that fits into the cache is read whole.
    server.set(|served| served.ranges = false);
    expect(&run(dir.path(), &["verify", "-q", &server.url()]), 0);
    assert!(server.take_log().len() <= 4);
    let small =
        command(dir.path()).args(["ls", &server.url()]).env("S3A_REMOTE_CACHE", "4m").output().unwrap();
    let said = expect(&small, 7);
    assert!(said.contains("does not serve ranges"), "{said}");
}

#[test]
fn damage_of_a_remote_archive_is_code_3_and_never_a_wrong_byte() {
    let (dir, bytes) = packed(&[]);
    let server = Server::start(b"this is no archive, whatever its name says".repeat(9000));
    expect(&run(dir.path(), &["ls", &server.url()]), 3);
    server.set(|served| served.body = Arc::new(bytes[..bytes.len() - 1000].to_vec()));
    expect(&run(dir.path(), &["ls", &server.url()]), 3);
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    server.set(|served| served.body = Arc::new(damaged));
    expect(&run(dir.path(), &["verify", "-q", &server.url()]), 3);
    let output = run(dir.path(), &["cat", &server.url(), "noise", "large.txt"]);
    expect(&output, 3);
    let whole = [noise(7, 6 << 20), prose(1000, 3 << 20)].concat();
    assert!(whole.starts_with(&output.stdout));
    server.set(|served| served.body = Arc::new(Vec::new()));
    assert!(matches!(run(dir.path(), &["ls", &server.url()]).status.code(), Some(3 | 7)));
}

#[test]
fn a_signature_in_a_url_is_sent_and_never_shown() {
    let (dir, bytes) = packed(&[]);
    let server = Server::start(bytes);
    let url = server.url() + "?signature=secret%2Fword&x=1";
    expect(&run(dir.path(), &["cat", &url, "empty"]), 0);
    let log = server.take_log();
    assert!(log.iter().all(|r| r.target == "/data/a.s3a?signature=secret%2Fword&x=1"), "{log:?}");
    server.set(|served| served.always = Fault::Status(500));
    let said = expect(&run(dir.path(), &["cat", &url, "empty"]), 7);
    assert!(!said.contains("secret"), "{said}");
    server.set(|served| served.always = Fault::None);
    let said = expect(&run(dir.path(), &["cat", &url, "nothing"]), 2);
    assert!(!said.contains("secret"), "{said}");
    expect(&run(dir.path(), &["unpack", &url]), 0);
    assert!(dir.path().join("a/large.txt").exists());
    let said = expect(&run(dir.path(), &["ls", "http://me:secret@127.0.0.1/a.s3a"]), 2);
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn urls_that_name_nothing_and_settings_that_mean_nothing_are_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    for url in ["https://", "http://host", "s3://bucket", "http://host/"] {
        assert!(matches!(run(dir.path(), &["ls", url]).status.code(), Some(2)), "{url}");
    }
    for (name, value) in [("S3A_REMOTE_TIMEOUT", "soon"), ("S3A_REMOTE_CACHE", "much")] {
        let output =
            command(dir.path()).args(["ls", "http://127.0.0.1:9/a"]).env(name, value).output().unwrap();
        assert!(expect(&output, 2).contains(name));
    }
    // Paths that merely resemble URLs are paths.
    std::fs::create_dir_all(dir.path().join("t")).unwrap();
    std::fs::create_dir_all(dir.path().join("http:/host")).unwrap();
    expect(&s3a(dir.path(), &["pack", "t", "-o", "http:/host/a.s3a"]), 0);
    expect(&run(dir.path(), &["ls", "./http://host/a.s3a"]), 0);
}

#[test]
fn objects_in_s3_google_and_azure_are_read_with_the_credentials_of_the_environment() {
    let (dir, bytes) = packed(&[]);
    let server = Server::start(bytes);
    let endpoint = format!("http://{}", server.address);
    let ls = |url: &str, env: &[(&str, &str)]| {
        let mut command = command(dir.path());
        command.env("HOME", dir.path()).env("S3A_REMOTE_TIMEOUT", "3");
        command.args(["cat", url, "large.txt"]).envs(env.iter().copied()).output().unwrap()
    };
    let check = |output: Output, target: &str, authorization: &str| {
        expect(&output, 0);
        assert!(output.stdout == prose(1000, 3 << 20));
        for request in server.take_log() {
            assert_eq!(request.target, target);
            let sent = request.header("authorization").unwrap_or_default();
            assert!(sent.starts_with(authorization), "{sent}");
        }
    };
    // Keys in environment variables.
    let keys =
        [("AWS_ENDPOINT_URL", &endpoint[..]), ("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "x")];
    check(ls("s3://bucket/dir/a.s3a", &keys), "/bucket/dir/a.s3a", "AWS4-HMAC-SHA256 Credential=AK/");
    // Keys and region in the shared files, by profile.
    put(dir.path(), b".aws/credentials", b"[work]\naws_access_key_id = FILE\naws_secret_access_key = y\n");
    put(dir.path(), b".aws/config", b"[profile work]\nregion = eu-north-1\n");
    let profile = [("AWS_ENDPOINT_URL", &endpoint[..]), ("AWS_PROFILE", "work")];
    let output = ls("s3://bucket/a.s3a", &profile);
    let signed = server.served.lock().unwrap().log[0].header("authorization").unwrap().to_owned();
    assert!(signed.contains("/eu-north-1/s3/"), "{signed}");
    check(output, "/bucket/a.s3a", "AWS4-HMAC-SHA256 Credential=FILE/");
    let none = [("AWS_ENDPOINT_URL", &endpoint[..]), ("AWS_PROFILE", "absent")];
    assert!(expect(&ls("s3://bucket/a.s3a", &none), 2).contains("absent"));
    // Public objects.
    let public = [("AWS_ENDPOINT_URL", &endpoint[..]), ("AWS_SKIP_SIGNATURE", "true")];
    check(ls("s3://bucket/a.s3a", &public), "/bucket/a.s3a", "");
    // Azure requires the offset at which the tail begins.
    let azure = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
        ("AZURE_STORAGE_ENDPOINT", &endpoint[..]),
    ];
    check(ls("az://container/a.s3a", &azure), "/container/a.s3a", "SharedKey account:");
    // Google's store, as an emulator of it behaves.
    let account = format!(
        "{{\"gcs_base_url\": \"{endpoint}\", \"disable_oauth\": true, \"client_email\": \"\", \
         \"private_key\": \"\", \"private_key_id\": \"\"}}"
    );
    let google = [("GOOGLE_SERVICE_ACCOUNT_KEY", &account[..])];
    check(ls("gs://bucket/a.s3a", &google), "/bucket/a%2Es3a", "");
}

mod on_nginx {
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Nginx(Child, u16);

    impl Drop for Nginx {
        fn drop(&mut self) {
            // nginx ends its workers on SIGTERM, and not on SIGKILL.
            if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = self.0.wait();
        }
    }

    /// Serves a directory, at `/slow/` with 2 MB/s; `None` where nginx is not installed.
    fn start(dir: &Path) -> Option<Nginx> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let Some(program) = program else {
            eprintln!("skipped: nginx is not installed (Debian: nginx-light)");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = dir.display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "{user} worker_processes 2; pid {root}/nginx.pid; error_log {root}/error.log; daemon off;
             events {{ worker_connections 128; }}
             http {{
                 access_log {root}/access.log; sendfile on; keepalive_requests 100000;
                 client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
                 uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
                 server {{
                     listen 127.0.0.1:{port}; root {root};
                     location /slow/ {{ alias {root}/; limit_rate 2m; }}
                     location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
                 }}
             }}"
        );
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        let mut nginx = Command::new(program);
        nginx.arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(dir).stderr(Stdio::null());
        let server = Nginx(nginx.spawn().unwrap(), port);
        for _ in 0..100 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nginx does not answer: {:?}", std::fs::read_to_string(dir.join("error.log")));
    }

    #[test]
    fn an_archive_is_listed_read_verified_and_unpacked() {
        let (dir, bytes) = packed(&["--group-size", "1m"]);
        let Some(nginx) = start(dir.path()) else { return };
        let url = format!("http://127.0.0.1:{}/a.s3a", nginx.1);
        expect(&run(dir.path(), &["verify", "-q", &url]), 0);
        expect(&run(dir.path(), &["unpack", &url, "-C", "out"]), 0);
        assert_same(&snapshot(&dir.path().join("t")), &snapshot(&dir.path().join("out")));
        let list = run(dir.path(), &["ls", "-l", &url]);
        assert!(list.stdout == run(dir.path(), &["ls", "-l", "a.s3a"]).stdout);
        let moved = format!("http://127.0.0.1:{}/moved/a.s3a", nginx.1);
        assert!(run(dir.path(), &["ls", "-l", &moved]).stdout == list.stdout);
        let slow = format!("http://127.0.0.1:{}/slow/a.s3a", nginx.1);
        let output = run(dir.path(), &["cat", &slow, "noise"]);
        expect(&output, 0);
        assert!(output.stdout == noise(7, 6 << 20));
        let said = expect(&run(dir.path(), &["ls", &format!("{url}.absent")]), 7);
        assert!(said.contains("no such object"), "{said}");
        assert!(bytes.len() > 6 << 20);
    }

    #[test]
    fn an_archive_that_is_replaced_while_it_is_read_is_an_error() {
        let (dir, bytes) = packed(&[]);
        let Some(nginx) = start(dir.path()) else { return };
        let url = format!("http://127.0.0.1:{}/a.s3a", nginx.1);
        let file = RemoteFile::open(Path::new(&url), &quick()).unwrap();
        let archive = Archive::from_source(Arc::new(file), Path::new(&url), &OpenOptions::default()).unwrap();
        archive.read_range("noise", 0..4096).unwrap();
        std::fs::write(dir.path().join("new"), [&bytes[..], b"x"].concat()).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("a.s3a")).unwrap();
        let read = archive.read_range("noise", 4 << 20..(4 << 20) + 4096);
        assert!(matches!(read, Err(Error::ObjectChanged(_))), "{read:?}");
    }

    #[cfg(feature = "mount")]
    #[test]
    fn an_archive_is_mounted_from_its_url() {
        let (dir, _) = packed(&["--group-size", "1m"]);
        if !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: there is no /dev/fuse");
            return;
        }
        let Some(nginx) = start(dir.path()) else { return };
        let url = format!("http://127.0.0.1:{}/a.s3a", nginx.1);
        std::fs::create_dir(dir.path().join("m")).unwrap();
        let mounted = run(dir.path(), &["mount", &url, "m"]);
        if mounted.status.code() == Some(7) {
            eprintln!("skipped: {}", String::from_utf8_lossy(&mounted.stderr));
            return;
        }
        expect(&mounted, 0);
        let same = std::fs::read(dir.path().join("m/noise")).unwrap() == noise(7, 6 << 20)
            && std::fs::read(dir.path().join("m/large.txt")).unwrap() == prose(1000, 3 << 20)
            && std::fs::read(dir.path().join("m/small/3/10.txt")).unwrap() == prose(10, 570);
        expect(&run(dir.path(), &["umount", "m"]), 0);
        assert!(same);
    }
}

/// A process that is killed at the end of the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_archive_is_read_from_moto_as_from_s3() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    let (dir, bytes) = packed(&["--group-size", "1m"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut moto = Command::new("moto_server");
    moto.args(["-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let _moto = match moto.spawn() {
        Ok(moto) => Killed(moto),
        Err(e) => return eprintln!("skipped: moto_server (pip install 'moto[s3,server]'): {e}"),
    };
    let put = |target: &str, body: &[u8]| -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let head = format!("PUT {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), length.as_bytes(), body].concat()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    };
    let start = Instant::now();
    while put("/bucket", b"").is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "moto does not answer");
        std::thread::sleep(Duration::from_millis(200));
    }
    put("/bucket/dir/a.s3a", &bytes).unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    let s3 = |args: &[&str]| {
        let mut command = command(dir.path());
        command.env("HOME", dir.path()).env("S3A_REMOTE_TIMEOUT", "20").env("AWS_ENDPOINT_URL", &endpoint);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "word").args(args);
        command.output().unwrap()
    };
    expect(&s3(&["verify", "-q", "s3://bucket/dir/a.s3a"]), 0);
    expect(&s3(&["unpack", "s3://bucket/dir/a.s3a", "-C", "out"]), 0);
    assert_same(&snapshot(&dir.path().join("t")), &snapshot(&dir.path().join("out")));
    assert!(expect(&s3(&["ls", "s3://bucket/absent"]), 7).contains("no such object"));
}

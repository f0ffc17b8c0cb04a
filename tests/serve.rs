//! `s3a serve`: names, listings, ranges, conditional requests, and errors.
#![cfg(feature = "serve")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{command, expect, noise, prose, put, s3a};

/// A server of `a.s3a` in a directory, which ends with the test.
struct Serve {
    process: Child,
    port: u16,
}

impl Serve {
    fn start(dir: &Path, archive: &str) -> Self {
        let mut command = command(dir);
        command.args(["serve", archive, "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim_end_matches(['/', '\n']).rsplit(':').next().unwrap();
        Self { port: port.parse().unwrap_or_else(|_| panic!("{line:?}")), process }
    }

    /// Ends the server with a signal, as a user does; returns its exit code and its messages.
    fn end(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_raw(self.process.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.process.wait().unwrap();
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }

    /// Sends a request with these header lines; returns status, head and body.
    fn ask(&self, method: &str, target: &str, headers: &[&str]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host = format!("Host: 127.0.0.1:{}", self.port);
        let has_host = headers.iter().any(|line| line.starts_with("Host:"));
        let mut lines = vec![format!("{method} {target} HTTP/1.1"), "Connection: close".into()];
        lines.extend((!has_host).then_some(host));
        lines.extend(headers.iter().map(|&line| line.into()));
        stream.write_all((lines.join("\r\n") + "\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A server that cuts the connection may reset it.
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no answer to {method} {target}: {:?}", String::from_utf8_lossy(&answer))
        });
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    fn get(&self, target: &str) -> (u16, String, Vec<u8>) {
        self.ask("GET", target, &[])
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

fn packed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("t");
    put(&tree, b"notes.txt", &prose(1, 300_000));
    put(&tree, b"noise", &noise(2, 6_000_000));
    put(&tree, b"empty", b"");
    put(&tree, b"sub/deep/file.rs", b"fn main() {}\n");
    put(&tree, b"sub-way", b"before the directory in the order of bytes");
    put(&tree, b"odd/a:b c?#\"<i>&%41", b"odd");
    put(&tree, b"odd/\xff\xfe", b"not UTF-8");
    symlink("sub/deep", tree.join("link")).unwrap();
    symlink("../notes.txt", tree.join("sub/up")).unwrap();
    symlink("/etc/passwd", tree.join("out")).unwrap();
    symlink("../../../../etc", tree.join("far")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    std::fs::hard_link(tree.join("notes.txt"), tree.join("hard.txt")).unwrap();
    expect(&s3a(dir.path(), &["pack", "t", "-o", "a.s3a"]), 0);
    dir
}

#[test]
fn files_are_served_as_they_were_packed() {
    let dir = packed();
    let serve = Serve::start(dir.path(), "a.s3a");
    for (target, bytes, media) in [
        ("/notes.txt", prose(1, 300_000), "text/plain; charset=utf-8"),
        ("/hard.txt", prose(1, 300_000), "text/plain; charset=utf-8"),
        ("/noise", noise(2, 6_000_000), "application/octet-stream"),
        ("/empty", Vec::new(), "application/octet-stream"),
        ("/sub/deep/file.rs", b"fn main() {}\n".to_vec(), "text/plain; charset=utf-8"),
        ("/link/file.rs", b"fn main() {}\n".to_vec(), "text/plain; charset=utf-8"),
        ("/sub/up", prose(1, 300_000), "application/octet-stream"),
        ("/odd/a%3Ab%20c%3F%23%22%3Ci%3E&%2541", b"odd".to_vec(), "application/octet-stream"),
        ("/odd/%ff%FE", b"not UTF-8".to_vec(), "application/octet-stream"),
    ] {
        let (status, head, body) = serve.get(target);
        assert_eq!((status, header(&head, "content-type")), (200, Some(media)), "{target}");
        assert!(body == bytes, "{target}: {} bytes", body.len());
        let (status, only_head, none) = serve.ask("HEAD", target, &[]);
        assert_eq!((status, none.len()), (200, 0), "{target}");
        for name in ["content-length", "etag", "last-modified", "accept-ranges"] {
            assert!(header(&head, name).is_some(), "{target}: no {name}");
            assert_eq!(header(&only_head, name), header(&head, name), "{target}: {name}");
        }
    }
    let (code, said) = serve.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_is_not_in_the_archive_is_not_found_and_nothing_is_written() {
    let dir = packed();
    let serve = Serve::start(dir.path(), "a.s3a");
    for target in [
        "/absent",
        "/notes.txt/",
        "/notes.txt/x",
        "/out",
        "/far/passwd",
        "/loop",
        "/%",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/sub/..%2f..%2fx",
        "/su",
    ] {
        assert_eq!(serve.get(target).0, 404, "{target}");
    }
    for method in ["POST", "PUT", "DELETE", "PROPFIND"] {
        let (status, head, _) = serve.ask(method, "/notes.txt", &["Content-Length: 0"]);
        assert_eq!((status, header(&head, "allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn a_directory_is_listed_with_links_that_lead_to_what_it_holds() {
    let dir = packed();
    let serve = Serve::start(dir.path(), "a.s3a");
    let (status, head, _) = serve.get("/sub");
    assert_eq!((status, header(&head, "location")), (301, Some("sub/")));
    let links = |target: &str| -> Vec<String> {
        let (status, head, body) = serve.get(target);
        assert_eq!((status, header(&head, "content-type")), (200, Some("text/html; charset=utf-8")));
        let text = String::from_utf8(body).unwrap();
        assert!(!text.contains("<i>"), "{text}");
        text.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let top = links("/");
    assert_eq!(top, ["empty", "hard.txt", "link/", "noise", "notes.txt", "odd/", "sub/", "sub-way"]);
    assert_eq!(links("/sub/"), ["../", "deep/", "up"]);
    assert_eq!(links("/link/"), ["../", "file.rs"]);
    let odd = links("/odd/");
    assert_eq!(odd.len(), 3);
    assert!(odd[1..].iter().all(|link| serve.get(&format!("/odd/{link}")).0 == 200), "{odd:?}");

    // Directories without entries of their own.
    let mut pack = command(dir.path());
    pack.args(["pack", "--tar", "-", "-o", "b.s3a"]).stdin(Stdio::from(tar(&dir)));
    expect(&pack.output().unwrap(), 0);
    let serve = Serve::start(dir.path(), "b.s3a");
    let top = String::from_utf8(serve.get("/").2).unwrap();
    assert!(top.contains("href=\"t/\"") && !top.contains("href=\"t/sub"), "{top}");
    assert!(String::from_utf8(serve.get("/t/sub/").2).unwrap().contains("href=\"deep/\""));
    assert_eq!(serve.get("/t/sub/deep/file.rs").2, b"fn main() {}\n");
}

/// A tar stream of two files, without the directories above them.
fn tar(dir: &tempfile::TempDir) -> std::fs::File {
    let path = dir.path().join("files.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(dir.path()).arg("-cf").arg(&path).args(["t/sub/deep/file.rs", "t/notes.txt"]);
    assert!(tar.status().unwrap().success());
    std::fs::File::open(path).unwrap()
}

#[test]
fn ranges_and_conditions_are_answered_as_the_standard_says() {
    let dir = packed();
    let serve = Serve::start(dir.path(), "a.s3a");
    let noise = noise(2, 6_000_000);
    for (range, wanted, told) in [
        ("bytes=0-99", 0..100, "bytes 0-99/6000000"),
        ("bytes=5999990-", 5_999_990..6_000_000, "bytes 5999990-5999999/6000000"),
        ("bytes=-7", 5_999_993..6_000_000, "bytes 5999993-5999999/6000000"),
        ("bytes=1000000-4999999", 1_000_000..5_000_000, "bytes 1000000-4999999/6000000"),
    ] {
        let (status, head, body) = serve.ask("GET", "/noise", &[&format!("Range: {range}")]);
        assert_eq!((status, header(&head, "content-range")), (206, Some(told)));
        assert!(body == noise[wanted], "{range}");
    }
    let (status, head, _) = serve.ask("GET", "/noise", &["Range: bytes=6000000-"]);
    assert_eq!((status, header(&head, "content-range")), (416, Some("bytes */6000000")));
    assert_eq!(serve.ask("GET", "/empty", &["Range: bytes=0-"]).0, 416);
    let (_, head, _) = serve.ask("HEAD", "/noise", &[]);
    let etag = header(&head, "etag").unwrap();
    let modified = header(&head, "last-modified").unwrap();
    assert_eq!(serve.ask("GET", "/noise", &[&format!("If-None-Match: {etag}")]).0, 304);
    assert_eq!(serve.ask("GET", "/noise", &[&format!("If-Modified-Since: {modified}")]).0, 304);
    assert_eq!(serve.ask("GET", "/noise", &["If-Match: \"other\""]).0, 412);
    assert_eq!(serve.ask("GET", "/noise", &["Range: bytes=0-1", &format!("If-Range: {etag}")]).0, 206);
    assert_eq!(serve.ask("HEAD", "/noise", &["Range: bytes=0-1", "If-Range: \"other\""]).0, 200);
    // Other content has another ETag.
    assert_ne!(header(&serve.ask("HEAD", "/notes.txt", &[]).1, "etag"), Some(etag));
}

#[test]
fn only_this_machine_is_served_and_by_its_own_name() {
    let dir = packed();
    let serve = Serve::start(dir.path(), "a.s3a");
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST"] {
        assert_eq!(serve.ask("GET", "/empty", &[&format!("Host: {host}")]).0, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"] {
        assert_eq!(serve.ask("GET", "/empty", &[&format!("Host: {host}")]).0, 421, "{host}");
    }
    // Scripts in a file do not run in the name of the server.
    let policy = serve.get("/empty").1;
    assert!(header(&policy, "content-security-policy").unwrap().starts_with("sandbox"));
    // A second server cannot use the same port.
    let taken = format!("127.0.0.1:{}", serve.port);
    let said = expect(&s3a(dir.path(), &["serve", "a.s3a", "--listen", &taken]), 7);
    assert!(said.contains(&taken), "{said}");
    expect(&s3a(dir.path(), &["serve", "a.s3a", "--listen", "nowhere"]), 2);
    expect(&s3a(dir.path(), &["serve", "absent.s3a", "--listen", "127.0.0.1:0"]), 7);
}

#[test]
fn of_a_damaged_file_no_wrong_byte_is_served_and_others_are_whole() {
    let dir = packed();
    let path = dir.path().join("a.s3a");
    let mut bytes = std::fs::read(&path).unwrap();
    let noise = noise(2, 6_000_000);
    let at = bytes.windows(64).position(|part| part == &noise[3_000_000..3_000_064]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let serve = Serve::start(dir.path(), "a.s3a");
    let (_, head, body) = serve.get("/noise");
    assert_eq!(header(&head, "content-length"), Some("6000000"));
    assert!(body.len() < 3_000_064 && noise.starts_with(&body), "{} bytes", body.len());
    let (status, _, text) = serve.ask("GET", "/noise", &["Range: bytes=3000000-3000063"]);
    assert_eq!(status, 500);
    assert!(String::from_utf8_lossy(&text).contains("damaged"));
    assert_eq!(serve.get("/notes.txt").2, prose(1, 300_000));
    let (code, said) = serve.end();
    assert!(code == Some(1) && said.contains("noise"), "{code:?}: {said}");
}

#[test]
fn many_clients_are_served_at_once_by_curl_too() {
    let dir = packed();
    let serve = Serve::start(dir.path(), "a.s3a");
    let noise = noise(2, 6_000_000);
    std::thread::scope(|scope| {
        for client in 0..24usize {
            let (serve, noise) = (&serve, &noise);
            scope.spawn(move || {
                let (start, end) = (client * 200_000, client * 200_000 + 900_000);
                let range = format!("Range: bytes={start}-{}", end - 1);
                let (status, _, body) = serve.ask("GET", "/noise", &[&range]);
                assert!(status == 206 && body == noise[start..end], "{client}");
            });
        }
    });
    let url = format!("http://127.0.0.1:{}/notes.txt", serve.port);
    match Command::new("curl").args(["-sf", "-r", "100-199", &url]).output() {
        Ok(output) => assert_eq!(output.stdout, &prose(1, 300_000)[100..200]),
        Err(e) => eprintln!("skipped: curl: {e}"),
    }
}

#[test]
fn rclone_reads_an_archive_over_its_http_remote() {
    let dir = packed();
    let serve = Serve::start(dir.path(), "a.s3a");
    let url = format!("http://127.0.0.1:{}/", serve.port);
    let rclone = |args: &[&str]| {
        let mut rclone = Command::new("rclone");
        rclone.current_dir(dir.path()).env("HOME", dir.path()).env("XDG_CONFIG_HOME", dir.path());
        rclone.args(["--http-url", &url]).args(args).output()
    };
    let listed = match rclone(&["lsf", "-R", ":http:"]) {
        Ok(listed) => String::from_utf8_lossy(&listed.stdout).into_owned(),
        Err(e) => return eprintln!("skipped: rclone: {e}"),
    };
    for path in ["notes.txt\n", "sub/deep/file.rs\n", "link/file.rs\n", "noise\n"] {
        assert!(listed.contains(path), "{path} is not in {listed}");
    }
    assert!(rclone(&["copy", ":http:sub", "copied"]).unwrap().status.success());
    assert_eq!(std::fs::read(dir.path().join("copied/up")).unwrap(), prose(1, 300_000));
}

#[cfg(feature = "remote")]
#[test]
fn an_archive_within_an_archive_is_read_through_the_server() {
    let dir = packed();
    std::fs::create_dir(dir.path().join("outer")).unwrap();
    std::fs::copy(dir.path().join("a.s3a"), dir.path().join("outer/a.s3a")).unwrap();
    expect(&s3a(dir.path(), &["pack", "outer", "-o", "b.s3a"]), 0);
    let serve = Serve::start(dir.path(), "b.s3a");
    let url = format!("http://127.0.0.1:{}/a.s3a", serve.port);
    let read = s3a(dir.path(), &["cat", &url, "noise"]);
    expect(&read, 0);
    assert!(read.stdout == noise(2, 6_000_000));
}

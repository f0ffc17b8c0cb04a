//! A small HTTP server for tests: it serves one object, records every request, and fails on demand.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the request is answered.
    None,
    /// An answer with this status and no bytes of the object.
    Status(u16),
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// The connection stays open and silent after this many bytes of the body; with `None`, before
    /// the head.
    Stall(Option<usize>),
    /// The body comes in pieces of 4 KiB with this pause between them.
    Slow(Duration),
}

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes of the object that were sent in the answer.
    pub sent: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The object that is served, and how.
pub struct Served {
    pub body: Arc<Vec<u8>>,
    pub etag: Option<String>,
    pub modified: Option<String>,
    /// Whether ranges are served.
    pub ranges: bool,
    /// Whether ranges from the end are served.
    pub suffixes: bool,
    /// Whether the header `If-Match` is obeyed.
    pub if_match: bool,
    /// Faults of the next requests, one for each; then `always`.
    pub faults: VecDeque<Fault>,
    pub always: Fault,
    /// The object that replaces this one after so many requests, and its ETag.
    pub next: Option<(usize, Arc<Vec<u8>>, Option<String>)>,
    pub log: Vec<Request>,
}

pub struct Server {
    pub address: SocketAddr,
    pub served: Arc<Mutex<Served>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub fn start(body: Vec<u8>) -> Self {
        let served = Arc::new(Mutex::new(Served {
            body: Arc::new(body),
            etag: Some("\"one\"".into()),
            modified: Some("Tue, 01 Dec 2026 10:00:00 GMT".into()),
            ranges: true,
            suffixes: true,
            if_match: true,
            faults: VecDeque::new(),
            always: Fault::None,
            next: None,
            log: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (served.clone(), ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let (shared, end) = (shared.clone(), end.clone());
                // A client that goes away ends its connection with an error.
                std::thread::spawn(move || drop(serve(stream.unwrap(), &shared, &end)));
            }
        });
        Self { address, served, ended }
    }

    pub fn url(&self) -> String {
        format!("http://{}/data/a.s3a", self.address)
    }

    /// Changes what is served.
    pub fn set(&self, change: impl FnOnce(&mut Served)) {
        change(&mut self.served.lock().unwrap());
    }

    /// The requests since the last call.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.served.lock().unwrap().log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // This wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: TcpStream, shared: &Mutex<Served>, ended: &AtomicBool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            input.read_line(&mut line)?;
            let Some((key, value)) = line.split_once(':') else { break };
            headers.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Request { method, target, headers, sent: 0 };
        let (fault, head, body) = {
            let mut served = shared.lock().unwrap();
            if let Some((after, body, etag)) = served.next.clone()
                && served.log.len() >= after
            {
                (served.body, served.etag, served.next) = (body, etag, None);
            }
            let always = served.always;
            let fault = served.faults.pop_front().unwrap_or(always);
            let (head, body) = answer(&served, &request, fault);
            request.sent = if request.method == "HEAD" { 0 } else { body.len() };
            served.log.push(request.clone());
            (fault, head, body)
        };
        if fault == Fault::Stall(None) {
            return stall(ended);
        }
        out.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            continue;
        }
        match fault {
            Fault::Cut(at) if at < body.len() => {
                out.write_all(&body[..at])?;
                out.flush()?;
                return out.shutdown(Shutdown::Both);
            }
            Fault::Stall(Some(at)) if at < body.len() => {
                out.write_all(&body[..at])?;
                out.flush()?;
                return stall(ended);
            }
            Fault::Slow(pause) => {
                for piece in body.chunks(4096) {
                    out.write_all(piece)?;
                    std::thread::sleep(pause);
                }
            }
            _ => out.write_all(&body)?,
        }
        out.flush()?;
    }
}

/// Keeps the connection open until the server ends, at most for a minute.
fn stall(ended: &AtomicBool) -> std::io::Result<()> {
    for _ in 0..600 {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Head and body of the answer.
fn answer(served: &Served, request: &Request, fault: Fault) -> (String, Vec<u8>) {
    let plain = |status: &str| (format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"), Vec::new());
    if let Fault::Status(status) = fault {
        return plain(&format!("{status} Told to"));
    }
    let size = served.body.len();
    let etag = served.etag.as_deref();
    let wanted = request.header("if-match").filter(|_| served.if_match);
    if wanted.is_some_and(|wanted| Some(wanted) != etag) {
        return plain("412 Precondition Failed");
    }
    let mut more = String::from("Accept-Ranges: bytes\r\n");
    for (name, value) in [("ETag", etag), ("Last-Modified", served.modified.as_deref())] {
        if let Some(value) = value {
            more += &format!("{name}: {value}\r\n");
        }
    }
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let range = range.filter(|range| served.ranges && (served.suffixes || !range.starts_with('-')));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n{more}\r\n");
        return (head, served.body.to_vec());
    };
    let (start, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (first, size.min(last + 1)),
        (Ok(first), Err(_)) => (first, size),
        (Err(_), Ok(last)) => (size.saturating_sub(last), size),
        (Err(_), Err(_)) => return plain("400 Bad Request"),
    };
    if start >= end {
        return plain("416 Range Not Satisfiable");
    }
    let (last, len) = (end - 1, end - start);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {len}\r\n\
         Content-Range: bytes {start}-{last}/{size}\r\n{more}\r\n"
    );
    (head, served.body[start..end].to_vec())
}

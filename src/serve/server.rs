//! The server: who may ask, for what, and when it ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::conditions::{Answer, Validators, answer};
use super::content::{Contents, body};
use super::listing::{media_type, page};
use super::names::{Named, escape, resolve, unescape};
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::error::{Error, Result};
use crate::wire::entry::{EntryId, Kind};

/// Raw bytes of the chunks that are cached between requests.
const CACHE: usize = 64 << 20;
/// Files that are decoded at a time.
const DECODING: usize = 16;
/// How long requests may go on when the server is to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A server that runs until it is dropped.
pub struct Serving {
    runtime: Option<Runtime>,
    address: SocketAddr,
    end: Arc<Notify>,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.server.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end.notify_one();
        let Some(runtime) = self.runtime.take() else { return };
        if let Some(server) = self.server.take() {
            // A client that goes on is left behind.
            let _ = runtime.block_on(async { tokio::time::timeout(LAST_WORDS, server).await });
        }
        runtime.shutdown_timeout(LAST_WORDS);
    }
}

/// What handlers know.
struct Served {
    contents: Arc<Contents>,
    /// Only this machine may ask, by a name that is its own.
    is_local: bool,
}

/// Serves an archive at `address`, whose port may be 0, from threads of its own. `failed` is told of each file that
/// could not be read.
///
/// # Errors
/// `Io` if the address cannot be had.
pub fn start(
    archive: Archive,
    address: SocketAddr,
    failed: impl Fn(&[u8], &Error) + Send + Sync + 'static,
) -> Result<Serving> {
    let io = |e| Error::io(address.to_string(), e);
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(DECODING)
        .thread_name("s3a-serve")
        .enable_all()
        .build()
        .map_err(io)?;
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    let contents = Arc::new(Contents { archive, cache: RecentChunks::new(CACHE), failed: Box::new(failed) });
    let is_local = address.ip().is_loopback();
    let served = Arc::new(Served { contents, is_local });
    let router = Router::new().fallback(handle).with_state(served);
    let end = Arc::new(Notify::new());
    let ended = Arc::clone(&end);
    let server = runtime.spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(async move { ended.notified().await }).await
    });
    Ok(Serving { runtime: Some(runtime), address, end, server: Some(server) })
}

async fn handle(State(served): State<Arc<Served>>, request: Request<Body>) -> Response<Body> {
    let mut response = respond(&served, &request.into_parts().0).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What a file says is not said by this server: no script of it runs, and it reads no other file.
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'"),
    );
    response
}

async fn respond(served: &Served, request: &Parts) -> Response<Body> {
    if served.is_local && !names_this_machine(request) {
        return plain(StatusCode::MISDIRECTED_REQUEST, "ask for localhost or 127.0.0.1\n");
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "an archive is read only\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri.path();
    let archive = &served.contents.archive;
    let named = unescape(path).and_then(|bytes| Some((resolve(archive, &bytes)?, bytes)));
    match named {
        Some((Named::Directory(directory), _)) if path.ends_with('/') => {
            let body = page(archive, &directory);
            respond_with(StatusCode::OK, &[(header::CONTENT_TYPE, "text/html; charset=utf-8")], body.into())
        }
        Some((Named::Directory(_), bytes)) => {
            let last = bytes.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            // Relative, since this server may stand behind another path.
            let to = format!("{}/", escape(last));
            respond_with(StatusCode::MOVED_PERMANENTLY, &[(header::LOCATION, &to)], Body::empty())
        }
        Some((Named::File(id), bytes)) if !path.ends_with('/') => file(served, request, id, &bytes).await,
        _ => plain(StatusCode::NOT_FOUND, "the archive has no such file\n"),
    }
}

/// Whether a request was made to this machine by a name that no other can take: a page elsewhere whose name leads
/// here is not to read the archive.
fn names_this_machine(request: &Parts) -> bool {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn file(served: &Served, request: &Parts, id: EntryId, path: &[u8]) -> Response<Body> {
    let archive = &served.contents.archive;
    let entry = archive.entry(id).and_then(|entry| match entry.kind {
        Kind::Hardlink { target } => archive.entry(target),
        _ => Some(entry),
    });
    let (Some(entry), Some(size)) = (entry, archive.file_size(id)) else {
        return plain(StatusCode::NOT_FOUND, "the archive has no such file\n");
    };
    let validators = Validators::of(entry);
    let modified = httpdate::fmt_http_date(validators.modified);
    let mut headers = vec![
        (header::ETAG, validators.etag.as_str()),
        (header::LAST_MODIFIED, modified.as_str()),
        (header::ACCEPT_RANGES, "bytes"),
        // A server on this address may have another archive tomorrow.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let (status, range) = match answer(&request.headers, &validators, size) {
        Answer::Whole => (StatusCode::OK, 0..size),
        Answer::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Answer::NotModified => return respond_with(StatusCode::NOT_MODIFIED, &headers, Body::empty()),
        Answer::ConditionFailed => {
            return plain(StatusCode::PRECONDITION_FAILED, "the file is another one\n");
        }
        Answer::OutOfRange => {
            let range = format!("bytes */{size}");
            headers.push((header::CONTENT_RANGE, &range));
            return respond_with(StatusCode::RANGE_NOT_SATISFIABLE, &headers, Body::empty());
        }
    };
    let length = (range.end - range.start).to_string();
    let part = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
    headers.push((header::CONTENT_LENGTH, &length));
    headers.push((header::CONTENT_TYPE, media_type(path)));
    if status == StatusCode::PARTIAL_CONTENT {
        headers.push((header::CONTENT_RANGE, &part));
    }
    if request.method == Method::HEAD {
        return respond_with(status, &headers, Body::empty());
    }
    match body(Arc::clone(&served.contents), id, range).await {
        Ok(body) => respond_with(status, &headers, body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    respond_with(status, &[(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.to_owned().into())
}

fn respond_with(status: StatusCode, headers: &[(HeaderName, &str)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

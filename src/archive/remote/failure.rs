//! Why a range of an object could not be read, and whether another attempt may help.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::Path;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::Error;

/// Why a range could not be read. Can be told to everyone who waits for the range.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The object is another one than was opened.
    Changed,
    Io(ErrorKind, String),
}

impl Failure {
    pub fn to_error(&self, name: &Path) -> Error {
        match self {
            Self::Changed => Error::ObjectChanged(name.to_owned()),
            Self::Io(kind, text) => Error::io(name, io::Error::new(*kind, text.clone())),
        }
    }
}

/// What one attempt ended with.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Another attempt may end better.
    Again(Failure),
    Final(Failure),
    /// The store or the server does not do such requests.
    Unsupported,
}

/// How an error of a store is to be taken. `opened`: an answer was had from the object before.
pub(super) fn judge(error: &object_store::Error, opened: bool) -> Verdict {
    use object_store::Error as E;
    let text = cause(error);
    match error {
        E::NotFound { .. } => Verdict::Final(Failure::Io(ErrorKind::NotFound, "no such object".into())),
        E::Precondition { .. } if opened => Verdict::Final(Failure::Changed),
        E::PermissionDenied { .. } => {
            Verdict::Final(Failure::Io(ErrorKind::PermissionDenied, "the server denies access (403)".into()))
        }
        E::Unauthenticated { .. } => {
            let text = "the server wants credentials, or others (401)";
            Verdict::Final(Failure::Io(ErrorKind::PermissionDenied, text.into()))
        }
        E::NotSupported { .. } | E::NotImplemented { .. } => Verdict::Unsupported,
        E::Generic { .. } => match status(error) {
            // A range beyond the end of what was longer before.
            Some(416) if opened => Verdict::Final(Failure::Changed),
            Some(408 | 429 | 500..) => Verdict::Again(Failure::Io(ErrorKind::Other, text)),
            Some(_) => Verdict::Final(Failure::Io(ErrorKind::Other, text)),
            None => Verdict::Again(Failure::Io(kind(error), text)),
        },
        _ => Verdict::Final(Failure::Io(ErrorKind::Other, text)),
    }
}

/// The innermost reason, which names no URL: those may hold secrets.
fn cause(error: &object_store::Error) -> String {
    if let Some(status) = status(error) {
        return format!("the server answers with status {status}");
    }
    let mut inner: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// The status of the answer that an error tells of. The store's type for such errors is not public, its text is.
fn status(error: &object_store::Error) -> Option<u16> {
    let mut inner = error.source();
    while let Some(source) = inner {
        let text = source.to_string();
        if let Some((_, rest)) = text.split_once("Server returned non-2xx status code: ") {
            return rest.get(..3)?.parse().ok();
        }
        inner = source.source();
    }
    None
}

/// The kind of a failure below HTTP.
fn kind(error: &object_store::Error) -> ErrorKind {
    let mut inner = error.source();
    while let Some(source) = inner {
        if let Some(io) = source.downcast_ref::<io::Error>() {
            return io.kind();
        }
        if let Some(http) = source.downcast_ref::<HttpError>()
            && http.kind() == HttpErrorKind::Timeout
        {
            return ErrorKind::TimedOut;
        }
        inner = source.source();
    }
    ErrorKind::Other
}

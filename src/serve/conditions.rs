//! Conditional requests and ranges (RFC 9110, sections 13 and 14).

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, header};

use crate::wire::entry::{Entry, Kind, Timestamp};

/// What tells versions of a file apart.
pub(super) struct Validators {
    /// With its quotation marks.
    pub etag: String,
    pub modified: SystemTime,
}

impl Validators {
    /// Of a file: from its length, its holes, its time and the hash of its content.
    pub fn of(content: &Entry) -> Self {
        let mut hasher = blake3::Hasher::new();
        if let Kind::File { size, extents, hash } = &content.kind {
            hasher.update(hash).update(&size.to_le_bytes());
            for extent in extents {
                hasher.update(&extent.file_offset.to_le_bytes()).update(&extent.len.to_le_bytes());
            }
        }
        let Timestamp { secs, nanos } = content.mtime;
        hasher.update(&secs.to_le_bytes()).update(&nanos.to_le_bytes());
        let etag = format!("\"{}\"", &hasher.finalize().to_hex()[..24]);
        Self { etag, modified: time(content.mtime) }
    }
}

/// A time in whole seconds, as HTTP has them: from 1970, to the year 9999.
pub(super) fn time(time: Timestamp) -> SystemTime {
    const LAST: i64 = 253_402_300_799;
    UNIX_EPOCH + Duration::from_secs(time.secs.clamp(0, LAST) as u64)
}

/// What a request is answered with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Whole,
    Part(Range<u64>),
    NotModified,
    ConditionFailed,
    OutOfRange,
}

/// What a request for a file of `size` bytes is answered with.
pub(super) fn answer(headers: &HeaderMap, validators: &Validators, size: u64) -> Answer {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |name| text(name).and_then(|value| httpdate::parse_http_date(value).ok());
    if let Some(wanted) = text(header::IF_MATCH) {
        if !names(wanted, &validators.etag, false) {
            return Answer::ConditionFailed;
        }
    } else if date(header::IF_UNMODIFIED_SINCE).is_some_and(|since| validators.modified > since) {
        return Answer::ConditionFailed;
    }
    if let Some(known) = text(header::IF_NONE_MATCH) {
        if names(known, &validators.etag, true) {
            return Answer::NotModified;
        }
    } else if date(header::IF_MODIFIED_SINCE).is_some_and(|since| validators.modified <= since) {
        return Answer::NotModified;
    }
    let Some(wanted) = text(header::RANGE) else { return Answer::Whole };
    if let Some(condition) = text(header::IF_RANGE) {
        let holds = condition == validators.etag
            || httpdate::parse_http_date(condition).is_ok_and(|date| date == validators.modified);
        if !holds {
            return Answer::Whole;
        }
    }
    range(wanted, size)
}

/// Whether a list of ETags names this one. `weak`: a weak one counts.
fn names(list: &str, etag: &str, weak: bool) -> bool {
    list.trim() == "*"
        || list.split(',').map(str::trim).any(|tag| {
            let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
            tag == etag
        })
}

/// One range. A list of several is not served, which a server may choose, and gets all bytes.
fn range(text: &str, size: u64) -> Answer {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Answer::Whole;
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than fits is more than there is.
        true if !text.is_empty() => Some(text.parse::<u64>().unwrap_or(u64::MAX)),
        _ => None,
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(last)) if first.is_empty() => size.saturating_sub(last)..size,
        _ => return Answer::Whole,
    };
    if range.start < range.end { Answer::Part(range) } else { Answer::OutOfRange }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(headers: &[(HeaderName, &str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().unwrap());
        }
        let modified = httpdate::parse_http_date("Tue, 01 Dec 2026 10:00:00 GMT").unwrap();
        answer(&map, &Validators { etag: "\"x\"".into(), modified }, 1000)
    }

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (text, range) in [
            ("bytes=0-0", Answer::Part(0..1)),
            ("bytes=10-19", Answer::Part(10..20)),
            ("bytes=990-2000", Answer::Part(990..1000)),
            ("bytes=999-", Answer::Part(999..1000)),
            ("bytes=-1", Answer::Part(999..1000)),
            ("bytes=-5000", Answer::Part(0..1000)),
            ("bytes=0-99999999999999999999999", Answer::Part(0..1000)),
            ("bytes=1000-", Answer::OutOfRange),
            ("bytes=1000-1001", Answer::OutOfRange),
            ("bytes=-0", Answer::OutOfRange),
            ("bytes=5-4", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=a-b", Answer::Whole),
            ("bytes=0-1,5-6", Answer::Whole),
            ("lines=1-2", Answer::Whole),
        ] {
            assert_eq!(ask(&[(header::RANGE, text)]), range, "{text}");
        }
    }

    #[test]
    fn conditions_are_those_of_the_standard() {
        let (before, after) = ("Tue, 01 Dec 2026 09:59:59 GMT", "Tue, 01 Dec 2026 10:00:00 GMT");
        for (name, value, want) in [
            (header::IF_NONE_MATCH, "\"x\"", Answer::NotModified),
            (header::IF_NONE_MATCH, "\"a\", W/\"x\"", Answer::NotModified),
            (header::IF_NONE_MATCH, "*", Answer::NotModified),
            (header::IF_NONE_MATCH, "\"y\"", Answer::Whole),
            (header::IF_MATCH, "\"x\"", Answer::Whole),
            (header::IF_MATCH, "W/\"x\"", Answer::ConditionFailed),
            (header::IF_MATCH, "\"y\"", Answer::ConditionFailed),
            (header::IF_MODIFIED_SINCE, after, Answer::NotModified),
            (header::IF_MODIFIED_SINCE, before, Answer::Whole),
            (header::IF_MODIFIED_SINCE, "yesterday", Answer::Whole),
            (header::IF_UNMODIFIED_SINCE, before, Answer::ConditionFailed),
            (header::IF_UNMODIFIED_SINCE, after, Answer::Whole),
        ] {
            assert_eq!(ask(&[(name.clone(), value)]), want, "{name}: {value}");
        }
        let range = (header::RANGE, "bytes=1-2");
        for (condition, want) in [
            ("\"x\"", Answer::Part(1..3)),
            (after, Answer::Part(1..3)),
            ("\"y\"", Answer::Whole),
            (before, Answer::Whole),
        ] {
            assert_eq!(ask(&[range.clone(), (header::IF_RANGE, condition)]), want, "{condition}");
        }
        assert_eq!(ask(&[range, (header::IF_NONE_MATCH, "\"x\"")]), Answer::NotModified);
    }
}

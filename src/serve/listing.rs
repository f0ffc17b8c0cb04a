//! A directory as a page of HTML, which rclone and other programs that follow links can read too.

use std::fmt::Write as _;

use super::conditions::time;
use super::names::{children, escape};
use crate::archive::read::archive::Archive;

/// The page of the directory at `path`.
pub(super) fn page(archive: &Archive, path: &[u8]) -> String {
    let title = html(&format!("/{}", String::from_utf8_lossy(path)));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>\n:root {{ color-scheme: light dark }}\nbody {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem }}\n\
         td {{ padding-right: 2rem }}\ntd + td {{ text-align: right; font-variant-numeric: tabular-nums }}\n\
         </style>\n</head>\n<body>\n<h1>{title}</h1>\n<table>\n"
    );
    if !path.is_empty() {
        page += "<tr><td><a href=\"../\">../</a></td></tr>\n";
    }
    for (name, child) in children(archive, path) {
        let slash = if child.is_directory { "/" } else { "" };
        let shown = html(&String::from_utf8_lossy(&name));
        let size = child.entry.filter(|_| !child.is_directory).and_then(|id| archive.file_size(id));
        let entry = child.entry.and_then(|id| archive.entry(id));
        let date = entry.map(|entry| httpdate::fmt_http_date(time(entry.mtime))).unwrap_or_default();
        let size = size.map(|size| size.to_string()).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "<tr><td><a href=\"{}{slash}\">{shown}{slash}</a></td><td>{size}</td><td>{date}</td></tr>",
            escape(&name)
        );
    }
    page + "</table>\n</body>\n</html>\n"
}

/// Text that means nothing to HTML.
fn html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// The media type of a file, by its name.
pub(super) fn media_type(path: &[u8]) -> &'static str {
    let extension = path.rsplit(|&byte| byte == b'.').next().unwrap_or_default().to_ascii_lowercase();
    match &extension[..] {
        b"txt" | b"md" | b"rst" | b"log" | b"c" | b"h" | b"cc" | b"cpp" | b"hpp" | b"rs" | b"py" | b"sh"
        | b"toml" | b"yaml" | b"yml" | b"ini" | b"conf" | b"go" | b"java" | b"rb" | b"pl" | b"patch"
        | b"diff" => "text/plain; charset=utf-8",
        b"html" | b"htm" => "text/html; charset=utf-8",
        b"css" => "text/css; charset=utf-8",
        b"js" | b"mjs" => "text/javascript; charset=utf-8",
        b"csv" => "text/csv; charset=utf-8",
        b"json" | b"jsonl" | b"ndjson" => "application/json",
        b"xml" => "application/xml",
        b"svg" => "image/svg+xml",
        b"png" => "image/png",
        b"jpg" | b"jpeg" => "image/jpeg",
        b"gif" => "image/gif",
        b"webp" => "image/webp",
        b"pdf" => "application/pdf",
        b"wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

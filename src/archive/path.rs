//! Names of an archive: their rules, their order, and how they are shown.
//!
//! The bytes of a path are checked here before anything is written; `os::beneath` resolves it.

use std::fmt::Write as _;

/// The longest name of one component, as Linux file systems have it.
pub const NAME_MAX: usize = 255;

/// Checks the bytes of an entry's path. The empty path is the root and passes.
pub fn check(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Ok(());
    }
    if path[0] == b'/' {
        return Err("its path is absolute");
    }
    for component in path.split(|&b| b == b'/') {
        check_name(component)?;
    }
    Ok(())
}

/// Checks the bytes of one component of a path.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("its path has an empty component"),
        b"." | b".." => Err("its path has a '.' or '..' component"),
        _ if name.len() > NAME_MAX => Err("its path has a name of more than 255 bytes"),
        _ if name.contains(&0) => Err("its path holds a NUL byte"),
        _ if name.contains(&b'/') => Err("its name holds a slash"),
        _ => Ok(()),
    }
}

/// Splits a path into the folder and the name in it.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Joins a folder and a name below it; either may be empty.
pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    if !folder.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A path as a terminal may show it: control characters, bidirectional overrides and bytes that
/// are not UTF-8 become escapes, everything else stays.
pub fn escape(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for part in path.utf8_chunks() {
        for c in part.valid().chars() {
            let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                _ if c.is_control() && (c as u32) < 0x100 => {
                    let _ = write!(out, "\\x{:02x}", c as u32);
                }
                _ if c.is_control() || hidden => {
                    let _ = write!(out, "\\u{{{:x}}}", c as u32);
                }
                _ => out.push(c),
            }
        }
        for byte in part.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Orders paths as a walk meets them: by components, and a folder before what is below it.
pub fn cmp_paths(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    // No name holds a NUL, so it can stand for the slash and sort before every other byte.
    let key = |&byte: &u8| if byte == b'/' { 0 } else { byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Whether `path` is `top` or lies below it.
pub fn is_beneath(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// What follows the last dot of a name, unless the dot is its first byte. Numbers are no kind, as
/// in `log.1`: what stands before them is.
pub(crate) fn extension(name: &[u8]) -> &[u8] {
    let mut stem = name;
    while let Some(dot) = stem.iter().rposition(|&b| b == b'.').filter(|&dot| dot > 0) {
        let (head, tail) = (&stem[..dot], &stem[dot + 1..]);
        if tail.is_empty() || tail.len() > 16 {
            return b"";
        }
        if !tail.iter().all(u8::is_ascii_digit) {
            return tail;
        }
        stem = head;
    }
    b""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_folder_are_refused() {
        for bad in ["/a", "..", "a/..", "a/../b", ".", "a//b", "a/", "a\0b", "./a"] {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check(&[b'a'; 256]).is_err());
        for good in [&b""[..], b"a", b"a/b", b"..a", b"...", b"\xff\n", &[b'a'; 255]] {
            assert!(check(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn control_characters_and_wild_bytes_are_escaped() {
        assert_eq!(escape("caf\u{e9}/\u{1b}[31m\n".as_bytes()), "caf\u{e9}/\\x1b[31m\\n");
        assert_eq!(escape(b"a\xff\\b\x9b"), "a\\xff\\\\b\\x9b");
        assert_eq!(escape("x\u{202e}gpj".as_bytes()), "x\\u{202e}gpj");
    }
}

//! Patterns of gitignore as lines for the matcher of ripgrep, which reads some of them otherwise than git does.
//!
//! For git, braces stand for themselves, sets of characters may name classes (`[[:digit:]]`) and hold escapes, a set that
//! is not closed or has no member, and a backslash at the end, match nothing. A line is read as git's `dir.c` and
//! `wildmatch.c` do, byte for byte, and written with what both understand alike.

/// Why a pattern is a slip where one is given by hand: it can match nothing, or a range in it begins behind its end, of
/// which git takes the beginning alone. Empty lines and comments are none.
pub fn slip(line: &str) -> Option<&'static str> {
    if line.starts_with('#') || without_blanks(line).is_empty() {
        return None;
    }
    let mut is_reversed = false;
    match lines_of(line, &mut is_reversed).is_empty() {
        true => Some("can match nothing"),
        false => is_reversed.then_some("has a range that begins behind its end"),
    }
}

/// Lines that together match what the pattern `line` matches; none if that is nothing.
pub fn lines(line: &str) -> Vec<String> {
    lines_of(line, &mut false)
}

fn lines_of(line: &str, is_reversed: &mut bool) -> Vec<String> {
    if line.starts_with('#') {
        return Vec::new();
    }
    let line = without_blanks(line);
    let (negated, pattern) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
    let (only_dirs, pattern) = pattern.strip_suffix('/').map_or((false, pattern), |rest| (true, rest));
    let anchored = pattern.contains('/');
    let pattern = if anchored { pattern.strip_prefix('/').unwrap_or(pattern) } else { pattern };
    if pattern.is_empty() || pattern.starts_with('/') {
        return Vec::new();
    }
    let globs = globs(pattern, anchored, is_reversed).unwrap_or_default();
    let sign = if negated { "!" } else { "" };
    let place = if anchored { "/" } else { "**/" };
    let end = if only_dirs { "/" } else { "" };
    globs.into_iter().map(|glob| format!("{sign}{place}{glob}{end}")).collect()
}

/// Takes off blanks at the end that are not escaped.
fn without_blanks(line: &str) -> &str {
    let (mut kept, mut chars) = (0, line.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            ' ' => {}
            '\\' => match chars.next() {
                Some((at, c)) => kept = at + c.len_utf8(),
                None => return line,
            },
            c => kept = at + c.len_utf8(),
        }
    }
    &line[..kept]
}

/// The pattern as globs; `None` if nothing can match it.
fn globs(pattern: &str, anchored: bool, is_reversed: &mut bool) -> Option<Vec<String>> {
    let bytes = pattern.as_bytes();
    let mut out = vec![String::new()];
    let push = |out: &mut Vec<String>, text: &str| out.iter_mut().for_each(|glob| glob.push_str(text));
    // What stands before the first wildcard is compared by git on its own, so that a wildcard behind it is at a start.
    let (mut at, mut is_plain) = (0, true);
    while let Some(c) = pattern[at..].chars().next() {
        let start = at;
        at += c.len_utf8();
        match c {
            '\\' => {
                let escaped = pattern[at..].chars().next()?;
                at += escaped.len_utf8();
                push(&mut out, &literal(escaped));
            }
            '?' => push(&mut out, "?"),
            '[' => {
                let (set, end) = set(bytes, at, is_reversed)?;
                at = end;
                push(&mut out, &set.glob()?);
            }
            '*' => {
                while bytes.get(at) == Some(&b'*') {
                    at += 1;
                }
                let is_component = start == 0 || bytes[start - 1] == b'/';
                let rest = &bytes[at..];
                let is_wide = anchored
                    && at - start > 1
                    && (is_component || is_plain)
                    && (rest.is_empty() || rest.starts_with(b"/") || rest.starts_with(b"\\/"));
                match (is_wide, rest.first()) {
                    (false, _) => push(&mut out, "*"),
                    (true, None) if is_component => push(&mut out, "**"),
                    // `a/b**` is everything that begins like that.
                    (true, None) => {
                        let mut below = out.clone();
                        push(&mut out, "*");
                        push(&mut below, "*/**");
                        out.append(&mut below);
                    }
                    (true, Some(b'/')) if is_component => {
                        at += 1;
                        push(&mut out, "**/");
                    }
                    // `a**/b` is `ab` too.
                    (true, Some(b'/')) => {
                        at += 1;
                        let mut below = out.clone();
                        push(&mut below, "*/**/");
                        out.append(&mut below);
                    }
                    (true, Some(_)) => {
                        at += 2;
                        push(&mut out, "*/**/");
                    }
                }
            }
            c => push(&mut out, &literal(c)),
        }
        is_plain &= !matches!(c, '\\' | '?' | '[' | '*');
    }
    Some(out)
}

/// A character that stands for itself.
fn literal(c: char) -> String {
    match c {
        '*' | '?' | '[' | ']' | '{' | '}' => format!("\\{c}"),
        // A backslash before the slash at the end, and white space at the end, would be taken off.
        '\\' => "[\\]".into(),
        c if c.is_ascii_whitespace() => format!("[{c}]"),
        c if c.is_whitespace() => format!("{{{c}}}"),
        c => c.into(),
    }
}

/// A set of bytes.
struct Set {
    negated: bool,
    bytes: [bool; 256],
}

/// Reads a set, of which the first byte is at `at`, and tells where it ends.
fn set(pattern: &[u8], mut at: usize, is_reversed: &mut bool) -> Option<(Set, usize)> {
    let negated = matches!(pattern.get(at)?, b'!' | b'^');
    at += usize::from(negated);
    let mut bytes = [false; 256];
    let (mut before, mut first) = (0, true);
    loop {
        let mut now = *pattern.get(at)?;
        if now == b']' && !first {
            return Some((Set { negated, bytes }, at + 1));
        }
        first = false;
        let next = pattern.get(at + 1);
        if now == b'\\' {
            at += 1;
            now = *pattern.get(at)?;
            bytes[usize::from(now)] = true;
        } else if now == b'-' && before != 0 && next.is_some_and(|&next| next != b']') {
            at += 1;
            let mut last = *pattern.get(at)?;
            if last == b'\\' {
                at += 1;
                last = *pattern.get(at)?;
            }
            *is_reversed |= before > last;
            (before..=last).for_each(|byte| bytes[usize::from(byte)] = true);
            now = 0;
        } else if now == b'[' && next == Some(&b':') {
            let end = at + 2 + pattern.get(at + 2..)?.iter().position(|&byte| byte == b']')?;
            match pattern.get(at + 2..end - 1).filter(|_| end > at + 2 && pattern[end - 1] == b':') {
                Some(name) => {
                    let holds = class(name)?;
                    (0..128).filter(holds).for_each(|byte| bytes[usize::from(byte)] = true);
                    (at, now) = (end, 0);
                }
                None => bytes[usize::from(b'[')] = true,
            }
        } else {
            bytes[usize::from(now)] = true;
        }
        before = now;
        at += 1;
    }
}

/// What a class of this name holds, of ASCII.
fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| (b' '..=b'~').contains(byte),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

impl Set {
    /// The set as a part of a glob; `None` if nothing is in it. No set holds a slash.
    fn glob(&self) -> Option<String> {
        let has = |byte: u8| self.bytes[usize::from(byte)];
        let mut inner: String = (1..128u8)
            .filter(|byte| has(*byte) && !matches!(byte, b'/' | b'-' | b']' | b'!' | b'^'))
            .map(char::from)
            .collect();
        self.high(&mut inner);
        if self.negated {
            // A sign is the first of it, so that all others may follow in any order but these two.
            let bracket = if has(b']') { "]" } else { "" };
            let dash = if has(b'-') { "-" } else { "" };
            let signs: String = "!^".chars().filter(|&sign| has(sign as u8)).collect();
            return Some(format!("[!{bracket}/{inner}{signs}{dash}]"));
        }
        let signs: String = "!^".chars().filter(|&sign| has(sign as u8)).collect();
        Some(match (has(b']'), &inner[..], &signs[..], has(b'-')) {
            (false, "", "", false) => return None,
            (false, "", "", true) => "-".into(),
            (false, "", "!^", false) => "{!,^}".into(),
            (false, "", sign, false) => sign.into(),
            (false, "", signs, true) => format!("[-{signs}]"),
            (bracket, inner, signs, dash) => {
                let (bracket, dash) = (if bracket { "]" } else { "" }, if dash { "-" } else { "" });
                format!("[{bracket}{inner}{signs}{dash}]")
            }
        })
    }

    /// Adds characters that are made of the bytes above ASCII: to the matcher, a set is one of their bytes, as it is to
    /// git. Bytes that no such character has are left out.
    fn high(&self, inner: &mut String) {
        let all: Vec<u8> = (0x80..=0xff).filter(|byte| self.bytes[usize::from(*byte)]).collect();
        let (rest, leads): (Vec<u8>, Vec<u8>) = all.into_iter().partition(|byte| *byte < 0xc0);
        let mut add = |lead: u8, rest: u8| {
            let len = match lead {
                0xc2..=0xdf => 1,
                0xe0..=0xef => 2,
                _ => 3,
            };
            let bytes = [&[lead][..], &vec![rest; len]].concat();
            let valid = std::str::from_utf8(&bytes).ok();
            valid.inspect(|text| inner.push_str(text)).is_some()
        };
        let mut used = Vec::new();
        for &lead in &leads {
            used.extend(rest.iter().copied().find(|rest| add(lead, *rest)));
        }
        for &rest in rest.iter().filter(|rest| !used.contains(rest)) {
            let _ = leads.iter().any(|lead| add(*lead, rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_written_with_what_both_understand() {
        for (pattern, expected) in [
            ("*.o", &["**/*.o"][..]),
            ("/a/", &["/a/"]),
            ("a/**/b", &["/a/**/b"]),
            ("{x}", &["**/\\{x\\}"]),
            ("foo{", &["**/foo\\{"]),
            ("[[:digit:]]", &["**/[0123456789]"]),
            ("[c-a]", &["**/[c]"]),
            ("[!c-a]", &["**/[!/c]"]),
            ("a\\", &[]),
            ("a\\ ", &["**/a[ ]"]),
            ("a  ", &["**/a"]),
            ("!\\!x", &["!**/!x"]),
            ("#x", &[]),
            ("[]-]", &["**/[]-]"]),
            ("[!]", &[]),
            ("a[", &[]),
            ("/", &[]),
            ("", &[]),
            ("a**b", &["**/a*b"]),
            ("x/a**b", &["/x/a*b"]),
        ] {
            assert_eq!(lines(pattern), expected, "{pattern}");
        }
        let slips = ["[c-a]", "a[", "\\", "/", "!", "# [c-a]", "", "  ", "[a-c]", "a/**"]
            .map(|given| slip(given).is_some());
        assert_eq!(slips, [true, true, true, true, true, false, false, false, false, false]);
    }
}

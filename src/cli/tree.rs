//! Draws paths as a tree, for `s3a ls --tree`.

use crate::archive::path::escape;

/// Lines for paths in the order of a walk, each with what is to follow its name. Folders that are on
/// the way but not in the list are drawn too.
pub(crate) fn draw(paths: &[(&[u8], String)]) -> Vec<String> {
    let mut lines = Vec::new();
    // From the last to the first: whether a sibling follows is known then.
    let mut follows: Vec<bool> = Vec::new();
    let mut next: Vec<&[u8]> = Vec::new();
    for (at, (path, note)) in paths.iter().enumerate().rev().filter(|(_, (path, _))| !path.is_empty()) {
        let parts: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
        let before = at.checked_sub(1).map_or(&b""[..], |at| paths[at].0);
        let shared = same(&parts, &next);
        follows.truncate(shared);
        follows.resize(parts.len(), false);
        if !next.is_empty() && shared < parts.len() {
            follows[shared] = true;
        }
        let known: Vec<&[u8]> = before.split(|&b| b == b'/').collect();
        for depth in (same(&parts, &known)..parts.len()).rev() {
            let mut line: String =
                follows[..depth].iter().map(|more| if *more { "│   " } else { "    " }).collect();
            line += if follows[depth] { "├── " } else { "└── " };
            line += &escape(parts[depth]);
            if depth + 1 == parts.len() {
                line += note;
            }
            lines.push(line);
        }
        next = parts;
    }
    lines.push(".".into());
    lines.reverse();
    lines
}

/// How many parts are the same.
fn same(a: &[&[u8]], b: &[&[u8]]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_joined_by_lines() {
        let paths = ["", "a", "a/b", "a/b/c", "a/d", "e", "f/g/h", "f/i", "z"];
        let list: Vec<(&[u8], String)> = paths
            .iter()
            .map(|p| (p.as_bytes(), if *p == "z" { " -> e".into() } else { String::new() }))
            .collect();
        let expected = "\
.
├── a
│   ├── b
│   │   └── c
│   └── d
├── e
├── f
│   ├── g
│   │   └── h
│   └── i
└── z -> e";
        assert_eq!(draw(&list).join("\n"), expected);
        assert_eq!(draw(&[]), ["."]);
    }
}

//! Which paths take part: include and exclude patterns in the style of gitignore.
//!
//! A pattern with a slash in it is anchored at the archive's root, one without matches a name at
//! any depth, one with a trailing slash matches folders only, `!` takes a match back. A folder
//! that is excluded is not entered; one that is included brings everything below it. With include
//! patterns, folders that lead to something included come along.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::gitignore::lines;
use super::path::is_beneath;
use crate::error::{Error, Result};

/// Patterns that were read and are ready to be matched. The default selects everything.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    include: Option<Gitignore>,
    exclude: Option<Gitignore>,
    /// Paths given as they are; with what lies below them they are all that is taken.
    beneath: Vec<Vec<u8>>,
}

/// What a selection says of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Taken, with everything below it that is not excluded.
    Include,
    /// Not taken, and nothing below it is looked at.
    Exclude,
    /// Not taken itself, but something below it may be.
    Descend,
}

impl Selection {
    /// Reads the patterns. With no include pattern everything is included.
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Self> {
        Ok(Self { include: compile(include)?, exclude: compile(exclude)?, beneath: Vec::new() })
    }

    /// Takes only these paths and what lies below them, if there are any.
    pub fn beneath(mut self, paths: impl Iterator<Item = Vec<u8>>) -> Self {
        self.beneath.extend(paths);
        self
    }

    /// The paths that were given as they are.
    pub fn named(&self) -> &[Vec<u8>] {
        &self.beneath
    }

    /// Whether every path is taken.
    pub fn takes_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_none() && self.beneath.is_empty()
    }

    /// Whether only what matches a pattern is taken.
    pub fn has_includes(&self) -> bool {
        self.include.is_some()
    }

    /// What to do with `path`; `inside` says that a folder above it was chosen as `Include`.
    pub fn choose(&self, path: &[u8], is_dir: bool, inside: bool) -> Choice {
        let native = Path::new(OsStr::from_bytes(path));
        if self.exclude.as_ref().is_some_and(|set| set.matched(native, is_dir).is_ignore()) {
            return Choice::Exclude;
        }
        match &self.include {
            _ if inside => Choice::Include,
            None => Choice::Include,
            Some(set) if set.matched(native, is_dir).is_ignore() => Choice::Include,
            Some(_) if is_dir => Choice::Descend,
            Some(_) => Choice::Exclude,
        }
    }

    /// What to do with `path` when nothing is known of the folders above it, as in a list of
    /// entries out of an archive.
    pub fn takes(&self, path: &[u8], is_dir: bool) -> bool {
        if self.takes_all() || path.is_empty() {
            return true;
        }
        if !self.beneath.is_empty() && !self.beneath.iter().any(|top| is_beneath(path, top)) {
            return false;
        }
        let mut inside = false;
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            match self.choose(&path[..end], is_dir || end < path.len(), inside) {
                Choice::Exclude => return false,
                Choice::Include => inside = true,
                Choice::Descend => inside = false,
            }
        }
        inside
    }
}

fn compile<S: AsRef<str>>(patterns: &[S]) -> Result<Option<Gitignore>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let pattern = pattern.as_ref();
        for line in lines(pattern) {
            builder.add_line(None, &line).map_err(|e| Error::Usage(format!("pattern {pattern:?}: {e}")))?;
        }
    }
    let set = builder.build().map_err(|e| Error::Usage(format!("patterns: {e}")))?;
    Ok(Some(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excluded_folder_takes_everything_below_it_along() {
        let s = Selection::new(&[], &["target/", "*.o", "!keep.o"]).unwrap();
        assert!(!s.takes(b"target", true));
        assert!(!s.takes(b"a/target/x", false));
        assert!(s.takes(b"a/target", false));
        assert!(!s.takes(b"a/b.o", false));
        assert!(s.takes(b"a/keep.o", false));
    }

    #[test]
    fn includes_bring_what_is_below_them_and_leave_the_rest() {
        let s = Selection::new(&["/src", "*.md"], &["*.bak"]).unwrap();
        assert!(s.takes(b"src/deep/file", false));
        assert!(s.takes(b"docs/a.md", false));
        assert!(!s.takes(b"docs/a.txt", false));
        assert!(!s.takes(b"other/src", false));
        assert!(!s.takes(b"src/a.bak", false));
        assert_eq!(s.choose(b"docs", true, false), Choice::Descend);
    }

    #[test]
    fn paths_given_as_they_are_bring_what_is_below_them() {
        let s = Selection::new(&["*.rs"], &[]).unwrap().beneath([b"src/[a]".to_vec()].into_iter());
        assert!(s.takes(b"src/[a]/x.rs", false));
        assert!(!s.takes(b"src/[a]/x.c", false));
        assert!(!s.takes(b"src/[a]b/x.rs", false));
        assert!(!s.takes(b"src/a/x.rs", false));
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_too() {
        let s = Selection::new(&[], &["*.o"]).unwrap();
        assert!(!s.takes(b"\xff\xfe.o", false));
        assert!(s.takes(b"\xff\xfe.c", false));
    }
}

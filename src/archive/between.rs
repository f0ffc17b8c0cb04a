//! Checks what stands between the groups of an archive, in the order in which a reader of a pipe meets it: lists of
//! models and their files, indexes, trailers.

use std::ops::Range;

use super::Archive;
use super::layout::GroupAt;
use crate::error::{Error, Result};
use crate::wire::frame::FrameKind;
use crate::wire::header::HEADER_LEN;
use crate::wire::index::{Index, TRAILER_LEN, TRAILER_MARKER, Trailer};
use crate::wire::models::read_models;

/// Everything that is neither header nor group must be a frame or a trailer in its place. Gives the damaged places.
pub(super) fn check_between(archive: &Archive) -> Vec<(Range<u64>, Error)> {
    let mut between =
        Between { archive, groups: 0, models: 0, carried: 0, due: 0, generation: 0, index: None };
    let mut damages = Vec::new();
    let mut at = HEADER_LEN as u64;
    for number in 0..=archive.layout.groups.len() {
        let next = archive.layout.groups.get(number);
        let end = next.map_or(archive.file.len(), |group| group.record.offset);
        between.groups = number;
        while at < end {
            let checked = between.check(at).and_then(|len| match at + len <= end {
                true => Ok(len),
                false => Err(Error::Corrupt { offset: at, rule: "a frame runs into a group" }),
            });
            match checked {
                Ok(len) => at += len,
                Err(error) => {
                    damages.push((at..end, error));
                    at = end;
                }
            }
        }
        if let Some(group) = next {
            // What is missing before is not told again at each group.
            if damages.is_empty()
                && let Err(error) = between.group(group)
            {
                damages.push((group.record.offset..group.record.body(), error));
            }
            at = group.record.end();
        }
    }
    damages
}

struct Between<'a> {
    archive: &'a Archive,
    /// Groups so far.
    groups: usize,
    /// Models listed so far, how many of them the archive carries, and how many of those are still to come.
    models: usize,
    carried: usize,
    due: usize,
    generation: u32,
    /// Length of the index that a trailer must follow.
    index: Option<u64>,
}

impl Between<'_> {
    fn group(&self, group: &GroupAt) -> Result<()> {
        let corrupt = |rule| Err(Error::Corrupt { offset: group.record.offset, rule });
        if self.index.is_some() {
            return corrupt("no trailer follows the index");
        }
        if self.due > 0 {
            return corrupt("a model that the archive carries is missing");
        }
        if group.group.models.iter().any(|&model| usize::from(model) >= self.models) {
            return corrupt("a group names a model that no list before it does");
        }
        Ok(())
    }

    /// Checks what begins at `at`; tells its length.
    fn check(&mut self, at: u64) -> Result<u64> {
        let archive = self.archive;
        let corrupt = |rule| Error::Corrupt { offset: at, rule };
        let start = archive.file.read_up_to(at, TRAILER_LEN as u64)?;
        if start.starts_with(&TRAILER_MARKER) {
            let trailer = Trailer::read(&start, at)?;
            if self.index.take() != Some(trailer.index_len) || trailer.generation != self.generation {
                return Err(corrupt("no index of this trailer stands before it"));
            }
            self.generation = self.generation.saturating_add(1);
            return Ok(TRAILER_LEN as u64);
        }
        if self.index.is_some() {
            return Err(corrupt("no trailer follows the index"));
        }
        let frame = archive.file.frame_at(at)?;
        let mut input = frame.expect(frame.kind, at)?;
        if self.due > 0 && frame.kind != FrameKind::Model {
            return Err(corrupt("a model that the archive carries is missing"));
        }
        match frame.kind {
            FrameKind::Models => {
                let models = read_models(&mut input)?;
                input.finish()?;
                if models.len() < self.models || !archive.models().starts_with(&models) {
                    return Err(corrupt("models are not those of the index"));
                }
                self.due = models[self.models..].iter().filter(|model| model.embedded).count();
                self.models = models.len();
            }
            FrameKind::Model => {
                let mut embedded = (0..).zip(archive.models()).filter(|(_, model)| model.embedded);
                let number = embedded.nth(self.carried).map(|(number, _)| number);
                let named = archive.index.embedded.get(self.carried) == Some(&at) && self.due > 0;
                let number = number.filter(|_| named);
                archive
                    .embedded_model(number.ok_or_else(|| corrupt("the index does not name this model"))?)?;
                (self.carried, self.due) = (self.carried + 1, self.due - 1);
            }
            FrameKind::Index => {
                let index = Index::read(&mut input, at)?;
                input.finish()?;
                let last = &archive.index;
                if Some(&index.groups[..]) != last.groups.get(..self.groups) {
                    return Err(corrupt("an index does not name the groups before it"));
                }
                if Some(&index.models[..]) != last.models.get(..self.models)
                    || Some(&index.embedded[..]) != last.embedded.get(..self.carried)
                {
                    return Err(corrupt("an index does not name the models before it"));
                }
                if index.generation != self.generation {
                    return Err(corrupt("an index has another generation than it is"));
                }
                self.index = Some(frame.len as u64);
            }
            FrameKind::Skippable(_) => {}
            FrameKind::Group | FrameKind::Entries | FrameKind::Table | FrameKind::Dictionary => {
                return Err(corrupt("a frame stands outside its group"));
            }
        }
        Ok(frame.len as u64)
    }
}

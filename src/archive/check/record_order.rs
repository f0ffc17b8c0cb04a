//! Checks what stands between the groups of an archive, in the order in which a reader of a pipe meets it: lists of
//! models and their files, indexes, trailers.

use std::ops::Range;

use crate::archive::read::archive::Archive;
use crate::archive::read::layout::GroupAt;
use crate::error::{Error, Result};
use crate::wire::entry::Kind;
use crate::wire::frame::FrameKind;
use crate::wire::header::HEADER_LEN;
use crate::wire::index::{Index, TRAILER_LEN, TRAILER_MARKER, Trailer};
use crate::wire::models::{ModelRef, read_models};

/// Everything that is neither header nor group must be a frame or a trailer in its place. Gives the damaged places.
pub(crate) fn check_between(archive: &Archive) -> Vec<(Range<u64>, Error)> {
    let mut between = Between::new(archive);
    let mut damages = Vec::new();
    let mut at = HEADER_LEN as u64;
    for number in 0..=archive.layout.groups.len() {
        let next = archive.layout.groups.get(number);
        let end = next.map_or(archive.file.len(), |group| group.record.offset);
        while at < end {
            let checked = between.check(at).and_then(|len| match at + len <= end {
                true => Ok(len),
                false => Err(Error::Corrupt { offset: at, rule: "a frame runs into a group" }),
            });
            match checked {
                Ok(len) => at += len,
                Err(error) => {
                    between.is_sound = false;
                    damages.push((at..end, error));
                    at = end;
                }
            }
        }
        if let Some(group) = next {
            if let Err(error) = between.group(group) {
                between.is_sound = false;
                damages.push((group.record.offset..group.record.body(), error));
            }
            at = group.record.end();
        }
    }
    if let Err(error) = between.finish() {
        damages.push((at..at, error));
    }
    damages
}

/// What stands at a place.
enum Found {
    Trailer(Trailer),
    Models(Vec<ModelRef>),
    Model,
    Index(Index),
    Skippable,
}

struct Between<'a> {
    archive: &'a Archive,
    /// Nothing was damaged so far. What follows damage is checked by itself only, or else one would be told often.
    is_sound: bool,
    /// Groups so far, their entries, and how far into the raw stream the data of those reach.
    groups: usize,
    entries: usize,
    named: u64,
    /// Models listed so far, how many of them the archive carries, and how many of those are still to come.
    models: usize,
    carried: usize,
    due: usize,
    generation: u32,
    /// Length of the index that a trailer must follow.
    index: Option<u64>,
}

impl<'a> Between<'a> {
    fn new(archive: &'a Archive) -> Self {
        Self {
            archive,
            is_sound: true,
            groups: 0,
            entries: 0,
            named: 0,
            models: 0,
            carried: 0,
            due: 0,
            generation: 0,
            index: None,
        }
    }

    /// The next group begins here.
    fn group(&mut self, group: &GroupAt) -> Result<()> {
        let count = group.group.entry_count as usize;
        let entries = self.archive.entries.get(self.entries..self.entries + count).unwrap_or_default();
        let ends = entries.iter().filter_map(|entry| match &entry.kind {
            Kind::File { extents, .. } => {
                extents.iter().map(|extent| extent.raw_offset.saturating_add(extent.len)).max()
            }
            _ => None,
        });
        self.named = ends.fold(self.named, u64::max);
        self.entries += count;
        self.groups += 1;
        let corrupt = |rule| Err(Error::Corrupt { offset: group.record.offset, rule });
        if !self.is_sound {
            return Ok(());
        }
        if self.index.is_some() {
            return corrupt(NO_TRAILER);
        }
        if self.due > 0 {
            return corrupt(MISSING);
        }
        if group.group.models.iter().any(|&model| usize::from(model) >= self.models) {
            return corrupt("a group names a model that no list before it does");
        }
        Ok(())
    }

    /// The archive ends.
    fn finish(&self) -> Result<()> {
        let whole =
            self.index.is_none() && self.generation == self.archive.index.generation.saturating_add(1);
        if self.is_sound && !whole {
            let offset = self.archive.file.len();
            return Err(Error::Corrupt { offset, rule: "the last trailer does not stand for itself" });
        }
        Ok(())
    }

    /// Checks what begins at `at`; tells its length.
    fn check(&mut self, at: u64) -> Result<u64> {
        let (len, found) = self.read(at)?;
        if self.is_sound {
            self.follow(at, len, &found).map_err(|rule| Error::Corrupt { offset: at, rule })?;
        }
        Ok(len)
    }

    /// What begins at `at`, and its length.
    fn read(&self, at: u64) -> Result<(u64, Found)> {
        let file = &self.archive.file;
        let start = file.read_up_to(at, TRAILER_LEN as u64)?;
        if start.starts_with(&TRAILER_MARKER) {
            return Ok((TRAILER_LEN as u64, Found::Trailer(Trailer::read(&start, at)?)));
        }
        let frame = file.frame_at(at)?;
        let mut input = frame.expect(frame.kind, at)?;
        let found = match frame.kind {
            FrameKind::Models => Found::Models(read_models(&mut input)?),
            FrameKind::Index => Found::Index(Index::read(&mut input, at)?),
            FrameKind::Model => return Ok((frame.len as u64, Found::Model)),
            FrameKind::Skippable(_) => return Ok((frame.len as u64, Found::Skippable)),
            FrameKind::Group | FrameKind::Entries | FrameKind::Table | FrameKind::Dictionary => {
                return Err(Error::Corrupt { offset: at, rule: "a frame stands outside its group" });
            }
        };
        input.finish()?;
        Ok((frame.len as u64, found))
    }

    /// Checks that what was found may stand where it does; else gives the rule that it breaks.
    fn follow(&mut self, at: u64, len: u64, found: &Found) -> std::result::Result<(), &'static str> {
        let last = &self.archive.index;
        if let Found::Trailer(trailer) = found {
            if self.index.take() != Some(trailer.index_len) || trailer.generation != self.generation {
                return Err("no index of this trailer stands before it");
            }
            let group = self.groups.checked_sub(1).and_then(|at| self.archive.layout.groups.get(at));
            if group.is_some_and(|group| group.leaves_open) {
                return Err("a file is left open by the last group of a generation");
            }
            if self.named > group.map_or(0, |group| group.raw().end) {
                return Err("a file's data lies beyond the last group of a generation");
            }
            self.generation = self.generation.saturating_add(1);
            return Ok(());
        }
        if self.index.is_some() {
            return Err(NO_TRAILER);
        }
        if self.due > 0 && !matches!(found, Found::Model) {
            return Err(MISSING);
        }
        match found {
            Found::Models(models) => {
                if models.len() < self.models || !last.models.starts_with(models) {
                    return Err("models are not those of the index");
                }
                self.due = models[self.models..].iter().filter(|model| model.embedded).count();
                self.models = models.len();
            }
            // Whether it is the one that is named is checked with all others.
            Found::Model => {
                if self.due == 0 || last.embedded.get(self.carried) != Some(&at) {
                    return Err("the index does not name this model");
                }
                (self.carried, self.due) = (self.carried + 1, self.due - 1);
            }
            Found::Index(index) => {
                if Some(&index.groups[..]) != last.groups.get(..self.groups) {
                    return Err("an index does not name the groups before it");
                }
                if Some(&index.models[..]) != last.models.get(..self.models)
                    || Some(&index.embedded[..]) != last.embedded.get(..self.carried)
                {
                    return Err("an index does not name the models before it");
                }
                if index.generation != self.generation {
                    return Err("an index has another generation than it is");
                }
                self.index = Some(len);
            }
            Found::Trailer(_) | Found::Skippable => {}
        }
        Ok(())
    }
}

const NO_TRAILER: &str = "no trailer follows the index";
const MISSING: &str = "a model that the archive carries is missing";

//! Opens what is intact of a damaged archive, without its index.

use std::fs::File;
use std::path::Path;

use super::{Archive, OpenOptions};
use crate::error::Result;
use super::verify::Damage;

/// Finds groups by scanning the file; reads of what is lost give errors, the rest reads as usual.
/// The second value lists what was found damaged on the way.
pub fn salvage(file: File, name: &Path, options: &OpenOptions) -> Result<(Archive, Vec<Damage>)> { let _ = (file, name, options); todo!() }

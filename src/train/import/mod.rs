//! Networks of other projects as model files for the integer engine (docs/research/import.md).

pub mod check;
pub mod convert;
pub mod folder;
pub mod pieces;

pub use convert::import;
pub use folder::Folder;

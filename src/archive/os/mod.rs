//! What the operating system is asked for: files that appear whole, extended attributes.

pub mod beneath;
pub mod partial_file;
pub mod xattr;

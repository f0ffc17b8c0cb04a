//! From a tree or a tar stream to the contents and entries of an archive.

pub mod found;
pub mod from_tar;
pub mod order;
pub mod packer;
pub mod scan;
pub mod similar_order;
pub mod source_file;
pub(crate) mod tar_tree;
pub mod walk;

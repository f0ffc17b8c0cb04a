//! Neural chunks: tokens under the slots of a model (spec/numerics.md, sections 3, 8 and 10).

pub mod chunk_model;
pub mod lockstep;
pub mod on_device;
pub mod search;
#[cfg(test)]
mod tests;

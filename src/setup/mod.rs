//! What stands between a few words of a caller and the library below: levels, models at hand, the calls of the face.

#[cfg(feature = "cli")]
pub mod budget;
pub mod calls;
#[cfg(all(feature = "train", feature = "cli"))]
pub mod learn;
pub mod level;
pub mod models;

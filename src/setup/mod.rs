//! What stands between a few words of a caller and the library below: levels, models at hand, the calls of the face.

pub mod calls;
pub mod level;
pub mod models;

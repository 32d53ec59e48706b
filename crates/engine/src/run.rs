//! A model ready to run, and the engine that runs it.

mod model;

pub use model::{Model, OpenError};

//! What the measurements of `benches` and its micro-benches share: rows, repositories and floors.

pub mod bodies;
pub mod pairs;
pub mod parse;
pub mod prepared;
pub mod repository;

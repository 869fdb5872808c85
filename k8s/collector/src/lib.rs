//! The parts of the program `collector`; it says what it does in `main.rs`. A library so that its tests and other programs can use
//! them; [`baseline`] is the definition of the features.

pub mod app;
pub mod baseline;
pub mod changes;
pub mod endpoint;
pub mod fleet;
pub mod labels;
pub mod live;
pub mod metrics;
mod ops;
pub mod prometheus;
pub mod recording;
pub mod replay;
pub mod rows;
pub mod server;
pub mod settings;
pub mod shown;
pub mod sources;
pub mod store;
pub mod telemetry;
pub mod tick;

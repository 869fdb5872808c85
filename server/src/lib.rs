//! onnxd serves ONNX models: a champion answers, a challenger scores the same rows in the shadow, and both are swapped
//! while they serve.
//!
//! The `onnxd` program is built on this library, which also runs models inside another program, without HTTP:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = onnxd::Engine::open(onnxd::Options::new("models"))?;
//! engine.wait(std::time::Duration::from_secs(30))?;
//! let answer = engine.predict("anomaly", br#"{"cpu_zscore": 2.1, "memory_zscore": 1.5}"#).await?;
//! println!("{}", String::from_utf8_lossy(&answer));
//! println!("{:?}", engine.shadow("anomaly"));
//! # Ok(())
//! # }
//! ```

pub mod app;
pub mod batch;
pub mod bench;
pub mod cli;
pub mod codec;
pub mod config;
mod engine;
pub mod guard;
pub mod http;
pub mod inspect;
pub mod judge;
pub mod load;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod peers;
pub mod probe;
mod process;
pub mod promotion;
pub mod record;
pub mod replay;
pub mod serving;
pub mod shadow;
pub mod shutdown;
pub mod source;
pub mod swap;
pub mod telemetry;
mod text;
mod threads;
pub mod verdict;

pub use engine::{Engine, Error, Options};

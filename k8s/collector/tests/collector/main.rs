//! The collector through its public door: the program, a real Prometheus, a real onnxd. Tests that need one of them say so where
//! it is not installed. One binary, so that it is linked once.

#![allow(
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test says why it is skipped; its modules are not a library"
)]

mod baseline;
mod bounds;
mod live;
mod outages;
mod process;
mod replay;
mod settings;
mod world;

//! Reads metrics from Prometheus, computes z-scores, asks onnxd, and tells what is anomalous.
fn main() {}

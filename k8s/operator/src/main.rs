//! Reschedules failing and anomalous pods within a budget, and starts retraining.
fn main() {}

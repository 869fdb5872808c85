//! Reschedules pods that fail or that the model finds anomalous, within a budget, and starts retraining.
//!
//! What is done is decided by one pure function, [`decide::decide`]: policy, pods, nodes, firing anomalies, what was done
//! before, and the time go in; actions with reasons come out. Everything else reads the world for it ([`watch`], [`alerts`]),
//! or does what it says ([`reconcile`], [`act`]), as the one leader among the replicas ([`lease`]).

pub mod act;
pub mod alerts;
pub mod app;
pub mod config;
pub mod decide;
pub mod facts;
pub mod finding;
pub mod history;
pub mod lease;
pub mod metrics;
pub mod ops;
pub mod policy;
pub mod reconcile;
pub mod report;
pub mod retrain;
pub mod rules;
pub mod watch;

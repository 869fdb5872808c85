//! Tests of the remediation operator: its decision in virtual time, and its process against a real API server.
//!
//! The API server is taken from the folder that `KUBE_ASSETS` names, else from `target/kubernetes/bin`.

#![allow(clippy::print_stderr, missing_docs, unreachable_pub, reason = "a test, whose modules share what they need")]

mod cluster;
mod fixture;
mod pods;
mod policies;
mod processes;
mod simulation;

//! Tests of the remediation operator: its decision in virtual time, and its process against a real API server.
mod simulation;

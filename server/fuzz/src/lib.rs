//! Nothing is in here: what asks the decoders is a bench, `decoders.rs`.

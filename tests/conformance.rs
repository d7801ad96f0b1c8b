//! Every implementation of a step against its reference, each with its tolerance beside it.

#[path = "conformance/preprocess.rs"]
mod preprocess;

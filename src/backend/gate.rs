//! The numeric gate.
pub mod frames;

//! Heads read one frame's features and add to its [`Scene`]. Pure: no clock, no I/O, no threads.
//!
//! The matrix of a shipped head is part of the model's graph ([`crate::model::graph::GraphHead`]); what is
//! here is its host part: logits to masks, bins to metres.

use crate::types::{Features, Scene};

/// Why a head failed on a frame or a head file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The graph has no output for this head.
    #[error("the model's graph has no output '{0}': build it with this head")]
    NoOutput(String),
    /// A head's file is not what it should be.
    #[error("head file '{name}' is not usable: {problem}")]
    File {
        /// The head.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The output has another shape than the head expects.
    #[error("head '{name}' got {got} values where {expected} were expected")]
    Shape {
        /// The head.
        name: String,
        /// What came.
        got: usize,
        /// What should have come.
        expected: usize,
    },
}

/// One head.
pub trait Head: Send {
    /// Its name.
    fn name(&self) -> &str;

    /// Adds what it sees in the features to the scene.
    fn apply(&mut self, features: &Features, scene: &mut Scene) -> Result<(), HeadError>;
}

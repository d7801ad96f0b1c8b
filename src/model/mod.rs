//! The backbone's weights and the graph written from them.

pub mod graph;

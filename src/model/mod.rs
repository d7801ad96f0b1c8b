//! The backbone's weights and the graph written from them; matrices for what is fitted over its tokens.

pub mod builder;
pub mod depth;
mod dinov2;
pub mod fetch;
pub mod graph;
pub mod matrix;
mod naming;
pub mod onnx;
mod position;
pub mod store;
pub mod weights;

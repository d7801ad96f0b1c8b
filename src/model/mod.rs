//! The backbone's weights and the graph written from them.

pub mod builder;
mod dinov2;
pub mod fetch;
pub mod graph;
mod naming;
pub mod onnx;
mod position;
pub mod store;
pub mod weights;

//! Every implementation of a step against its reference, each with its tolerance beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "conformance/backbone.rs"]
mod backbone;
#[path = "conformance/backend.rs"]
mod backend;
#[path = "conformance/depth.rs"]
mod depth;
#[path = "conformance/depth_network.rs"]
mod depth_network;
#[cfg(feature = "cuda")]
#[path = "conformance/device.rs"]
mod device;
#[cfg(feature = "cuda")]
#[path = "conformance/fake.rs"]
#[allow(dead_code, reason = "another test binary uses the rest")]
mod fake;
#[path = "conformance/gate.rs"]
mod gate;
#[cfg(feature = "cuda")]
#[path = "conformance/kernels.rs"]
mod kernels;
#[path = "conformance/mixed.rs"]
mod mixed;
#[path = "conformance/preprocess.rs"]
mod preprocess;
#[path = "conformance/reference.rs"]
mod reference;
#[path = "conformance/support.rs"]
mod support;
#[path = "conformance/weights.rs"]
mod weights;

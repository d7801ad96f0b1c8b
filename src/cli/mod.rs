//! One file a command.

pub mod check;
#[cfg(feature = "demo")]
pub mod demo_rtsp;
pub mod doctor;
pub mod model;
pub mod train;

//! End-to-end tests with real servers: a deadline on every wait, own ports and folders a test.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "demo")]
#[path = "e2e/alarm.rs"]
mod alarm;
#[cfg(feature = "demo")]
#[path = "e2e/backend.rs"]
mod backend;
#[cfg(feature = "demo")]
#[path = "e2e/daemon.rs"]
mod daemon;
#[cfg(feature = "demo")]
#[path = "e2e/ingest.rs"]
mod ingest;
#[cfg(feature = "demo")]
#[path = "e2e/observe.rs"]
mod observe;
#[cfg(feature = "demo")]
#[path = "e2e/rtsp.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod rtsp;
#[cfg(feature = "demo")]
#[path = "e2e/service.rs"]
mod service;
#[cfg(feature = "demo")]
#[path = "e2e/site.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod site;
#[cfg(feature = "demo")]
#[path = "e2e/soak.rs"]
mod soak;

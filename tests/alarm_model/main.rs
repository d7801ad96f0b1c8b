//! The alarm's state machine against what it promises: every state of a small model, and long random lives.
//!
//! Both drive the real `Guard` (latch, people, memory) and a [`spec::Spec`] that was written from the promises, not
//! from the code. The small model counts in seconds and is searched to its end: there is no deeper state. It
//! prints how many states it has seen. The random lives count in milliseconds, with delays, reordering, pictures from
//! the future and restarts through the memory's JSON.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod random;
mod search;
mod spec;
mod world;

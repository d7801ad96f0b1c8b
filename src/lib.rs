//! standoff watches camera streams and says, in metres, when things get too close.
//!
//! ARCHITECTURE.md says where things are, who owns what, and what must stay true. A module may import
//! only from rows further down in its map; `tests/tidy.rs` holds it to that.

pub mod album;
pub mod analysis;
pub mod audit;
pub mod backend;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod control;
pub mod daemon;
pub mod draw;
pub mod geometry;
pub mod heads;
pub mod heartbeat;
pub mod infer;
pub mod ingest;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod outbox;
pub mod pictures;
pub mod preprocess;
pub mod publish;
pub mod replay;
pub mod retrieval;
pub mod rules;
pub mod slot;
pub mod teach;
pub mod telemetry;
pub mod types;
pub mod view;

//! Sinks: what the outbox holds goes out to subscribers. Tokio tasks; they own their sockets.

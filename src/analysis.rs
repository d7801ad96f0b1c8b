//! The analysis thread: heads, geometry, rules and latches, and all state that is kept per camera.

//! The inference thread: owns the backend and assembles its batches.

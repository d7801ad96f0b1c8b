//! The same path over a clip in virtual time: deterministic, nothing dropped.

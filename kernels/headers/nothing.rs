//! A package must have a target; this one is never built.

//! Arguments, logging, dispatch, exit code.

fn main() {}

//! The YAML file: walked as a value tree so that every problem is named at once with its key path, and
//! resolved into types that cannot be wrong.

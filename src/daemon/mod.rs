//! Start and stop order of the daemon's threads and tasks.

//! A flag that one thread raises and others wait for: a sleep that can be ended.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Down until it is raised, then up for ever.
#[derive(Debug, Default)]
pub struct Flag {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    /// Raises it and wakes all who wait.
    pub fn raise(&self) {
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits up to `patience`; true once the flag is raised.
    pub fn wait(&self, patience: Duration) -> bool {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let (raised, _) = self
            .changed
            .wait_timeout_while(raised, patience, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        *raised
    }

    /// True once the flag is raised.
    pub fn is_raised(&self) -> bool {
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

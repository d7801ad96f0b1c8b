//! What the service manager (systemd, sd_notify(3)) is told. Without one nothing happens. No thread of its own.

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // Not worth more: systemd itself says what it misses (no start, no watchdog).
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Everything has been started, or a reload is over.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// How things are, for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Every part makes progress.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    // systemd 253 and newer wants the time; older ones pass over it. Reading this clock does not fail.
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// The end begins.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// How often the watchdog wants to be fed at least; none when there is none.
pub fn watchdog_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|every| !every.is_zero())
}

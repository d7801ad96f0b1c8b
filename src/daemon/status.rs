//! Says how the daemon itself is, every few seconds: how much waits, and whether events are safe.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::backend::recorded;
use crate::clock::{self, Timestamp};
use crate::metrics::METRICS;
use crate::outbox::{JournalState, Outbox, Statement};
use crate::types::{DaemonStatus, Report, RunsOn};

/// How often it is said; Home Assistant forgets it after several times as long.
const EVERY: Duration = Duration::from_secs(4);

/// Starts the task, on the present tokio runtime. It ends when `shutdown` becomes true.
pub(super) fn spawn(
    outbox: Arc<Outbox>,
    backend: Arc<OnceLock<RunsOn>>,
    mut shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let started = clock::monotonic();
    tokio::spawn(async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => outbox.say(Statement::Report(Report::Daemon(look(&outbox, &backend, started)))),
                // An error means that whoever could say so is gone.
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    })
}

fn look(outbox: &Outbox, backend: &OnceLock<RunsOn>, started: Timestamp) -> DaemonStatus {
    let now = clock::now();
    let backend = backend.get().cloned();
    for (name, waiting) in outbox.waiting_by_reader() {
        METRICS.events_waiting.of(&[&name]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
    DaemonStatus {
        recorded: backend.as_ref().is_some_and(|backend| backend.name.starts_with(recorded::NAME)),
        backend,
        uptime: now.mono.since(started),
        events_waiting: outbox.waiting(),
        events_dropped: outbox.dropped(),
        journal_problem: match outbox.journal() {
            JournalState::Sound => None,
            JournalState::Absent => Some("there is none".to_owned()),
            JournalState::Degraded(problem) => Some(problem),
        },
        journal_bytes: outbox.journal_bytes(),
        ts: now.utc,
    }
}

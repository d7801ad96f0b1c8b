//! Writes down in the audit log what goes through the outbox: events as their journal has them, and changes of the
//! cameras; and publishes the log's newest line now and then. A tokio task: it waits for nobody and nobody for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::audit::{Audit, Entry, Head};
use crate::clock::{self, Timestamp};
use crate::outbox::{Outbox, OutboxReader, Statement};
use crate::types::{CameraId, CameraState, CameraStatus, Reason, Report};

/// How often what could not be handed on is tried again.
const TICK: Duration = Duration::from_secs(1);
/// How often the newest line is published, when it has changed.
const HEAD_EVERY: Duration = Duration::from_secs(60);
/// Events that are handed on together.
const EVENTS_MAX: usize = 64;

/// Name of the outbox's reader.
pub const READER: &str = "audit";

/// Starts the task, on the present tokio runtime. Ends when `shutdown` becomes true or its sender is gone, after it
/// has handed on what was there.
pub fn spawn(
    audit: Audit,
    outbox: Arc<Outbox>,
    head: watch::Receiver<Option<Head>>,
    mut shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let reader = outbox.reader(READER);
    let mut scribe = Scribe { audit, outbox, reader, head, cameras: BTreeMap::new(), published: None };
    tokio::spawn(async move {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stop = tokio::select! {
                () = scribe.reader.changed() => false,
                _ = ticks.tick() => false,
                // An error means that whoever could say so is gone, which says the same.
                _ = shutdown.wait_for(|stop| *stop) => true,
            };
            scribe.take();
            if stop {
                return;
            }
            scribe.publish(clock::monotonic());
        }
    })
}

/// What makes two statements on a camera the same for the log.
type Said = (CameraState, Option<Reason>, Option<Reason>);

struct Scribe {
    audit: Audit,
    outbox: Arc<Outbox>,
    reader: OutboxReader,
    head: watch::Receiver<Option<Head>>,
    cameras: BTreeMap<CameraId, Said>,
    published: Option<(Timestamp, Head)>,
}

impl Scribe {
    fn take(&mut self) {
        for statement in self.reader.new_statements() {
            if let Statement::Camera(status) = statement {
                self.camera(&status);
            }
        }
        let now = clock::stamp();
        loop {
            let events = self.reader.pending_events(&now, EVENTS_MAX);
            let Some(last) = events.last().map(|waiting| waiting.number) else { return };
            for waiting in events {
                // When there is no room they stay in the outbox, and the next tick tries again.
                if !self.audit.offer(Entry::event(&waiting.event)) {
                    return;
                }
                self.reader.delivered(waiting.number, &now);
                if waiting.number == last {
                    break;
                }
            }
        }
    }

    fn camera(&mut self, status: &CameraStatus) {
        let said: Said = (status.state, status.reason, status.view.fault);
        if self.cameras.get(&status.camera) == Some(&said) {
            return;
        }
        self.cameras.insert(status.camera.clone(), said);
        let data = json!({
            "camera": status.camera,
            "state": status.state,
            "reason": status.reason,
            "view": status.view.fault,
            "detail": status.detail,
        });
        self.audit.note(Entry::new(status.ts, "camera", data));
    }

    fn publish(&mut self, now: Timestamp) {
        let Some(head) = self.head.borrow().clone() else { return };
        let due = self
            .published
            .as_ref()
            .is_none_or(|(when, published)| *published != head && now.since(*when) >= HEAD_EVERY);
        if due {
            let report = Report::Audit { n: head.n, hash: head.hash.clone(), ts: clock::utc() };
            self.published = Some((now, head));
            self.outbox.say(Statement::Report(report));
        }
    }
}

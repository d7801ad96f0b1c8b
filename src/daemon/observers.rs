//! What watches the daemon from inside: the console, the audit log, the proof test. Started after the sinks and before the model, so
//! that a slow start can be seen, and stopped before the sinks.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{FLUSH, LEAVE_WITHIN, proof_test, scribe, status};
use crate::analysis::Shadow;
use crate::audit::{self, Audit, Auditor, Entry};
use crate::clock;
use crate::config::Config;
use crate::console;
use crate::heartbeat::Heart;
use crate::outbox::Outbox;
use crate::slot::Slots;
use crate::types::RunsOn;

/// The running observers.
pub(super) struct Observers {
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    audit: Audit,
    auditor: Option<Auditor>,
    outbox: Arc<Outbox>,
    backend: Arc<OnceLock<RunsOn>>,
}

impl Observers {
    /// Starts those that the configuration wants.
    pub(super) fn start(
        config: &Config,
        runtime: &Runtime,
        outbox: &Arc<Outbox>,
        heart: &Arc<Heart>,
    ) -> std::io::Result<Self> {
        let (shutdown, stopped) = watch::channel(false);
        let _guard = runtime.enter();
        let mut tasks = vec![];
        let (mut audit, mut auditor) = (Audit::off(), None);
        if let Some(settings) = config.audit.clone() {
            let (to, thread) = audit::spawn(settings)?;
            to.note(Entry::started(clock::utc(), config.node.as_str(), &config.source.sha256));
            tasks.push(scribe::spawn(to.clone(), outbox.clone(), thread.head(), stopped.clone()));
            (audit, auditor) = (to, Some(thread));
        }
        let backend = Arc::new(OnceLock::new());
        if let Some(listen) = config.http {
            let wiring =
                console::Wiring { heart: heart.clone(), outbox: outbox.clone(), backend: backend.clone() };
            tasks.push(console::spawn(listen, wiring, stopped));
        }
        tasks.push(status::spawn(outbox.clone(), backend.clone(), shutdown.subscribe()));
        Ok(Self { shutdown, tasks, audit, auditor, outbox: outbox.clone(), backend })
    }

    /// Starts the proof test, when there is one; gives the camera on which the analysis makes it.
    pub(super) fn prove(&mut self, config: &Config, runtime: &Runtime, slots: &Arc<Slots>) -> Option<Shadow> {
        let every = config.proof_test?;
        // Recorded features hold nothing of the test's picture.
        if config.model.recorded.is_some() {
            return None;
        }
        let stale_after = config.cameras.iter().map(|camera| camera.stale_after).max()?;
        match proof_test::prepare(stale_after, &config.model.depth) {
            Ok((proof, shadow)) => {
                let _guard = runtime.enter();
                let (slots, outbox) = (slots.clone(), self.outbox.clone());
                self.tasks.push(proof_test::spawn(proof, every, slots, outbox, self.shutdown.subscribe()));
                Some(shadow)
            }
            Err(error) => {
                tracing::error!("no proof test: {error}");
                None
            }
        }
    }

    /// Where entries for the audit log go.
    pub(super) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Says that the model is loaded.
    pub(super) fn backend_is(&self, backend: RunsOn) {
        // Said once; a second word would be the same.
        let _ = self.backend.set(backend);
    }

    /// Writes down the last events and ends.
    pub(super) fn stop(self, runtime: &Runtime) {
        // What is not in the journal yet cannot be read from the outbox.
        self.outbox.flush(FLUSH);
        self.shutdown.send_replace(true);
        for task in self.tasks {
            if runtime.block_on(async { timeout(LEAVE_WITHIN, task).await }).is_err() {
                tracing::error!("a task that watches the daemon does not end; it is left behind");
            }
        }
        if let Some(auditor) = self.auditor {
            self.audit.note(Entry::stopped(clock::utc()));
            super::end(runtime, "audit", auditor.stop());
        }
    }
}

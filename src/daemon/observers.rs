//! What watches the daemon from inside: the console, the audit log. Started after the sinks and before the model, so
//! that a slow start can be seen, and stopped before the sinks.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{FLUSH, LEAVE_WITHIN, scribe, status};
use crate::audit::{self, Audit, Auditor, Entry};
use crate::clock;
use crate::config::Config;
use crate::console;
use crate::heartbeat::Heart;
use crate::outbox::Outbox;

/// The running observers.
pub(super) struct Observers {
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    audit: Audit,
    auditor: Option<Auditor>,
    outbox: Arc<Outbox>,
    backend: Arc<OnceLock<String>>,
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

    /// Where entries for the audit log go.
    pub(super) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Says that the model is loaded.
    pub(super) fn backend_is(&self, name: &str) {
        // Said once; a second word would be the same.
        let _ = self.backend.set(name.to_owned());
    }

    /// Writes down the last events and ends.
    pub(super) fn stop(self, runtime: &Runtime) {
        // What is not in the journal yet cannot be read from the outbox.
        self.outbox.flush(FLUSH);
        self.shutdown.send_replace(true);
        for task in self.tasks {
            if runtime.block_on(async { timeout(LEAVE_WITHIN, task).await }).is_err() {
                tracing::error!("the console or the audit's task does not end; it is left behind");
            }
        }
        if let Some(auditor) = self.auditor {
            self.audit.note(Entry::stopped(clock::utc()));
            super::end(runtime, "audit", auditor.stop());
        }
    }
}

//! The part of the MQTT sink that speaks to Home Assistant: announces what there is, again when Home Assistant
//! has started, and remembers on disk what was announced. What must be remembered is on disk before it is sent;
//! the disk is waited for beside the connection, never in its way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::announce::{Announcer, Memory, MemoryError};
use super::discovery::{HomeAssistant, Inventory, Mode};
use super::message::Message;
use crate::clock::Timestamp;
use crate::types::NodeId;

/// Home Assistant is not answered more often than this, however often it says that it has started.
const BIRTHS_APART: Duration = Duration::from_secs(2);

/// What the herald needs.
#[derive(Debug)]
pub struct Wiring {
    /// What there is to announce. May change.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// Where it is remembered what was announced.
    pub memory: PathBuf,
}

impl Wiring {
    /// Tells nobody anything, ever.
    pub fn off(node: NodeId) -> Self {
        let home_assistant = HomeAssistant { mode: Mode::Off, prefix: String::new() };
        let inventory = Inventory {
            home_assistant,
            node,
            valid_for: Duration::ZERO,
            remote_control: false,
            cameras: vec![],
        };
        Self { inventory: watch::channel(Arc::new(inventory)).1, memory: PathBuf::new() }
    }
}

enum Job {
    Load(JoinHandle<Result<Memory, MemoryError>>),
    Store(JoinHandle<Result<(), MemoryError>>),
}

pub(super) struct Herald {
    wiring: Wiring,
    /// None until it is known what was announced before.
    announcer: Option<Announcer>,
    job: Option<Job>,
    /// What is to be on disk and is not yet on its way there.
    to_store: Option<Memory>,
    /// Something is to be said that was not.
    news: bool,
    /// Everything was handed over in this connection.
    said: bool,
    born: Option<Timestamp>,
    /// Home Assistant has started and was not answered yet.
    answer_due: bool,
}

impl Herald {
    /// Begins to read what was announced before.
    pub(super) fn new(wiring: Wiring) -> Self {
        let path = wiring.memory.clone();
        let job = Some(Job::Load(spawn_blocking(move || Memory::load(&path))));
        Self {
            wiring,
            announcer: None,
            job,
            to_store: None,
            news: false,
            said: false,
            born: None,
            answer_due: false,
        }
    }

    /// Whether Home Assistant is spoken to.
    pub(super) fn is_on(&self) -> bool {
        self.wiring.inventory.borrow().home_assistant.mode != Mode::Off
    }

    /// Waits until there is something new to say. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            if let Some(job) = &mut self.job {
                let memory = match job {
                    Job::Load(job) => Some(loaded(job.await)),
                    Job::Store(job) => {
                        stored(job.await);
                        None
                    }
                };
                self.job = None;
                if let Some(memory) = memory {
                    self.announcer = Some(Announcer::new(memory));
                    self.follow();
                }
                self.store();
                if self.news && self.is_ready() {
                    return;
                }
            } else if self.wiring.inventory.changed().await.is_ok() {
                self.follow();
                self.store();
            } else {
                // The daemon is stopping; nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes over the present inventory.
    fn follow(&mut self) {
        let inventory = self.wiring.inventory.borrow_and_update().clone();
        if let Some(announcer) = &mut self.announcer {
            let memory = announcer.set(&inventory);
            // One who never spoke to Home Assistant has nothing to write down.
            if !announcer.is_idle() {
                self.to_store = Some(memory);
            }
            self.news = true;
            self.said = false;
        }
    }

    fn store(&mut self) {
        if self.job.is_none()
            && let Some(memory) = self.to_store.take()
        {
            let path = self.wiring.memory.clone();
            self.job = Some(Job::Store(spawn_blocking(move || memory.store(&path))));
        }
    }

    fn is_ready(&self) -> bool {
        self.announcer.is_some() && self.job.is_none() && self.to_store.is_none()
    }

    /// All that Home Assistant must hear. While it is not on disk yet what must be remembered of it, nothing: then
    /// [`Herald::changed`] says when it is time.
    pub(super) fn messages(&mut self) -> Vec<Message> {
        let is_ready = self.is_ready();
        self.news = !is_ready;
        match &self.announcer {
            Some(announcer) if is_ready => {
                self.said = true;
                announcer.messages()
            }
            _ => vec![],
        }
    }

    /// A new connection: nothing was said in it.
    pub(super) fn begin(&mut self) {
        self.said = false;
    }

    /// The broker has acknowledged everything that was handed over.
    pub(super) fn all_arrived(&mut self) {
        if self.said
            && let Some(announcer) = &mut self.announcer
        {
            self.said = false;
            if let Some(memory) = announcer.delivered() {
                self.to_store = Some(memory);
                self.store();
            }
        }
    }

    /// Takes what Home Assistant says of itself. A retained message is of the past.
    pub(super) fn hear(&mut self, payload: &[u8], retained: bool) {
        self.answer_due |= payload == b"online" && !retained;
    }

    /// Whether Home Assistant is to be answered now.
    pub(super) fn is_born(&mut self, now: Timestamp) -> bool {
        let is_time = self.born.is_none_or(|last| now.since(last) >= BIRTHS_APART);
        if !(self.answer_due && is_time && self.is_on()) {
            return false;
        }
        self.answer_due = false;
        self.born = Some(now);
        true
    }
}

fn loaded(result: Result<Result<Memory, MemoryError>, JoinError>) -> Memory {
    match result {
        Ok(Ok(memory)) => memory,
        Ok(Err(error)) => {
            tracing::warn!(%error, "what was announced to Home Assistant before is not known");
            Memory::default()
        }
        Err(error) => {
            tracing::error!(%error, "what was announced to Home Assistant before could not be read");
            Memory::default()
        }
    }
}

fn stored(result: Result<Result<(), MemoryError>, JoinError>) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "after a restart it will not be known what Home Assistant was told");
        }
        Err(error) => tracing::error!(%error, "what Home Assistant was told could not be written"),
    }
}

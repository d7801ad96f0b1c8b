//! Which discovery messages go out, and which are taken back: what was announced once and is no longer
//! configured must leave Home Assistant, also after a restart. Plain; [`Memory`] is what must survive.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::discovery::{self, Announced, Inventory};
use super::message::Message;

/// Removed components of one device that are remembered.
const REMOVED_MAX: usize = 256;

/// Topics that are remembered; a file with more is not ours.
const TOPICS_MAX: usize = 10_000;

/// Components of a device by key: their platforms. Empty for the message of a single entity.
type Components = BTreeMap<String, String>;

/// What Home Assistant may know of us: the retained discovery messages that may lie on the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    topics: BTreeMap<String, Components>,
}

/// Why the memory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file could not be read or written.
    #[error("{what} '{path}': {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what we wrote.
    #[error(
        "'{path}' is damaged ({problem}); entities that are no longer configured must be removed by hand"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Memory {
    /// Reads the file; one that does not exist is empty. Errors when it cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<Self, MemoryError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(io_error("cannot read", path, source)),
        };
        let damaged = |problem: String| MemoryError::Damaged { path: path.display().to_string(), problem };
        let memory: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        // Each of these topics will be emptied, so they had better be ours.
        let ours = |topic: &str| topic.ends_with("/config") && !topic.contains(['#', '+', '\0']);
        if memory.topics.len() > TOPICS_MAX || !memory.topics.keys().all(|topic| ours(topic)) {
            return Err(damaged("it names topics that are not ours".to_owned()));
        }
        Ok(memory)
    }

    /// Writes the file in place of the old one: after a crash it is one or the other.
    pub fn store(&self, path: &Path) -> Result<(), MemoryError> {
        let failed = |source| io_error("cannot write", path, source);
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let unfinished = path.with_extension("unfinished");
        let mut file = std::fs::File::create(&unfinished).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&unfinished, path).map_err(failed)
    }
}

fn io_error(what: &'static str, path: &Path, source: std::io::Error) -> MemoryError {
    MemoryError::Io { what, path: path.display().to_string(), source }
}

/// Says what there is and takes back what was.
#[derive(Debug, Default)]
pub struct Announcer {
    memory: Memory,
    current: Vec<Announced>,
}

impl Announcer {
    /// With what was announced before, as far as it is known.
    pub fn new(memory: Memory) -> Self {
        Self { memory, current: vec![] }
    }

    /// From now on this is what there is. Returns what must be on disk before any of it is sent, so that a crash
    /// between the two forgets nothing.
    pub fn set(&mut self, inventory: &Inventory) -> Memory {
        self.current = discovery::announce(inventory);
        for announced in &self.current {
            let known = self.memory.topics.entry(announced.topic.clone()).or_default();
            // A component that is in both may have changed its platform; then the old one cannot be taken back.
            known.extend(announced.components.clone());
            while known.len() > announced.components.len() + REMOVED_MAX {
                let Some(gone) = known.keys().find(|key| !announced.components.contains_key(*key)).cloned()
                else {
                    break;
                };
                known.remove(&gone);
            }
        }
        self.memory.clone()
    }

    /// Whether there is anything to say.
    pub fn is_idle(&self) -> bool {
        self.current.is_empty() && self.memory.topics.is_empty()
    }

    /// All that Home Assistant must hear, in order. A device or an entity that moves from one way of discovery to
    /// the other keeps its history: Home Assistant is told before, and the old message goes after the new one.
    pub fn messages(&self) -> Vec<Message> {
        let is_current = |topic: &str| self.current.iter().any(|announced| announced.topic == topic);
        let old: Vec<&String> = self.memory.topics.keys().filter(|topic| !is_current(topic)).collect();
        let (moved, removed): (Vec<&String>, Vec<&String>) =
            old.into_iter().partition(|topic| self.moves(topic));
        let empty = |topic: &&String| message(topic, vec![], true);
        let mut messages: Vec<Message> = removed.iter().map(empty).collect();
        messages
            .extend(moved.iter().map(|topic| message(topic, br#"{"migrate_discovery":true}"#.into(), false)));
        messages.extend(
            self.current.iter().map(|announced| message(&announced.topic, self.payload(announced), true)),
        );
        messages.extend(moved.iter().map(empty));
        messages
    }

    /// All of [`Announcer::messages`] has arrived: what was taken back need not be remembered. Returns what is to
    /// be stored, if that is news.
    pub fn delivered(&mut self) -> Option<Memory> {
        let before = self.memory.topics.len();
        let current = &self.current;
        self.memory.topics.retain(|topic, _| current.iter().any(|announced| announced.topic == *topic));
        (self.memory.topics.len() != before).then(|| self.memory.clone())
    }

    /// Whether what was announced on this topic is announced on another now.
    fn moves(&self, topic: &str) -> bool {
        let Some((_, kind, rest)) = split(topic) else { return false };
        self.current.iter().filter_map(|announced| split(&announced.topic)).any(|(_, now, here)| {
            let device = |rest: &str| rest.split('/').next().unwrap_or_default().to_owned();
            match (kind == "device", now == "device") {
                (true, false) => device(here) == rest,
                (false, true) => here == device(rest),
                _ => false,
            }
        })
    }

    /// The payload, with what was removed of a device named by its platform alone: that removes it.
    fn payload(&self, announced: &Announced) -> Vec<u8> {
        let mut payload = announced.payload.clone();
        if let (Some(Value::Object(components)), Some(known)) =
            (payload.get_mut("components"), self.memory.topics.get(&announced.topic))
        {
            for (key, platform) in known {
                components.entry(key.clone()).or_insert_with(|| json!({"platform": platform}));
            }
        }
        to_vec(&payload)
    }
}

/// Prefix, kind and rest of a discovery topic: `homeassistant`, `device`, `standoff_north_dock`.
fn split(topic: &str) -> Option<(&str, &str, &str)> {
    let body = topic.strip_suffix("/config")?;
    let at = body.find("/standoff_")?;
    let (head, rest) = (body.get(..at)?, body.get(at + 1..)?);
    let (prefix, kind) = head.rsplit_once('/')?;
    Some((prefix, kind, rest))
}

fn message(topic: &str, payload: Vec<u8>, retain: bool) -> Message {
    Message { topic: topic.to_owned(), payload, qos: 1, retain, expiry: None }
}

fn to_vec(payload: &Map<String, Value>) -> Vec<u8> {
    // Text and numbers with text for keys cannot fail to be JSON.
    serde_json::to_vec(payload).unwrap_or_default()
}

#[cfg(test)]
mod tests;

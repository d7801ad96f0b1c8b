//! What the daemon says of itself beside its health: things that a person or a machine keeps elsewhere.

use std::time::Duration;

use serde::Serialize;

use crate::clock::UtcMillis;

/// Replaces the report of the same kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The newest line of the audit log.
    Audit {
        /// Its number.
        n: u64,
        /// Its hash, hex.
        hash: String,
        /// When this was said.
        ts: UtcMillis,
    },
    /// The last proof test.
    Proof(ProofReport),
    /// How the daemon itself is.
    Daemon(DaemonStatus),
}

/// What the backbone runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsOn {
    /// Name of the backend, with version.
    pub name: String,
    /// Why a better one, which was expected, does not run.
    pub problem: Option<String>,
}

/// How the daemon itself is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonStatus {
    /// What the backbone runs on; none while it is being opened.
    pub backend: Option<RunsOn>,
    /// Whether recorded features answer, so that no camera is looked at.
    pub recorded: bool,
    /// Since the start.
    pub uptime: Duration,
    /// Events that at least one reader has not taken.
    pub events_waiting: u64,
    /// Events that a reader never got.
    pub events_dropped: u64,
    /// What is wrong with the journal; none when every event is on disk before it is sent.
    pub journal_problem: Option<String>,
    /// Bytes of the journal that are still needed.
    pub journal_bytes: u64,
    /// When this was said.
    pub ts: UtcMillis,
}

/// How far a proof test came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofStage {
    /// The picture was put where cameras put theirs.
    #[default]
    Injected,
    /// It went through the model.
    Inferred,
    /// The rule found it too near.
    Alarmed,
    /// The broker has acknowledged the event.
    Acknowledged,
}

/// How far a proof test is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProofProgress {
    /// The last stage that it has passed.
    pub stage: ProofStage,
    /// Why it goes no farther.
    pub reason: Option<String>,
    /// The event that it has become.
    pub event_id: Option<String>,
}

/// How a proof test ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ProofReport {
    /// Whether the event arrived.
    pub ok: bool,
    /// How far it came.
    pub stage: ProofStage,
    /// Why it came no farther.
    pub reason: Option<String>,
    /// From injection until it arrived or was given up, milliseconds.
    pub took_ms: u64,
    /// When it ended.
    pub ts: UtcMillis,
}

impl ProofStage {
    /// The stage's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Inferred => "inferred",
            Self::Alarmed => "alarmed",
            Self::Acknowledged => "acknowledged",
        }
    }
}

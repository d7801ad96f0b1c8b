//! The proof test: now and then a picture of a near-miss goes the way of every picture (slot, model, heads, geometry,
//! rule, outbox, journal, broker), and the broker's acknowledgement is waited for. A tokio task; it looks at the whole
//! path from outside and touches no camera.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::analysis::{CameraSetup, Shadow};
use crate::clock::{self, Timestamp};
use crate::config::{Config, Surroundings};
use crate::heads::other_depth;
use crate::ingest::stills;
use crate::metrics::METRICS;
use crate::model::depth::DepthSource;
use crate::outbox::{Outbox, Statement};
use crate::slot::Slots;
use crate::types::{CameraId, Frame, PROOF_CAMERA, ProofProgress, ProofReport, ProofStage, Report};

/// Frame 220 of the dock clip, rendered: its forklift stands 0.24 m from the edge.
const PICTURE: &[u8] = include_bytes!("proof_test/near-miss.jpg");
/// Its camera.
const SCENE: &str = include_str!("proof_test/near-miss.yaml");

/// How long after the start the first test is.
const FIRST: Duration = Duration::from_secs(15);
/// After how long a test is given up: a slow model takes seconds, a broker that is away longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there can be no proof test. Either is a fault of the build.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The scene is not accepted.
    #[error("the proof test's own scene is not usable: {0}")]
    Scene(String),
    /// The picture is not.
    #[error("the proof test's own picture is not usable: {0}")]
    Picture(#[from] crate::ingest::IngestError),
    /// A head is not.
    #[error(transparent)]
    Head(#[from] crate::heads::HeadError),
}

/// The picture and the rule.
pub(super) struct Proof {
    frame: Frame,
    progress: watch::Sender<ProofProgress>,
    patience: Duration,
}

/// The test and the camera on which the analysis makes it. Evidence is stale after the same time as the site's.
pub(super) fn prepare(stale_after: Duration, depth: &DepthSource) -> Result<(Proof, Shadow), ProofError> {
    let scene = |error: &dyn std::fmt::Display| ProofError::Scene(error.to_string());
    let around = Surroundings { file: "near-miss.yaml".into(), ..Surroundings::default() };
    let config = Config::parse(SCENE, &around).map_err(|problems| scene(&problems))?;
    let camera = config.cameras.into_iter().next().ok_or_else(|| scene(&"it has no camera"))?;
    let id = CameraId::new(PROOF_CAMERA).map_err(|error| scene(&error))?;
    let heads = other_depth::heads(
        depth,
        &camera.site.pairs.iter().map(|pair| pair.from.clone()).collect::<Vec<_>>(),
    )?;
    let mut rules = camera.rules;
    for rule in &mut rules {
        rule.latch.stale_after = stale_after;
    }
    let setup = CameraSetup { id: id.clone(), site: camera.site, rules, view: camera.view, profile: None };
    let frame = stills::decode(PICTURE, "near-miss.jpg".as_ref(), &id, 0, Timestamp::default())?;
    let progress = watch::Sender::new(ProofProgress::default());
    let shadow = Shadow::new(heads, setup, progress.clone(), clock::now());
    Ok((Proof { frame, progress, patience: PATIENCE }, shadow))
}

/// Starts the task, on the present tokio runtime. Ends when `shutdown` becomes true or its sender is gone.
pub(super) fn spawn(
    proof: Proof,
    every: Duration,
    slots: Arc<Slots>,
    outbox: Arc<Outbox>,
    mut shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut pause = FIRST;
        let mut seq = 0;
        // An end of the wait means that the daemon stops.
        while timeout(pause, shutdown.wait_for(|stop| *stop)).await.is_err() {
            pause = every;
            seq += 1;
            let report = tokio::select! {
                report = proof.test(seq, &slots, &outbox) => report,
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            note(&report);
            outbox.say(Statement::Report(Report::Proof(report)));
        }
    })
}

impl Proof {
    async fn test(&self, seq: u64, slots: &Slots, outbox: &Outbox) -> ProofReport {
        let started = clock::now();
        let mut progress = self.progress.subscribe();
        let mut proven = outbox.proven();
        self.progress.send_replace(ProofProgress::default());
        slots.put(Frame {
            seq,
            captured: started.mono,
            captured_utc: started.utc,
            arrived: started.mono,
            ..self.frame.clone()
        });
        let arrives = async {
            // Neither ends: the senders are ours and the outbox's.
            let decided =
                progress.wait_for(|progress| progress.reason.is_some() || progress.event_id.is_some());
            let event_id = decided.await.ok().and_then(|progress| progress.event_id.clone());
            match event_id {
                Some(id) => proven.wait_for(|proven| proven.as_ref() == Some(&id)).await.is_ok(),
                None => false,
            }
        };
        let arrived = timeout(self.patience, arrives).await.unwrap_or(false);
        let ended = clock::now();
        let ProofProgress { stage, reason, event_id } = self.progress.borrow().clone();
        let waited = format!("within {} s", self.patience.as_secs());
        let (stage, reason) = match (arrived, reason, event_id) {
            (true, ..) => (ProofStage::Acknowledged, None),
            (false, Some(reason), _) => (stage, Some(reason)),
            (false, None, Some(_)) => {
                (stage, Some(format!("the broker has not acknowledged the event {waited}")))
            }
            (false, None, None) => (stage, Some(format!("the picture did not come through {waited}"))),
        };
        let took_ms = u64::try_from(ended.mono.since(started.mono).as_millis()).unwrap_or(u64::MAX);
        ProofReport { ok: arrived, stage, reason, took_ms, ts: ended.utc }
    }
}

fn note(report: &ProofReport) {
    METRICS.proof_test_ok.set(i64::from(report.ok));
    let result = if report.ok { "ok" } else { report.stage.as_str() };
    METRICS.proof_tests.of(&[&result]).inc();
    if report.ok {
        METRICS.proof_test.set(Duration::from_millis(report.took_ms).as_secs_f64());
        tracing::info!(took_ms = report.took_ms, "the proof test arrived at the broker");
    } else {
        let reason = report.reason.as_deref().unwrap_or_default();
        tracing::error!(
            stage = report.stage.as_str(),
            took_ms = report.took_ms,
            "the proof test did not arrive: {reason}; a real alarm might not either"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_scene_and_picture_are_usable() {
        let (proof, _shadow) = prepare(Duration::from_secs(1), &DepthSource::Shipped).unwrap();
        assert_eq!((proof.frame.width, proof.frame.height), (640, 360));
        assert_eq!(proof.frame.camera.as_str(), PROOF_CAMERA);
    }

    #[test]
    fn a_picture_that_nobody_takes_is_said_to_be_stuck() {
        let (mut proof, _shadow) = prepare(Duration::from_secs(1), &DepthSource::Shipped).unwrap();
        proof.patience = Duration::from_millis(100);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (slots, outbox) = (Slots::default(), Outbox::default());
        let report = runtime.block_on(proof.test(1, &slots, &outbox));
        assert_eq!((report.ok, report.stage), (false, ProofStage::Injected));
        assert!(report.reason.unwrap().contains("did not come through"), "{:?}", report.stage);
        assert_eq!(slots.take(crate::slot::Batching::up_to(1), Duration::ZERO).len(), 1);
    }

    #[test]
    fn a_refusal_of_the_rule_is_the_reason() {
        let (proof, shadow) = prepare(Duration::from_secs(1), &DepthSource::Shipped).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (slots, outbox) = (Slots::default(), Outbox::default());
        let report = runtime.block_on(async {
            let refuse = async {
                tokio::task::yield_now().await;
                shadow.refuse("measured 4.2 m");
            };
            tokio::join!(proof.test(1, &slots, &outbox), refuse).0
        });
        assert_eq!((report.ok, report.stage), (false, ProofStage::Inferred));
        assert_eq!(report.reason.as_deref(), Some("measured 4.2 m"));
    }
}

//! The same path over a clip in virtual time: every frame goes through backend and analysis, `now` being the
//! frame's time plus a fixed delay. No threads, no slots, nothing dropped: the same clip gives the same
//! transitions every time.

pub mod score;
pub mod truth;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::analysis::{Analysis, Output, Surroundings, TICK};
use crate::backend::{Backend, BackendError};
use crate::clock::{Now, Timestamp, UtcMillis};
use crate::infer::Closer;
use crate::ingest::IngestError;
use crate::types::{Batch, CameraHealth, CameraId, CameraState, Frame, Snapshot, Transition};

/// How long after its capture a frame is taken to be analysed.
const DELAY: Duration = Duration::from_millis(200);

/// Why a replay ended before the clip did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The clip could not be read.
    #[error(transparent)]
    Clip(#[from] IngestError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// One analysed frame of the clip.
#[derive(Debug)]
pub struct Step {
    /// Number of the frame in the clip, from 0.
    pub index: usize,
    /// Its presentation time in seconds.
    pub t_s: f64,
    /// What was seen.
    pub snapshot: Arc<Snapshot>,
    /// What changed since the step before, ticks included.
    pub transitions: Vec<Transition>,
}

/// Plays the clip's frames for one camera of the analysis and hands every step to `on_step`.
///
/// Errors when a frame cannot be read or inferred: in a replay that is a failure, not a gap.
pub fn run(
    frames: impl Iterator<Item = Result<Frame, IngestError>>,
    camera: &CameraId,
    backend: &mut dyn Backend,
    closer: &mut Closer,
    analysis: &mut Analysis,
    mut on_step: impl FnMut(Step),
) -> Result<(), ReplayError> {
    let around = surroundings(camera);
    let mut ticked = Timestamp::default();
    let mut transitions = vec![];
    for (index, frame) in frames.enumerate() {
        let frame = frame?;
        let captured = frame.captured;
        let now = at(captured + DELAY);
        while ticked + TICK < now.mono {
            ticked = ticked + TICK;
            transitions.extend(analysis.tick(at(ticked), &around).transitions);
        }
        let mut seen = backend.infer(&Batch { frames: vec![frame] })?;
        // Virtual time has all the time for closer looks.
        closer.look(backend, &mut seen, usize::MAX)?;
        for features in seen {
            let Output { transitions: new, snapshot, .. } = analysis.step(now, features, &around);
            transitions.extend(new);
            if let Some(snapshot) = snapshot {
                let t_s = Duration::from_nanos(captured.as_nanos()).as_secs_f64();
                let snapshot = Arc::new(snapshot);
                on_step(Step { index, t_s, snapshot, transitions: std::mem::take(&mut transitions) });
            }
        }
    }
    Ok(())
}

/// Virtual time: the clip begins at the epoch.
fn at(mono: Timestamp) -> Now {
    let millis = i64::try_from(mono.as_nanos() / 1_000_000).unwrap_or(i64::MAX);
    Now { mono, utc: UtcMillis(millis) }
}

fn surroundings(camera: &CameraId) -> Surroundings {
    let live = CameraHealth {
        state: CameraState::Live,
        reason: None,
        detail: "replay".into(),
        since: Timestamp::default(),
        connects: 1,
    };
    Surroundings { health: BTreeMap::from([(camera.clone(), live)]), ..Surroundings::default() }
}

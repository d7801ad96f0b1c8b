//! Plays a clip at its own pace as if it were live, on the camera's thread. A picture is taken at the moment
//! it is due: when decoding cannot keep up, its frames are honestly old.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::IngestError;
use super::clip::Clip;
use super::supervisor::Camera;
use crate::clock::{self, Timestamp};
use crate::types::Frame;

/// How a playing ended.
pub(super) enum Played {
    /// All frames were played, and the last one for its time.
    ToTheEnd,
    /// The camera was stopped.
    Stopped,
}

pub(super) fn play(
    camera: &Camera,
    mut clip: Clip,
    live_since: &mut Option<Timestamp>,
) -> Result<Played, IngestError> {
    let start = clock::monotonic();
    let frame_interval = Duration::from_secs_f64(1.0 / clip.fps().unwrap_or(10.0).max(0.01));
    let mut end = start;
    let mut first = true;
    for frame in &mut clip {
        let frame = frame?;
        let due = start + frame.captured.since(Timestamp::default());
        if camera.stop.wait(due.since(clock::monotonic())) {
            return Ok(Played::Stopped);
        }
        let now = clock::now();
        let captured = due.minus(camera.latency);
        camera.slots.put(Frame {
            seq: camera.seq.fetch_add(1, Ordering::Relaxed),
            captured,
            captured_utc: now.utc_of(captured),
            arrived: now.mono,
            ..frame
        });
        end = due + frame_interval;
        if std::mem::take(&mut first) && live_since.is_none() {
            *live_since = Some(now.mono);
            camera.connected();
        }
    }
    match camera.stop.wait(end.since(clock::monotonic())) {
        true => Ok(Played::Stopped),
        false => Ok(Played::ToTheEnd),
    }
}

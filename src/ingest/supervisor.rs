//! The loop of the thread `camera-<id>`: an attempt, its end, a wait, the next attempt. Says on the health
//! board what happens; a camera that was refused or lost keeps that reason until it is live again, so that
//! the reason does not flap with the attempts.

use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backoff::{Backoff, Repeats, Say};
use super::clip::Clip;
use super::flag::Flag;
use super::{CameraSource, IngestError, Reader, paced};
use crate::clock::{self, Timestamp};
use crate::metrics::METRICS;
use crate::slot::{HealthBoard, Slots};
use crate::types::{CameraHealth, CameraId, CameraState, Reason};

/// How long a stopped camera may take to let go.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Why an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// `Backoff`, `Refused` or `Ended`.
    pub state: CameraState,
    /// Why.
    pub reason: Reason,
    /// One line for people that names the camera and holds no secret.
    pub detail: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    /// The handle was stopped.
    Stopped,
    /// Something is wrong, or the clip is at its end.
    Fault(Fault),
}

/// What one camera's thread and its pipeline share.
#[derive(Debug)]
pub(super) struct Camera {
    pub id: CameraId,
    pub latency: Duration,
    /// Who reads the pictures.
    #[cfg_attr(not(feature = "gstreamer"), expect(dead_code, reason = "image folders have no decoder"))]
    pub reader: Reader,
    /// The GPU's decoder failed: from then on the CPU decodes.
    #[cfg_attr(not(feature = "gstreamer"), expect(dead_code, reason = "image folders have no decoder"))]
    pub gpu_failed: AtomicBool,
    pub slots: Arc<Slots>,
    /// Numbers the frames across sessions.
    pub seq: AtomicU64,
    pub stop: Flag,
    done: Flag,
    /// It was stopped, did not let go and was left behind: what it says does not count any more.
    left_behind: AtomicBool,
    board: Arc<HealthBoard>,
    health: Mutex<Option<CameraHealth>>,
    connects: AtomicU64,
}

impl Camera {
    /// Says how the camera is; the first word of a state or reason is logged by the caller.
    pub fn say(&self, state: CameraState, reason: Option<Reason>, detail: &str) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let connects = self.connects.load(Ordering::Relaxed);
        let since = match health.as_ref() {
            Some(old) if old.state == state && old.reason == reason => old.since,
            _ => clock::monotonic(),
        };
        let new = CameraHealth { state, reason, detail: detail.to_owned(), since, connects };
        if health.as_ref() != Some(&new) {
            *health = Some(new.clone());
            drop(health);
            if !self.left_behind.load(Ordering::Relaxed) {
                self.board.set(&self.id, new);
            }
        }
    }

    /// Counts a connection and says that the camera is live.
    pub fn connected(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.say(CameraState::Live, None, "live");
    }
}

/// A running camera. Stops when dropped.
#[derive(Debug)]
pub struct CameraHandle {
    camera: Arc<Camera>,
    thread: Option<JoinHandle<()>>,
}

impl CameraHandle {
    /// The camera.
    pub fn camera(&self) -> &CameraId {
        &self.camera.id
    }

    /// Ends the stream and joins the thread, within 2 s. The camera's frame and health stay where they are.
    pub fn stop(mut self) {
        self.join_by(clock::monotonic() + STOP_WITHIN);
    }

    /// Asks the stream to end, and waits for nothing.
    pub(super) fn ask_to_stop(&self) {
        self.camera.stop.raise();
    }

    /// As [`CameraHandle::stop`], with another deadline.
    pub(super) fn stop_by(mut self, by: Timestamp) {
        self.join_by(by);
    }

    fn join_by(&mut self, by: Timestamp) {
        self.ask_to_stop();
        let Some(thread) = self.thread.take() else { return };
        if !self.camera.done.wait(by.since(clock::monotonic())) {
            // A plugin that hangs must not hang the daemon's stop or reload; its thread is left behind.
            self.camera.left_behind.store(true, Ordering::Relaxed);
            tracing::warn!(camera = %self.camera.id, "the camera's pipeline does not stop; it is left behind");
            return;
        }
        if thread.join().is_err() {
            tracing::error!(camera = %self.camera.id, "the camera's thread had panicked");
        }
    }
}

impl Drop for CameraHandle {
    fn drop(&mut self) {
        self.join_by(clock::monotonic() + STOP_WITHIN);
    }
}

pub(super) fn spawn(
    id: CameraId,
    source: CameraSource,
    latency: Duration,
    reader: Reader,
    slots: Arc<Slots>,
    board: Arc<HealthBoard>,
) -> Result<CameraHandle, IngestError> {
    ready(&id, &source)?;
    let camera = Arc::new(Camera {
        id: id.clone(),
        latency,
        reader,
        gpu_failed: AtomicBool::new(false),
        slots,
        seq: AtomicU64::new(0),
        stop: Flag::default(),
        done: Flag::default(),
        left_behind: AtomicBool::new(false),
        board,
        health: Mutex::new(None),
        connects: AtomicU64::new(0),
    });
    camera.say(CameraState::Connecting, Some(Reason::Connecting), "connecting");
    let thread = std::thread::Builder::new()
        .name(format!("camera-{id}"))
        .spawn({
            let camera = camera.clone();
            move || {
                let span = tracing::info_span!("camera", camera = %camera.id);
                span.in_scope(|| supervise(&camera, &source));
                camera.done.raise();
            }
        })
        .map_err(|e| IngestError::Thread { camera: id, problem: e.to_string() })?;
    Ok(CameraHandle { camera, thread: Some(thread) })
}

#[cfg(feature = "gstreamer")]
pub(super) fn ready(id: &CameraId, source: &CameraSource) -> Result<(), IngestError> {
    match source {
        CameraSource::Rtsp(_) => super::pipeline::require_rtsp(id),
        CameraSource::File { .. } => super::pipeline::require_file(id),
        CameraSource::Images { .. } => Ok(()),
    }
}

#[cfg(not(feature = "gstreamer"))]
pub(super) fn ready(id: &CameraId, source: &CameraSource) -> Result<(), IngestError> {
    match source {
        CameraSource::Rtsp(_) | CameraSource::File { .. } => {
            Err(IngestError::NoGstreamer { camera: id.clone() })
        }
        CameraSource::Images { .. } => Ok(()),
    }
}

fn supervise(camera: &Arc<Camera>, source: &CameraSource) {
    let mut backoff = Backoff::default();
    let mut repeats = Repeats::default();
    loop {
        let mut live_since = None;
        let fault = match attempt(camera, source, &mut live_since) {
            End::Stopped => break,
            End::Fault(fault) => fault,
        };
        let now = clock::monotonic();
        if let Some(since) = live_since {
            backoff.lived(now.since(since));
            repeats.clear();
        }
        camera.say(fault.state, Some(fault.reason), &fault.detail);
        METRICS.camera_reconnects.of(&[&camera.id, &fault.reason]).inc();
        if fault.state == CameraState::Ended {
            tracing::info!(reason = %fault.reason, "{}", fault.detail);
            camera.stop.wait(Duration::MAX);
            break;
        }
        let refused = fault.state == CameraState::Refused;
        let delay = backoff.delay(now, refused, random());
        match repeats.note(now, fault.reason, &fault.detail) {
            Say::New => {
                tracing::warn!(reason = %fault.reason, retry_s = delay.as_secs_f64(), "{}", fault.detail)
            }
            Say::Again(times) => tracing::warn!(reason = %fault.reason, times, "still: {}", fault.detail),
            Say::Nothing => tracing::debug!(reason = %fault.reason, "{}", fault.detail),
        }
        if camera.stop.wait(delay) {
            break;
        }
        camera.say(CameraState::Connecting, Some(fault.reason), &format!("trying again; {}", fault.detail));
    }
    camera.say(CameraState::Ended, Some(Reason::Stopping), "stopped");
}

/// One attempt. `live_since` is set when the first frame has come.
fn attempt(camera: &Arc<Camera>, source: &CameraSource, live_since: &mut Option<Timestamp>) -> End {
    match source {
        #[cfg(feature = "gstreamer")]
        CameraSource::Rtsp(rtsp) => super::session::run(camera, rtsp, live_since),
        #[cfg(not(feature = "gstreamer"))]
        CameraSource::Rtsp(_) => End::Fault(broken(&IngestError::NoGstreamer { camera: camera.id.clone() })),
        CameraSource::File { path, loop_ } => play(camera, path, None, *loop_, live_since),
        CameraSource::Images { dir, fps, loop_ } => play(camera, dir, Some(*fps), *loop_, live_since),
    }
}

fn play(
    camera: &Camera,
    path: &Path,
    fps: Option<f64>,
    loop_: bool,
    live_since: &mut Option<Timestamp>,
) -> End {
    loop {
        let clip = match fps {
            Some(fps) => Clip::open_images(path, camera.id.clone(), fps),
            None => Clip::open(path, camera.id.clone()),
        };
        match clip.and_then(|clip| paced::play(camera, clip, live_since)) {
            Ok(paced::Played::Stopped) => return End::Stopped,
            Ok(paced::Played::ToTheEnd) if loop_ => {}
            Ok(paced::Played::ToTheEnd) => {
                return End::Fault(Fault {
                    state: CameraState::Ended,
                    reason: Reason::EndOfClip,
                    detail: format!("camera '{}': '{}' is at its end", camera.id, path.display()),
                });
            }
            Err(error) => return End::Fault(broken(&error)),
        }
    }
}

/// A file does not mend itself in a second: it is tried again as slowly as a camera that refuses.
fn broken(error: &IngestError) -> Fault {
    let reason = match error {
        IngestError::NotFound { .. } => Reason::NotFound,
        _ => Reason::Unsupported,
    };
    Fault { state: CameraState::Refused, reason, detail: error.to_string() }
}

/// 0 to 1, to spread retries. The standard library's hasher keys are random, which is enough for that.
fn random() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

//! One attempt at a network camera, on the thread `camera-<id>`: builds the pipeline, watches its bus and the
//! age of its last frame, and tears it down. The appsink's callback runs on a thread of GStreamer: it maps,
//! stamps and puts, and must not wait.
//!
//! A stalled TCP link shows nothing at all on the bus, so the timer here is the authority. Frames that come
//! back end a stall; a stall that lasts 3 s more ends the session.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::age::CaptureClock;
use super::backoff::{Repeats, Say};
use super::decoder::Decoder;
use super::encoded::Encoded;
use super::fault::Seen;
use super::pipeline::{self, Codec};
use super::sample::{self, SampleError};
use super::supervisor::{Camera, End, Fault};
use super::{Decode, IngestError, RtspSource};
use crate::clock::{self, Timestamp};
use crate::types::{CameraState, Frame, Reason};

/// How often the timers are looked at.
const POLL: gst::ClockTime = gst::ClockTime::from_mseconds(50);
/// A stream is stalled after five frame intervals, but not before this ...
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// ... and not after this, however slow it is.
const STALLED_AT_LAST: Duration = Duration::from_secs(10);
/// How much longer a stall may last before a new connection is tried.
const STALL_ENDS_SESSION: Duration = Duration::from_secs(3);

/// A conforming decoder holds back at most 16 pictures (H.264 and H.265, annex C: the picture buffer's size); one that
/// was given more and gave none does not work.
const HELD_BACK: u64 = 16;

/// How long it may take to: some decode on threads of their own.
const STARVED_FOR: Duration = Duration::from_secs(1);

/// What the pipeline's threads tell the camera's thread.
#[derive(Debug, Default)]
struct Progress {
    frames: AtomicU64,
    last_arrival: AtomicU64,
    interval_ns: AtomicU64,
    decoder: OnceLock<Decoder>,
    /// The pipeline's error was one of decoding, not of the network.
    decoding_failed: AtomicBool,
    lag_lasts: AtomicBool,
    broken: AtomicU64,
    /// A codec or layout that is not read.
    unsupported: OnceLock<String>,
    encoded: Arc<Encoded>,
    certificate: OnceLock<String>,
    failed: OnceLock<IngestError>,
}

impl Progress {
    fn stalled_after(&self) -> Duration {
        (Duration::from_nanos(self.interval_ns.load(Ordering::Relaxed)) * 5)
            .clamp(STALLED_AFTER, STALLED_AT_LAST)
    }

    /// Whether the GPU's decoder has taken more pictures than it may hold back. The CPU's is not suspected: what it
    /// cannot decode it says.
    fn starves(&self) -> bool {
        let on_gpu = self.decoder.get().is_some_and(|decoder| decoder.on_gpu);
        on_gpu && self.encoded.fed.load(Ordering::Relaxed) > HELD_BACK
    }

    /// The decoder on the GPU that this session ended by; none when it was something else, or the CPU decoded.
    fn failed_on_gpu(&self, fault: &Fault) -> Option<Decoder> {
        let decoder = self.decoder.get().copied().filter(|decoder| decoder.on_gpu)?;
        let arrived = self.encoded.arrived.load(Ordering::Relaxed) && fault.reason == Reason::Stalled;
        let never_gave = self.frames.load(Ordering::Relaxed) == 0 && arrived;
        let failed = self.failed.get().is_some() || self.decoding_failed.load(Ordering::Relaxed);
        (failed || never_gave || self.starves()).then_some(decoder)
    }
}

/// Sets the pipeline to `Null` on every way out.
struct Running(gst::Pipeline);

impl Drop for Running {
    fn drop(&mut self) {
        // Cannot fail on the way down to `Null` in a way that anyone could mend.
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Runs until the stream ends, one way or another.
pub(super) fn run(camera: &Arc<Camera>, source: &RtspSource, live_since: &mut Option<Timestamp>) -> End {
    let progress = Arc::new(Progress::default());
    let end = match build(camera, source, &progress) {
        Ok(pipeline) => watch(camera, source, &progress, &Running(pipeline), live_since),
        Err(fault) => End::Fault(fault),
    };
    match end {
        End::Fault(fault) => match progress.failed_on_gpu(&fault) {
            Some(decoder) => End::Fault(leave_gpu(camera, decoder, fault)),
            None => End::Fault(fault),
        },
        End::Stopped => End::Stopped,
    }
}

/// A camera is not lost because a GPU cannot decode it (too many streams, a stream that it does not take): the next
/// connection decodes on the CPU, and so does every one after it.
fn leave_gpu(camera: &Camera, decoder: Decoder, fault: Fault) -> Fault {
    camera.gpu_failed.store(true, Ordering::Relaxed);
    let reason = match fault.state {
        CameraState::Refused => Reason::ConnectionLost,
        _ => fault.reason,
    };
    let detail = format!("{} (decoded by {}; from now on the CPU decodes it)", fault.detail, decoder.element);
    Fault { state: CameraState::Backoff, reason, detail }
}

fn seen<'a>(camera: &'a Camera, source: &'a RtspSource, progress: &Progress) -> Seen<'a> {
    Seen {
        camera: &camera.id,
        url: &source.url,
        had_frames: progress.frames.load(Ordering::Relaxed) > 0,
        certificate: progress.certificate.get().cloned(),
    }
}

fn watch(
    camera: &Camera,
    source: &RtspSource,
    progress: &Progress,
    running: &Running,
    live_since: &mut Option<Timestamp>,
) -> End {
    let pipeline = &running.0;
    let Some(bus) = pipeline.bus() else {
        return End::Fault(
            seen(camera, source, progress).retry(Reason::Unreachable, "its pipeline has no bus"),
        );
    };
    let started = clock::monotonic();
    let mut stall: Option<Timestamp> = None;
    let mut stalls = Repeats::default();
    let mut starving: Option<Timestamp> = None;
    // An error shows in the messages that follow, whatever this says.
    let _ = pipeline.set_state(gst::State::Playing);
    loop {
        let message = bus.timed_pop_filtered(POLL, &[gst::MessageType::Error, gst::MessageType::Eos]);
        if camera.stop.is_raised() {
            return End::Stopped;
        }
        // What the callbacks know is closer to the cause than the error that it led to.
        if let Some(fault) = noted(camera, source, progress) {
            return End::Fault(fault);
        }
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Error(error)) => {
                tracing::debug!(
                    debug = source.url.redacted(&error.debug().unwrap_or_default()),
                    "pipeline error"
                );
                progress.decoding_failed.store(is_of_decoding(error, progress), Ordering::Relaxed);
                return End::Fault(seen(camera, source, progress).error(error));
            }
            Some(_) => return End::Fault(seen(camera, source, progress).ended()),
            None => {}
        }
        let now = clock::monotonic();
        starving = progress.starves().then(|| starving.unwrap_or(now));
        if starving.is_some_and(|since| now.since(since) >= STARVED_FOR) {
            let what = "its decoder takes pictures and gives none";
            return End::Fault(seen(camera, source, progress).retry(Reason::Stalled, what));
        }
        if progress.frames.load(Ordering::Relaxed) == 0 {
            if now.since(started) >= source.first_frame_timeout {
                let what =
                    format!("connected, but no picture within {} s", source.first_frame_timeout.as_secs());
                return End::Fault(seen(camera, source, progress).retry(Reason::Stalled, &what));
            }
            continue;
        }
        if live_since.is_none() {
            *live_since = Some(now);
            camera.connected();
            let decoder = progress.decoder.get().map(Decoder::to_string).unwrap_or_default();
            tracing::info!(url = %source.url, decoder, "connected");
        }
        let silent = now.since(Timestamp::from_nanos(progress.last_arrival.load(Ordering::Relaxed)));
        let allowed = progress.stalled_after();
        match (silent >= allowed, stall) {
            (true, None) => {
                stall = Some(now);
                let detail = format!("camera '{}' ({}): connected, but sends nothing", camera.id, source.url);
                camera.say(CameraState::Stalled, Some(Reason::Stalled), &detail);
                match stalls.note(now, Reason::Stalled, "") {
                    Say::New => tracing::warn!(silent_s = silent.as_secs_f64(), "stalled"),
                    Say::Again(times) => tracing::warn!(times, "still stalls again and again"),
                    Say::Nothing => {}
                }
            }
            (true, Some(since)) if now.since(since) >= STALL_ENDS_SESSION => {
                return End::Fault(
                    seen(camera, source, progress).retry(Reason::Stalled, "sends nothing any more"),
                );
            }
            (false, Some(_)) => {
                stall = None;
                camera.say(CameraState::Live, None, "live");
            }
            _ => {}
        }
    }
}

/// Whether an error is about the stream's content or comes from the decoder itself; a network's are neither.
fn is_of_decoding(message: &gst::message::Error, progress: &Progress) -> bool {
    let error = message.error();
    let of_decoder = message.src().and_then(|source| source.downcast_ref::<gst::Element>()?.factory());
    error.is::<gst::StreamError>()
        || error.is::<gst::CoreError>()
        || error.is::<gst::LibraryError>()
        || of_decoder
            .zip(progress.decoder.get())
            .is_some_and(|(factory, used)| factory.name() == used.element)
}

fn noted(camera: &Camera, source: &RtspSource, progress: &Progress) -> Option<Fault> {
    let seen = seen(camera, source, progress);
    if let Some(size) = progress.encoded.oversize.get() {
        return Some(seen.refused(Reason::Unsupported, &pipeline::oversize_text(*size)));
    }
    if let Some(what) = progress.unsupported.get() {
        return Some(seen.refused(Reason::Unsupported, what));
    }
    if let Some(error) = progress.failed.get() {
        return Some(Fault {
            state: CameraState::Refused,
            reason: Reason::Unsupported,
            detail: error.to_string(),
        });
    }
    if progress.lag_lasts.load(Ordering::Relaxed) {
        let what = "its pictures come late for seconds at their normal pace: its clock jumped, or a queue on the way \
                    never empties";
        return Some(seen.retry(Reason::Stale, what));
    }
    None
}

fn build(
    camera: &Arc<Camera>,
    source: &RtspSource,
    progress: &Arc<Progress>,
) -> Result<gst::Pipeline, Fault> {
    let broken = |error: IngestError| Fault {
        state: CameraState::Refused,
        reason: Reason::Unsupported,
        detail: error.to_string(),
    };
    let pipeline = gst::Pipeline::new();
    // The monotonic system clock, the same as `clock.rs` reads.
    pipeline.use_clock(Some(&gst::SystemClock::obtain()));
    let rtspsrc = pipeline::make(&camera.id, "rtspsrc").map_err(broken)?;
    configure(&rtspsrc, source)
        .map_err(|problem| seen(camera, source, progress).refused(Reason::TlsFailed, &problem))?;
    let sink = pipeline::appsink(1, true);
    sink.set_callbacks(callbacks(camera.clone(), progress.clone()));
    select_video(&rtspsrc, progress);
    note_certificate(&rtspsrc, progress);
    let linked = AtomicBool::new(false);
    rtspsrc.connect_pad_added({
        let (weak, progress, camera) = (pipeline.downgrade(), progress.clone(), camera.clone());
        let wanted = source.decode;
        move |_, pad| {
            let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
            let (Some(pipeline), Some(codec)) = (weak.upgrade(), codec(&caps)) else { return };
            if linked.swap(true, Ordering::Relaxed) {
                return;
            }
            let wanted = if camera.gpu_failed.load(Ordering::Relaxed) { Decode::Cpu } else { wanted };
            let decoder = *progress.decoder.get_or_init(|| Decoder::choose(codec, wanted, camera.reader));
            let result =
                pipeline::add_decoder(&camera.id, &pipeline, codec, decoder, true, &sink, &progress.encoded);
            match result.map(|target| pad.link(&target)) {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => {
                    drop(progress.unsupported.set("its stream cannot be linked to the decoder".to_owned()))
                }
                Err(error) => drop(progress.failed.set(error)),
            }
        }
    });
    pipeline.add(&rtspsrc).map_err(|_| {
        broken(IngestError::Gstreamer {
            camera: camera.id.clone(),
            problem: "rtspsrc cannot be added".to_owned(),
        })
    })?;
    Ok(pipeline)
}

/// Sets the source up. Errors with what is wrong with the CA file.
fn configure(rtspsrc: &gst::Element, source: &RtspSource) -> Result<(), String> {
    rtspsrc.set_property("location", source.url.location());
    for (property, value) in [
        ("protocols", "tcp"),
        ("latency", "100"),
        ("tcp-timeout", "3000000"),
        // The default bends old pictures to look fresh.
        ("buffer-mode", "none"),
        ("add-reference-timestamp-meta", "true"),
    ] {
        pipeline::set_if_there(rtspsrc, property, value);
    }
    if let Some(user) = source.url.username() {
        rtspsrc.set_property("user-id", user);
    }
    if let Some(password) = source.url.password() {
        rtspsrc.set_property("user-pw", password.reveal());
    }
    if let Some(file) = &source.ca_file {
        let database = gio::TlsFileDatabase::new(file)
            .map_err(|e| format!("`ca_file` '{}' cannot be used: {}", file.display(), e.message()))?;
        rtspsrc.set_property("tls-database", database);
    }
    Ok(())
}

fn codec(caps: &gst::CapsRef) -> Option<Codec> {
    let structure = caps.structure(0)?;
    Codec::from_encoding_name(&structure.get::<String>("encoding-name").ok()?)
}

/// Only the first video that can be read is asked for: no audio is sent for nothing.
fn select_video(rtspsrc: &gst::Element, progress: &Arc<Progress>) {
    let progress = progress.clone();
    let taken = AtomicBool::new(false);
    rtspsrc.connect("select-stream", false, move |args| {
        let caps = args.get(2).and_then(|value| value.get::<gst::Caps>().ok())?;
        let structure = caps.structure(0)?;
        let is_video = structure.get::<String>("media").is_ok_and(|media| media == "video");
        let wanted = is_video && codec(&caps).is_some() && !taken.swap(true, Ordering::Relaxed);
        if is_video && codec(&caps).is_none() && !taken.load(Ordering::Relaxed) {
            let name = structure.get::<String>("encoding-name").unwrap_or_else(|_| "unknown".to_owned());
            let what =
                format!("its codec is {name}; H.264 and H.265 are read: choose one of them in the camera");
            let _ = progress.unsupported.set(what);
        }
        Some(wanted.to_value())
    });
}

/// Remembers why a certificate is not trusted: the error that follows does not say.
fn note_certificate(rtspsrc: &gst::Element, progress: &Arc<Progress>) {
    let progress = progress.clone();
    rtspsrc.connect("accept-certificate", false, move |args| {
        let flags = args.get(3).and_then(|value| value.get::<gio::TlsCertificateFlags>().ok());
        let what = match flags {
            Some(flags) if flags.contains(gio::TlsCertificateFlags::UNKNOWN_CA) => {
                "its certificate is of an unknown authority"
            }
            Some(flags) if flags.contains(gio::TlsCertificateFlags::BAD_IDENTITY) => {
                "its certificate is for another host"
            }
            Some(flags) if flags.contains(gio::TlsCertificateFlags::EXPIRED) => "its certificate has expired",
            _ => "its certificate is not trusted",
        };
        let _ = progress.certificate.set(what.to_owned());
        Some(false.to_value())
    });
}

fn callbacks(camera: Arc<Camera>, progress: Arc<Progress>) -> gst_app::AppSinkCallbacks {
    let mut capture = CaptureClock::new(camera.latency);
    let mut last_stream: Option<Duration> = None;
    gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            let now = clock::now();
            let keep = progress.decoder.get().and_then(|decoder| decoder.keep());
            let picture = match sample::picture(&sample, keep) {
                Ok(picture) => picture,
                Err(SampleError::Format(name)) => {
                    let what = format!("its pictures are {name}; 8 bit 4:2:0 is read: change the camera's setting");
                    let _ = progress.unsupported.set(what);
                    return Err(gst::FlowError::NotNegotiated);
                }
                Err(SampleError::Broken(_)) => {
                    progress.broken.fetch_add(1, Ordering::Relaxed);
                    return Ok(gst::FlowSuccess::Ok);
                }
            };
            progress.encoded.fed.store(0, Ordering::Relaxed);
            let Some(stream_time) = picture.stream_time else { return Ok(gst::FlowSuccess::Ok) };
            if let Some(last) = last_stream.replace(stream_time) {
                note_interval(&progress.interval_ns, stream_time.saturating_sub(last));
            }
            let stamp = capture.stamp(now.mono, stream_time);
            progress.last_arrival.store(now.mono.as_nanos(), Ordering::Relaxed);
            progress.lag_lasts.fetch_or(stamp.lag_lasts, Ordering::Relaxed);
            tracing::trace!(camera = %camera.id, age_ms = stamp.age.as_millis(), settled = stamp.settled, "frame");
            // A pipeline that does not let go must not give pictures to a camera of the same name that came after.
            if !stamp.settled || picture.corrupted || camera.stop.is_raised() {
                return Ok(gst::FlowSuccess::Ok);
            }
            camera.slots.put(Frame {
                camera: camera.id.clone(),
                seq: camera.seq.fetch_add(1, Ordering::Relaxed),
                captured: stamp.captured,
                captured_utc: now.utc_of(stamp.captured),
                arrived: now.mono,
                width: picture.width,
                height: picture.height,
                pixels: picture.pixels,
                matrix: picture.matrix,
                range: picture.range,
                siting: picture.siting,
            });
            progress.frames.fetch_add(1, Ordering::Relaxed);
            Ok(gst::FlowSuccess::Ok)
        })
        .build()
}

/// Mean of the last steps of the stream's own clock.
fn note_interval(mean_ns: &AtomicU64, step: Duration) {
    let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).min(10_000_000_000);
    let old = mean_ns.load(Ordering::Relaxed);
    let new = if old == 0 { step } else { (7 * old + step) / 8 };
    mean_ns.store(new, Ordering::Relaxed);
}

//! A video file through the same parser and decoder as a camera, unsynchronised, for [`super::clip`].

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::IngestError;
use super::decoder::Decoder;
use super::encoded::Encoded;
use super::pipeline::{self, Codec};
use super::sample::{self, SampleError};
use crate::clock::{self, Timestamp, UtcMillis};
use crate::types::{CameraId, Frame};

/// Frames that are decoded ahead.
const AHEAD: u32 = 4;
/// A decoder that gives nothing for this long will not.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: gst::ClockTime = gst::ClockTime::from_mseconds(200);
const BRIEFLY: gst::ClockTime = gst::ClockTime::from_mseconds(5);

/// What the demuxer's callbacks found.
#[derive(Debug, Default)]
struct Found {
    encoded: Arc<Encoded>,
    failed: OnceLock<IngestError>,
}

/// A video being decoded.
#[derive(Debug)]
pub(super) struct Video {
    path: PathBuf,
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
    found: Arc<Found>,
    first: Option<gst::Sample>,
    zero: Option<Duration>,
    last: Duration,
    duration: Option<Duration>,
    fps: Option<f64>,
}

impl Drop for Video {
    fn drop(&mut self) {
        // Cannot fail on the way down to `Null` in a way that anyone could mend.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Video {
    /// Opens the file and decodes its first picture, so that what is wrong shows here.
    pub fn open(path: &Path, camera: &CameraId) -> Result<Self, IngestError> {
        let demuxer = demuxer(path, camera)?;
        pipeline::require_file(camera)?;
        let pipeline = gst::Pipeline::new();
        let sink = pipeline::appsink(AHEAD, false);
        let found = Arc::new(Found::default());
        let source = pipeline::make(camera, "filesrc")?;
        source.set_property("location", path);
        let demux = pipeline::make(camera, demuxer)?;
        link_video(&demux, &pipeline, &sink, &found, camera);
        let failed = |_| IngestError::Gstreamer {
            camera: camera.clone(),
            problem: "cannot link the demuxer".to_owned(),
        };
        pipeline.add_many([&source, &demux]).map_err(failed)?;
        source.link(&demux).map_err(failed)?;
        // An error shows in the messages that follow, whatever this says.
        let _ = pipeline.set_state(gst::State::Playing);
        let mut video = Self {
            path: path.to_owned(),
            pipeline,
            sink,
            found,
            first: None,
            zero: None,
            last: Duration::ZERO,
            duration: None,
            fps: None,
        };
        let first = video.pull(camera)?.ok_or_else(|| video.damaged(camera, "it holds no picture"))?;
        video.fps = first.caps().and_then(rate);
        video.duration = video
            .pipeline
            .query_duration::<gst::ClockTime>()
            .map(|time| Duration::from_nanos(time.nseconds()));
        video.first = Some(first);
        Ok(video)
    }

    /// How long it plays.
    pub fn duration(&self) -> Option<Duration> {
        self.duration
    }

    /// Frames a second.
    pub fn fps(&self) -> Option<f64> {
        self.fps
    }

    /// The next frame; none at the end. Errors when the file breaks off or cannot be decoded.
    pub fn read(&mut self, camera: &CameraId, seq: u64) -> Result<Option<Frame>, IngestError> {
        let sample = match self.first.take() {
            Some(sample) => sample,
            None => match self.pull(camera)? {
                Some(sample) => sample,
                None => return self.complete(camera).map(|()| None),
            },
        };
        let picture = sample::picture(&sample, None).map_err(|error| match error {
            SampleError::Format(name) => IngestError::Unsupported {
                camera: camera.clone(),
                problem: format!("'{}' has pictures in {name}; 8 bit 4:2:0 is read", self.path.display()),
            },
            SampleError::Broken(what) => {
                self.damaged(camera, &format!("a decoded picture has no valid {what}"))
            }
        })?;
        let time = picture.stream_time.ok_or_else(|| self.damaged(camera, "a picture has no time"))?;
        self.last = time.saturating_sub(*self.zero.get_or_insert(time));
        let captured = Timestamp::default() + self.last;
        Ok(Some(Frame {
            camera: camera.clone(),
            seq,
            captured,
            captured_utc: UtcMillis(i64::try_from(self.last.as_millis()).unwrap_or(i64::MAX)),
            arrived: captured,
            width: picture.width,
            height: picture.height,
            pixels: picture.pixels,
            matrix: picture.matrix,
            range: picture.range,
            siting: picture.siting,
        }))
    }

    /// A file that breaks off ends like one that is whole, only too early.
    fn complete(&self, camera: &CameraId) -> Result<(), IngestError> {
        let Some(duration) = self.duration else { return Ok(()) };
        let frame = Duration::from_secs_f64(1.0 / self.fps.unwrap_or(1.0).clamp(0.1, 1000.0));
        if self.last + frame * 3 >= duration {
            return Ok(());
        }
        let (last, whole) = (self.last.as_secs_f64(), duration.as_secs_f64());
        Err(self.damaged(camera, &format!("it breaks off after {last:.1} s of {whole:.1} s")))
    }

    fn damaged(&self, camera: &CameraId, problem: &str) -> IngestError {
        IngestError::Damaged { camera: camera.clone(), path: self.path.clone(), problem: problem.to_owned() }
    }

    fn pull(&self, camera: &CameraId) -> Result<Option<gst::Sample>, IngestError> {
        let start = clock::monotonic();
        loop {
            if let Some(sample) = self.sink.try_pull_sample(POLL) {
                return Ok(Some(sample));
            }
            if let Some(error) = self.found.failed.get() {
                return Err(error.clone());
            }
            if let Some(size) = self.found.encoded.oversize.get() {
                let problem = format!("'{}': {}", self.path.display(), pipeline::oversize_text(*size));
                return Err(IngestError::Unsupported { camera: camera.clone(), problem });
            }
            // An appsink that has not started yet answers at once, and says that it is at its end.
            let message = self.pipeline.bus().and_then(|bus| {
                bus.timed_pop_filtered(BRIEFLY, &[gst::MessageType::Error, gst::MessageType::Eos])
            });
            match message.as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Error(error)) => {
                    let text = error.error().to_string();
                    return Err(self.damaged(camera, text.lines().next().unwrap_or("")));
                }
                Some(_) => return Ok(None),
                None => {}
            }
            if clock::monotonic().since(start) >= PATIENCE {
                return Err(self.damaged(camera, "the decoder gives no picture"));
            }
        }
    }
}

/// The demuxer by the file's first bytes: names lie.
fn demuxer(path: &Path, camera: &CameraId) -> Result<&'static str, IngestError> {
    let mut head = [0; 12];
    let not_found = |e: std::io::Error| IngestError::NotFound {
        camera: camera.clone(),
        path: path.into(),
        problem: e.to_string(),
    };
    let mut file = std::fs::File::open(path).map_err(not_found)?;
    file.read(&mut head).map_err(not_found)?;
    if head[4..8] == *b"ftyp" {
        Ok("qtdemux")
    } else if head[..4] == [0x1a, 0x45, 0xdf, 0xa3] {
        Ok("matroskademux")
    } else {
        let problem = format!("'{}' is neither an mp4 nor an mkv file, nor a jpg or png", path.display());
        Err(IngestError::Unsupported { camera: camera.clone(), problem })
    }
}

fn link_video(
    demux: &gst::Element,
    pipeline: &gst::Pipeline,
    sink: &gst_app::AppSink,
    found: &Arc<Found>,
    camera: &CameraId,
) {
    let linked = Arc::new(AtomicBool::new(false));
    demux.connect_pad_added({
        let (weak, sink, found, camera, linked) =
            (pipeline.downgrade(), sink.clone(), found.clone(), camera.clone(), linked.clone());
        move |_, pad| {
            let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
            let name = caps.structure(0).map(|structure| structure.name().to_string()).unwrap_or_default();
            let Some(pipeline) = weak.upgrade().filter(|_| name.starts_with("video/")) else { return };
            if linked.swap(true, Ordering::Relaxed) {
                return;
            }
            let unsupported = |problem: String| IngestError::Unsupported { camera: camera.clone(), problem };
            let result = Codec::from_media_type(&name)
                .ok_or_else(|| unsupported(format!("the video's codec is {name}; H.264 and H.265 are read")))
                .and_then(|codec| {
                    let decoder = Decoder::cpu(codec);
                    pipeline::add_decoder(&camera, &pipeline, codec, decoder, false, &sink, &found.encoded)
                })
                .and_then(|target| {
                    pad.link(&target)
                        .map_err(|_| unsupported("the video cannot be linked to the decoder".to_owned()))
                });
            if let Err(error) = result {
                let _ = found.failed.set(error);
            }
        }
    });
    demux.connect_no_more_pads({
        let (found, camera) = (found.clone(), camera.clone());
        move |_| {
            if !linked.load(Ordering::Relaxed) {
                let problem = "the file holds no video".to_owned();
                let _ = found.failed.set(IngestError::Unsupported { camera: camera.clone(), problem });
            }
        }
    });
}

fn rate(caps: &gst::CapsRef) -> Option<f64> {
    let rate = caps.structure(0)?.get::<gst::Fraction>("framerate").ok()?;
    (rate.numer() > 0 && rate.denom() > 0).then(|| f64::from(rate.numer()) / f64::from(rate.denom()))
}

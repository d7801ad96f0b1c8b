//! Reads a clip for a replay: every frame, in order, as fast as it decodes, nothing dropped. Runs on the
//! thread that reads; a video decodes ahead on GStreamer's threads, a few frames far.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{IngestError, stills};
use crate::clock::Timestamp;
use crate::types::{CameraId, Frame};

/// Pictures a second of an image folder that nobody said anything of.
pub const DEFAULT_IMAGE_FPS: f64 = 10.0;

/// A clip being read. Each frame's `captured` is its presentation time from 0; after an error there is no
/// further frame.
#[derive(Debug)]
pub struct Clip {
    camera: CameraId,
    next_seq: u64,
    over: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Stills {
        files: Vec<PathBuf>,
        fps: f64,
    },
    #[cfg(feature = "gstreamer")]
    Video(super::video::Video),
}

impl Clip {
    /// Opens a video (mp4, mkv; H.264 or H.265), a folder of jpg and png files (10 a second), or one such
    /// picture. Errors when it is not there, not readable, or of another kind.
    pub fn open(path: &Path, camera: CameraId) -> Result<Self, IngestError> {
        if path.is_dir() || stills::is_picture(path) {
            return Self::open_images(path, camera, DEFAULT_IMAGE_FPS);
        }
        Self::open_video(path, camera)
    }

    /// Opens a folder of pictures, or one picture, shown at `fps` pictures a second.
    pub fn open_images(path: &Path, camera: CameraId, fps: f64) -> Result<Self, IngestError> {
        let files = stills::list(path, &camera)?;
        if !(fps.is_finite() && fps > 0.0) {
            let problem = format!("{fps} pictures a second cannot be played; it must be above 0");
            return Err(IngestError::Unsupported { camera, problem });
        }
        Ok(Self { camera, next_seq: 0, over: false, source: Source::Stills { files, fps } })
    }

    #[cfg(feature = "gstreamer")]
    fn open_video(path: &Path, camera: CameraId) -> Result<Self, IngestError> {
        let video = super::video::Video::open(path, &camera)?;
        Ok(Self { camera, next_seq: 0, over: false, source: Source::Video(video) })
    }

    #[cfg(not(feature = "gstreamer"))]
    fn open_video(_path: &Path, camera: CameraId) -> Result<Self, IngestError> {
        Err(IngestError::NoGstreamer { camera })
    }

    /// How long it plays, if its container says so.
    pub fn duration(&self) -> Option<Duration> {
        match &self.source {
            Source::Stills { files, fps } => Some(Duration::from_secs_f64(files.len() as f64 / fps)),
            #[cfg(feature = "gstreamer")]
            Source::Video(video) => video.duration(),
        }
    }

    /// Frames a second, if known.
    pub fn fps(&self) -> Option<f64> {
        match &self.source {
            Source::Stills { fps, .. } => Some(*fps),
            #[cfg(feature = "gstreamer")]
            Source::Video(video) => video.fps(),
        }
    }

    /// How many frames to expect, for a progress bar: exact for pictures, by duration and rate for a video.
    pub fn frame_count(&self) -> Option<u64> {
        match &self.source {
            Source::Stills { files, .. } => Some(files.len() as u64),
            #[cfg(feature = "gstreamer")]
            Source::Video(video) => video
                .duration()
                .zip(video.fps())
                .map(|(duration, fps)| (duration.as_secs_f64() * fps).round() as u64),
        }
    }

    fn read(&mut self) -> Option<Result<Frame, IngestError>> {
        match &mut self.source {
            Source::Stills { files, fps } => {
                let file = files.get(usize::try_from(self.next_seq).unwrap_or(usize::MAX))?;
                let nanos = (self.next_seq as f64 / *fps * 1e9).round() as u64;
                Some(stills::read(file, &self.camera, self.next_seq, Timestamp::from_nanos(nanos)))
            }
            #[cfg(feature = "gstreamer")]
            Source::Video(video) => video.read(&self.camera, self.next_seq).transpose(),
        }
    }
}

impl Iterator for Clip {
    type Item = Result<Frame, IngestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let frame = self.read();
        self.over = !matches!(frame, Some(Ok(_)));
        self.next_seq += 1;
        frame
    }
}

//! Where a lesson's pictures come from: a file, a moment of a clip, the running daemon.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use crate::clock::Timestamp;
use crate::control::{self, Ask, Reply, Request};
use crate::draw;
use crate::ingest::clip::Clip;
use crate::ingest::stills;
use crate::preprocess::color::rgb_from_frame;
use crate::types::{CameraId, Frame};

/// A copy of a frame that is kept: nothing that a patch sees is lost at this size.
const JPEG_MAX_BYTES: usize = 4 << 20;

/// A picture that is to be kept.
pub struct Source {
    /// The frame.
    pub frame: Frame,
    /// Its file's bytes.
    pub bytes: Vec<u8>,
    /// `jpg` or `png`.
    pub kind: &'static str,
    /// Where it came from, for people: no path beyond the file's name.
    pub name: String,
}

fn camera() -> anyhow::Result<CameraId> {
    Ok(CameraId::new("teach")?)
}

/// A jpg or png file.
pub fn still(path: &Path) -> anyhow::Result<Frame> {
    Ok(stills::read(path, &camera()?, 0, Timestamp::from_nanos(0))?)
}

/// `FILE`, or `FILE@SECONDS` for a clip.
pub fn split(text: &str) -> anyhow::Result<(PathBuf, Option<f64>)> {
    if let Some((file, seconds)) = text.rsplit_once('@')
        && !Path::new(text).exists()
    {
        let seconds: f64 =
            seconds.parse().map_err(|_| anyhow!("'{seconds}' after '@' is no time in seconds"))?;
        if !(seconds.is_finite() && seconds >= 0.0) {
            bail!("'{seconds}' after '@' must be 0 or more seconds");
        }
        return Ok((PathBuf::from(file), Some(seconds)));
    }
    Ok((PathBuf::from(text), None))
}

/// The frame that a clip shows at a moment, or its first.
pub fn frame_at(file: &Path, seconds: Option<f64>) -> anyhow::Result<Frame> {
    let at = seconds.unwrap_or(0.0);
    let mut last = None;
    for frame in Clip::open(file, camera()?)? {
        let frame = frame?;
        // Half a frame of slack: 1.0 means the frame that is stamped 1.0 within rounding.
        if frame.captured.as_nanos() as f64 / 1e9 > at + 0.005 && last.is_some() {
            return last.context("no frame");
        }
        let reached = frame.captured.as_nanos() as f64 / 1e9 >= at - 0.005;
        last = Some(frame);
        if reached {
            return last.context("no frame");
        }
    }
    let end = last.map(|frame| frame.captured.as_nanos() as f64 / 1e9);
    Err(anyhow!("{} ends at {:.2} s, before {at} s", file.display(), end.unwrap_or(0.0)))
}

/// Reads what `FILE[@SECONDS]` names.
pub fn file(text: &str) -> anyhow::Result<Source> {
    let (path, seconds) = split(text)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let kind = match extension.as_str() {
        "jpg" | "jpeg" => Some("jpg"),
        "png" => Some("png"),
        _ => None,
    };
    if let (Some(kind), None) = (kind, seconds) {
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let frame = stills::decode(&bytes, &path, &camera()?, 0, Timestamp::from_nanos(0))?;
        return Ok(Source { frame, bytes, kind, name });
    }
    let frame = frame_at(&path, seconds)?;
    let name = format!("{name}@{:.2}", frame.captured.as_nanos() as f64 / 1e9);
    kept(frame, name)
}

/// The newest frame of a camera of the running daemon.
pub fn live(socket: &Path, id: &CameraId) -> anyhow::Result<Source> {
    let request = Request { by: None, ask: Ask::Picture { camera: id.clone() } };
    let reply = control::ask(socket, &request)
        .with_context(|| format!("no daemon answers at {}: is it running?", socket.display()))?;
    let jpeg_hex = match reply {
        Reply::Picture { jpeg_hex } => jpeg_hex,
        Reply::Refused { error } => bail!("the daemon refused: {error}"),
        _ => bail!("the daemon's answer is not understood; are both of one version?"),
    };
    let bytes = unhex(&jpeg_hex).context("the daemon's picture is damaged")?;
    let frame = stills::decode(&bytes, Path::new("camera"), &camera()?, 0, Timestamp::from_nanos(0))?;
    Ok(Source { frame, bytes, kind: "jpg", name: format!("camera {id}") })
}

fn kept(frame: Frame, name: String) -> anyhow::Result<Source> {
    let bytes = draw::jpeg(&rgb_from_frame(&frame), JPEG_MAX_BYTES)?;
    // What is kept is what teaches: a later fit on another model sees the same pixels.
    let frame = stills::decode(&bytes, Path::new("frame"), &camera()?, 0, Timestamp::from_nanos(0))?;
    Ok(Source { frame, bytes, kind: "jpg", name })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_stands_after_the_file() {
        assert_eq!(split("a/b.mp4@1.5").unwrap(), (PathBuf::from("a/b.mp4"), Some(1.5)));
        assert_eq!(split("a@b.mp4@0").unwrap(), (PathBuf::from("a@b.mp4"), Some(0.0)));
        assert_eq!(split("b.jpg").unwrap(), (PathBuf::from("b.jpg"), None));
        assert!(split("a.mp4@soon").unwrap_err().to_string().contains("'soon'"));
        assert!(split("a.mp4@-1").is_err());
    }

    #[test]
    fn hex_is_read() {
        assert_eq!(unhex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}

//! Jpg and png files as frames, without GStreamer.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::{IngestError, MAX_HEIGHT, MAX_WIDTH, MIN_SIDE};
use crate::clock::{Timestamp, UtcMillis};
use crate::preprocess::color::i420_from_rgb;
use crate::types::{CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, PixelFormat, Pixels};

/// The pictures of a folder in the order of their names, or the file itself. Errors when there is none.
pub(super) fn list(path: &Path, camera: &CameraId) -> Result<Vec<PathBuf>, IngestError> {
    let not_found = |e: std::io::Error| IngestError::NotFound {
        camera: camera.clone(),
        path: path.into(),
        problem: e.to_string(),
    };
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(not_found)? {
        let file = entry.map_err(not_found)?.path();
        if is_picture(&file) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let problem = format!("the folder '{}' holds no jpg or png file", path.display());
        return Err(IngestError::Unsupported { camera: camera.clone(), problem });
    }
    Ok(files)
}

/// True for names that end in jpg, jpeg or png.
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    matches!(extension.as_str(), "jpg" | "jpeg" | "png")
}

/// One picture as a full-range BT.601 I420 frame, as a JPEG has it.
pub fn read(path: &Path, camera: &CameraId, seq: u64, captured: Timestamp) -> Result<Frame, IngestError> {
    let bytes = std::fs::read(path).map_err(|e| IngestError::NotFound {
        camera: camera.clone(),
        path: path.into(),
        problem: e.to_string(),
    })?;
    decode(&bytes, path, camera, seq, captured)
}

/// As [`read`], from the bytes of a file; `path` is its name in errors.
pub fn decode(
    bytes: &[u8],
    path: &Path,
    camera: &CameraId,
    seq: u64,
    captured: Timestamp,
) -> Result<Frame, IngestError> {
    Ok(frame_of(&decode_rgb(bytes, path, camera)?, camera, seq, captured))
}

/// The picture in the bytes of a file; `path` is its name in errors.
pub fn decode_rgb(bytes: &[u8], path: &Path, camera: &CameraId) -> Result<RgbImage, IngestError> {
    let damaged =
        |problem: String| IngestError::Damaged { camera: camera.clone(), path: path.into(), problem };
    let mut reader = image::ImageReader::new(std::io::Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| damaged(e.to_string()))?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_WIDTH);
    limits.max_image_height = Some(MAX_HEIGHT);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| damaged(e.to_string()))?.to_rgb8();
    let (width, height) = picture.dimensions();
    if width < MIN_SIDE || height < MIN_SIDE {
        return Err(damaged(format!(
            "{width} x {height} pixels are too few: at least {MIN_SIDE} x {MIN_SIDE}"
        )));
    }
    Ok(picture)
}

/// A picture as a frame.
pub fn frame_of(picture: &RgbImage, camera: &CameraId, seq: u64, captured: Timestamp) -> Frame {
    let (width, height) = picture.dimensions();
    let (data, planes) = i420_from_rgb(picture);
    Frame {
        camera: camera.clone(),
        seq,
        captured,
        captured_utc: UtcMillis(i64::try_from(captured.as_nanos() / 1_000_000).unwrap_or(i64::MAX)),
        arrived: captured,
        width,
        height,
        pixels: Pixels::Host { format: PixelFormat::I420, data, planes },
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Full,
        siting: ChromaSiting::JPEG,
    }
}

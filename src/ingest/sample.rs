//! A decoded GStreamer sample as the picture of a frame, without a copy.

use std::time::Duration;

use bytes::Bytes;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::types::{ChromaSiting, ColorMatrix, ColorRange, PixelFormat, Pixels, Plane};

/// Why a sample is not a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SampleError {
    /// A layout that is not read, by its name.
    Format(String),
    /// Something that should be there is not.
    Broken(&'static str),
}

/// All of a frame but its camera and times.
#[derive(Debug)]
pub(super) struct Picture {
    pub width: u32,
    pub height: u32,
    pub pixels: Pixels,
    pub matrix: ColorMatrix,
    pub range: ColorRange,
    pub siting: ChromaSiting,
    /// On the pipeline's running time.
    pub stream_time: Option<Duration>,
    /// The decoder says that something is missing in it.
    pub corrupted: bool,
}

/// Takes a picture of a GPU's decoder where it lies; none when it has to be read through ordinary memory.
pub(super) type Keep = fn(&gst::Buffer, PixelFormat, &[Plane], [u32; 2]) -> Option<Pixels>;

/// Takes the picture out of a sample; its memory stays the decoder's and is kept alive. With `keep` pixels may stay on
/// the GPU.
pub(super) fn picture(sample: &gst::Sample, keep: Option<Keep>) -> Result<Picture, SampleError> {
    let caps = sample.caps().ok_or(SampleError::Broken("no caps"))?;
    let info = gst_video::VideoInfo::from_caps(caps).map_err(|_| SampleError::Format(layout(caps)))?;
    let (format, rows_below) = match info.format() {
        gst_video::VideoFormat::I420 => (PixelFormat::I420, 2),
        gst_video::VideoFormat::Nv12 => (PixelFormat::Nv12, 1),
        _ => return Err(SampleError::Format(layout(caps))),
    };
    let buffer = sample.buffer_owned().ok_or(SampleError::Broken("no buffer"))?;
    let stream_time = sample
        .segment()
        .and_then(|segment| segment.downcast_ref::<gst::ClockTime>())
        .zip(buffer.pts())
        .and_then(|(segment, pts)| segment.to_running_time(pts))
        .map(|time| Duration::from_nanos(time.nseconds()));
    let corrupted = buffer.flags().contains(gst::BufferFlags::CORRUPTED);
    let planes = match buffer.meta::<gst_video::VideoMeta>() {
        Some(meta) => planes(meta.offset(), meta.stride()),
        None => planes(info.offset(), info.stride()),
    }
    .and_then(|planes| planes.get(..=rows_below).map(<[Plane]>::to_vec))
    .ok_or(SampleError::Broken("planes"))?;
    let kept = keep.and_then(|keep| keep(&buffer, format, &planes, [info.width(), info.height()]));
    let pixels = match kept {
        Some(pixels) => pixels,
        None => on_host(buffer, format, planes, &info)?,
    };
    Ok(Picture {
        width: info.width(),
        height: info.height(),
        pixels,
        matrix: matrix(caps, info.height()),
        range: range(caps),
        siting: siting(caps, &info),
        stream_time,
        corrupted,
    })
}

fn on_host(
    buffer: gst::Buffer,
    format: PixelFormat,
    planes: Vec<Plane>,
    info: &gst_video::VideoInfo,
) -> Result<Pixels, SampleError> {
    let map = buffer.into_mapped_buffer_readable().map_err(|_| SampleError::Broken("memory"))?;
    let data = Bytes::from_owner(map);
    if !fits(&planes, format, info.width(), info.height(), data.len()) {
        return Err(SampleError::Broken("size of its planes"));
    }
    Ok(Pixels::Host { format, data, planes })
}

fn layout(caps: &gst::CapsRef) -> String {
    caps.structure(0).and_then(|s| s.get::<String>("format").ok()).unwrap_or_else(|| "unknown".to_owned())
}

fn planes(offsets: &[usize], strides: &[i32]) -> Option<Vec<Plane>> {
    offsets
        .iter()
        .zip(strides)
        .map(|(&offset, &stride)| usize::try_from(stride).ok().map(|stride| Plane { offset, stride }))
        .collect()
}

/// Whether every row of every plane lies within the data.
pub(super) fn fits(planes: &[Plane], format: PixelFormat, width: u32, height: u32, len: usize) -> bool {
    planes.iter().zip(format.plane_sizes(width as usize, height as usize)).all(|(plane, [row, rows])| {
        rows > 0 && plane.stride >= row && plane.offset + plane.stride * (rows - 1) + row <= len
    })
}

fn text(caps: &gst::CapsRef, field: &str) -> Option<String> {
    caps.structure(0)?.get::<String>(field).ok()
}

/// What the stream itself says; GStreamer's own reading fills gaps with guesses.
fn colorimetry(caps: &gst::CapsRef) -> Option<gst_video::VideoColorimetry> {
    text(caps, "colorimetry")?.parse().ok()
}

/// A stream that says nothing is read as the field does: 720 lines or more are BT.709, fewer BT.601.
fn matrix(caps: &gst::CapsRef, height: u32) -> ColorMatrix {
    match colorimetry(caps).map(|said| said.matrix()) {
        Some(gst_video::VideoColorMatrix::Bt709) => ColorMatrix::Bt709,
        Some(gst_video::VideoColorMatrix::Bt601) => ColorMatrix::Bt601,
        Some(gst_video::VideoColorMatrix::Bt2020) => ColorMatrix::Bt2020,
        _ if height >= 720 => ColorMatrix::Bt709,
        _ => ColorMatrix::Bt601,
    }
}

/// H.264's and H.265's default is limited.
fn range(caps: &gst::CapsRef) -> ColorRange {
    match colorimetry(caps).map(|said| said.range()) {
        Some(gst_video::VideoColorRange::Range0_255) => ColorRange::Full,
        _ => ColorRange::Limited,
    }
}

fn siting(caps: &gst::CapsRef, info: &gst_video::VideoInfo) -> ChromaSiting {
    let site = info.chroma_site();
    if text(caps, "chroma-site").is_none() || site.is_empty() {
        return ChromaSiting::MPEG2;
    }
    ChromaSiting {
        horizontal_cosited: site.contains(gst_video::VideoChromaSite::H_COSITED),
        vertical_cosited: site.contains(gst_video::VideoChromaSite::V_COSITED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::gst_log;

    fn colour(caps: &str) -> (ColorMatrix, ColorRange, ChromaSiting) {
        gst_log::init().unwrap();
        let caps: gst::Caps = format!("video/x-raw,format=I420,framerate=10/1,{caps}").parse().unwrap();
        let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
        (matrix(&caps, info.height()), range(&caps), siting(&caps, &info))
    }

    #[test]
    fn colour_comes_from_the_caps_or_the_convention() {
        use ColorMatrix::*;
        use ColorRange::*;
        let mpeg2 = ChromaSiting::MPEG2;
        assert_eq!(colour("width=640,height=360"), (Bt601, Limited, mpeg2));
        assert_eq!(colour("width=1280,height=720"), (Bt709, Limited, mpeg2));
        assert_eq!(colour("width=960,height=640"), (Bt601, Limited, mpeg2));
        assert_eq!(colour("width=640,height=360,colorimetry=bt709"), (Bt709, Limited, mpeg2));
        assert_eq!(colour("width=3840,height=2160,colorimetry=bt2020"), (Bt2020, Limited, mpeg2));
        // Full range, matrix of BT.601, siting of JPEG.
        assert_eq!(
            colour("width=1920,height=1080,colorimetry=1:4:0:0,chroma-site=jpeg"),
            (Bt601, Full, ChromaSiting::JPEG)
        );
        // Range said, matrix not.
        assert_eq!(colour("width=1920,height=1080,colorimetry=1:0:0:0"), (Bt709, Full, mpeg2));
    }

    #[test]
    fn planes_outside_the_data_are_refused() {
        let plane = |offset, stride| Plane { offset, stride };
        let good = [plane(0, 64), plane(64 * 32, 32), plane(64 * 48 - 64 * 8, 32)];
        assert!(fits(&good, PixelFormat::I420, 64, 32, 64 * 48));
        assert!(!fits(&good, PixelFormat::I420, 64, 32, 64 * 48 - 1));
        assert!(!fits(&[plane(0, 63)], PixelFormat::I420, 64, 32, 1 << 20));
        assert!(!fits(&[plane(0, 64), plane(2048, 62)], PixelFormat::Nv12, 64, 32, 1 << 20));
    }

    #[test]
    fn other_layouts_are_named() {
        gst_log::init().unwrap();
        let caps: gst::Caps =
            "video/x-raw,format=I420_10LE,width=64,height=32,framerate=10/1".parse().unwrap();
        let sample = gst::Sample::builder().caps(&caps).buffer(&gst::Buffer::new()).build();
        assert_eq!(picture(&sample, None).unwrap_err(), SampleError::Format("I420_10LE".to_owned()));
    }
}

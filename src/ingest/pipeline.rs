//! The elements: one chain from encoded video to the appsink, for cameras and for clips. Plugins that are
//! missing are named with the package that has them.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::decoder::Decoder;
use super::encoded::Encoded;
use super::{IngestError, MAX_HEIGHT, MAX_WIDTH, MIN_SIDE, gst_log};
use crate::types::CameraId;

/// Codecs that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    H264,
    H265,
}

impl Codec {
    /// By the caps of a demuxer's pad.
    pub fn from_media_type(name: &str) -> Option<Self> {
        match name {
            "video/x-h264" => Some(Self::H264),
            "video/x-h265" => Some(Self::H265),
            _ => None,
        }
    }

    /// By the name in an RTP stream's description.
    pub fn from_encoding_name(name: &str) -> Option<Self> {
        match name {
            "H264" => Some(Self::H264),
            "H265" => Some(Self::H265),
            _ => None,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::H264 => "video/x-h264",
            Self::H265 => "video/x-h265",
        }
    }

    /// Those that every stream of it needs; a GPU's decoder may fail, the CPU's is always wanted.
    fn elements(self) -> [&'static str; 3] {
        let decoder = Decoder::cpu(self).element;
        match self {
            Self::H264 => ["rtph264depay", "h264parse", decoder],
            Self::H265 => ["rtph265depay", "h265parse", decoder],
        }
    }
}

const RTSP_ELEMENTS: [&str; 4] = ["rtspsrc", "rtpbin", "rtpjitterbuffer", "appsink"];
const FILE_ELEMENTS: [&str; 4] = ["filesrc", "qtdemux", "matroskademux", "appsink"];

/// All elements that cameras and clips need, each once.
pub(super) fn needed_elements() -> Vec<&'static str> {
    let codecs = [Codec::H264, Codec::H265].into_iter().flat_map(Codec::elements);
    let mut needed: Vec<_> = RTSP_ELEMENTS.into_iter().chain(FILE_ELEMENTS).chain(codecs).collect();
    needed.sort_unstable();
    needed.dedup();
    needed
}

/// Starts GStreamer and looks whether all is there that a camera needs.
pub(super) fn require_rtsp(camera: &CameraId) -> Result<(), IngestError> {
    require(camera, &RTSP_ELEMENTS)?;
    [Codec::H264, Codec::H265].iter().try_for_each(|codec| require(camera, &codec.elements()))
}

/// Starts GStreamer and looks whether all is there that a video file needs.
pub(super) fn require_file(camera: &CameraId) -> Result<(), IngestError> {
    require(camera, &FILE_ELEMENTS)?;
    [Codec::H264, Codec::H265].iter().try_for_each(|codec| require(camera, &codec.elements()[1..]))
}

fn require(camera: &CameraId, elements: &[&str]) -> Result<(), IngestError> {
    gst_log::init().map_err(|problem| IngestError::Gstreamer { camera: camera.clone(), problem })?;
    match elements.iter().find(|element| gst::ElementFactory::find(element).is_none()) {
        Some(element) => Err(missing(camera, element)),
        None => Ok(()),
    }
}

/// The Debian package that has an element.
pub(super) fn package_of(element: &str) -> &'static str {
    match element {
        "h264parse" | "h265parse" => "gstreamer1.0-plugins-bad",
        "appsink" => "gstreamer1.0-plugins-base",
        "filesrc" | "capsfilter" => "libgstreamer1.0-0",
        _ if element.starts_with("avdec") => "gstreamer1.0-libav",
        _ if element.starts_with("nvh26") => "gstreamer1.0-plugins-bad",
        _ => "gstreamer1.0-plugins-good",
    }
}

fn missing(camera: &CameraId, element: &str) -> IngestError {
    let package = package_of(element);
    IngestError::MissingPlugin { camera: camera.clone(), element: element.to_owned(), package }
}

/// Makes an element. Errors with the package that has it.
pub(super) fn make(camera: &CameraId, element: &str) -> Result<gst::Element, IngestError> {
    gst::ElementFactory::make(element).build().map_err(|_| missing(camera, element))
}

/// Sets a property when the installed version has it: GStreamer 1.20 (JetPack 6) lacks some.
pub(super) fn set_if_there(element: &gst::Element, property: &str, value: &str) {
    if element.has_property(property) {
        element.set_property_from_str(property, value);
    }
}

/// An appsink that takes decoded pictures as fast as they come, whatever their time; [`add_decoder`] says which.
pub(super) fn appsink(max_buffers: u32, drop: bool) -> gst_app::AppSink {
    let sink = gst_app::AppSink::builder()
        .sync(false)
        .enable_last_sample(false)
        .max_buffers(max_buffers)
        .drop(drop)
        .build();
    if let Some(pad) = sink.static_pad("sink") {
        // Strides and offsets are read from the picture's own description, so the decoder need not copy
        // into the default layout.
        pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
            if let Some(gst::QueryViewMut::Allocation(query)) = info.query_mut().map(|query| query.view_mut())
            {
                query.add_allocation_meta::<gst_video::VideoMeta>(None);
                return gst::PadProbeReturn::Handled;
            }
            gst::PadProbeReturn::Ok
        });
    }
    sink
}

/// Adds `[depay !] parse ! caps bound ! decoder [! converter] ! sink` to a pipeline; returns the pad to link to. A
/// size out of bounds is noted in `encoded` and never reaches the decoder.
pub(super) fn add_decoder(
    camera: &CameraId,
    pipeline: &gst::Pipeline,
    codec: Codec,
    decoder: Decoder,
    rtp: bool,
    sink: &gst_app::AppSink,
    encoded: &Arc<Encoded>,
) -> Result<gst::Pad, IngestError> {
    let [depay, parse, _] = codec.elements();
    let parse = make(camera, parse)?;
    let bound = make(camera, "capsfilter")?;
    bound.set_property(
        "caps",
        gst::Caps::builder(codec.media_type())
            .field("width", gst::IntRange::new(MIN_SIDE.cast_signed(), MAX_WIDTH.cast_signed()))
            .field("height", gst::IntRange::new(MIN_SIDE.cast_signed(), MAX_HEIGHT.cast_signed()))
            .build(),
    );
    let decoding = make(camera, decoder.element)?;
    decoder.configure(&decoding);
    sink.set_caps(Some(&decoder.caps()));
    if let Some(pad) = parse.static_pad("src") {
        encoded.watch(&pad, decoder.on_gpu);
    }
    let mut elements = vec![parse, bound, decoding];
    if let Some(converter) = decoder.converter {
        let converting = make(camera, converter)?;
        // A Jetson's: rows one after the other instead of blocks.
        set_if_there(&converting, "bl-output", "false");
        elements.push(converting);
    }
    elements.push(sink.clone().upcast());
    if rtp {
        let depay = make(camera, depay)?;
        set_if_there(&depay, "wait-for-keyframe", "true");
        set_if_there(&depay, "request-keyframe", "true");
        elements.insert(0, depay);
    }
    let failed = |what: &str| IngestError::Gstreamer {
        camera: camera.clone(),
        problem: format!("its elements cannot be {what} (versions that do not fit each other?)"),
    };
    pipeline.add_many(&elements).map_err(|_| failed("put together"))?;
    gst::Element::link_many(&elements).map_err(|_| failed("linked"))?;
    // From the sink up, so that no element pushes into one that is not ready.
    for element in elements.iter().rev() {
        element.sync_state_with_parent().map_err(|_| failed("started"))?;
    }
    elements.first().and_then(|first| first.static_pad("sink")).ok_or_else(|| failed("linked"))
}

/// The size in the caps when it is not accepted.
pub(super) fn size_out_of_bounds(caps: &gst::CapsRef) -> Option<(i32, i32)> {
    let structure = caps.structure(0)?;
    let (width, height) = (structure.get::<i32>("width").ok()?, structure.get::<i32>("height").ok()?);
    let fits = |side: i32, most: u32| u32::try_from(side).is_ok_and(|side| (MIN_SIDE..=most).contains(&side));
    (!fits(width, MAX_WIDTH) || !fits(height, MAX_HEIGHT)).then_some((width, height))
}

/// What to say of a size that is not accepted.
pub(super) fn oversize_text((width, height): (i32, i32)) -> String {
    format!(
        "its pictures have {width} x {height} pixels; {MIN_SIDE} x {MIN_SIDE} to {MAX_WIDTH} x {MAX_HEIGHT} are \
         accepted: choose another stream or size in the camera"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_plugin_is_named_with_its_package() {
        let camera = CameraId::new("dock").unwrap();
        assert!(require_rtsp(&camera).is_ok());
        let error = require(&camera, &["appsink", "avdec_nosuch"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "camera 'dock': GStreamer has no 'avdec_nosuch': install the Debian package gstreamer1.0-libav"
        );
        assert!(make(&camera, "nosuchelement").is_err());
    }

    #[test]
    fn unknown_properties_are_left_alone() {
        let camera = CameraId::new("dock").unwrap();
        gst_log::init().unwrap();
        let filter = make(&camera, "capsfilter").unwrap();
        set_if_there(&filter, "no-such-property", "1");
    }

    #[test]
    fn sizes_are_bounded() {
        gst_log::init().unwrap();
        let caps =
            |w: i32, h: i32| gst::Caps::builder("video/x-h264").field("width", w).field("height", h).build();
        for (w, h, refused) in
            [(16, 16, false), (3840, 2160, false), (3841, 64, true), (64, 2161, true), (15, 64, true)]
        {
            assert_eq!(size_out_of_bounds(&caps(w, h)).is_some(), refused, "{w} x {h}");
        }
    }
}

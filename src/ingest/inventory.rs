//! What this machine's GStreamer has of what cameras and clips need, for `standoff doctor`.

use gstreamer as gst;

use super::decoder::Decoder;
use super::pipeline::Codec;
use super::{Decode, Reader, gst_log, pipeline};

/// GStreamer on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Its version, as it says it: "GStreamer 1.22.0".
    pub version: String,
    /// Every element that is needed.
    pub elements: Vec<Element>,
    /// What would decode H.264 and H.265 for a model on the GPU, for people: "nvh264dec on the GPU, pictures stay there".
    pub gpu_decoders: [String; 2],
}

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// Whether it is here.
    pub installed: bool,
}

/// Starts GStreamer and looks. Errors with what GStreamer says when it cannot start.
pub fn inventory() -> Result<Inventory, String> {
    gst_log::init()?;
    let element = |name| Element {
        name,
        package: pipeline::package_of(name),
        installed: gst::ElementFactory::find(name).is_some(),
    };
    let elements = pipeline::needed_elements().into_iter().map(element).collect();
    let decoder = |codec| Decoder::choose(codec, Decode::Auto, Reader::Gpu).to_string();
    let gpu_decoders = [Codec::H264, Codec::H265].map(decoder);
    Ok(Inventory { version: gst::version_string().to_string(), elements, gpu_decoders })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_needed_element_is_looked_for_once() {
        let names: Vec<_> = inventory().unwrap().elements.iter().map(|element| element.name).collect();
        for name in ["rtspsrc", "qtdemux", "h264parse", "avdec_h265", "appsink"] {
            assert_eq!(names.iter().filter(|n| **n == name).count(), 1, "{name} in {names:?}");
        }
    }
}

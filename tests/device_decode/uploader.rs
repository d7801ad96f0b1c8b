//! An element that decodes on the CPU and brings its pictures into CUDA's memory, under the name of one that decodes on
//! the GPU: real pictures on the way of those.

use std::sync::OnceLock;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;

static DECODER: OnceLock<&str> = OnceLock::new();

#[derive(Default)]
pub struct Uploading;

#[glib::object_subclass]
impl ObjectSubclass for Uploading {
    const NAME: &'static str = "StandoffTestUploading";
    type Type = Uploader;
    type ParentType = gst::Bin;
}

impl ObjectImpl for Uploading {
    fn constructed(&self) {
        self.parent_constructed();
        let make = |name: &str| gst::ElementFactory::make(name).build().unwrap();
        let (decoder, upload, there) = (make(DECODER.get().unwrap()), make("cudaupload"), make("capsfilter"));
        // As NVDEC does: damage is painted over and not said.
        decoder.set_property("output-corrupt", true);
        there.set_property_from_str("caps", "video/x-raw(memory:CUDAMemory)");
        let bin = self.obj();
        bin.add_many([&decoder, &upload, &there]).unwrap();
        gst::Element::link_many([&decoder, &upload, &there]).unwrap();
        for (element, pad) in [(&decoder, "sink"), (&there, "src")] {
            let pad = gst::GhostPad::with_target(&element.static_pad(pad).unwrap()).unwrap();
            bin.add_pad(&pad).unwrap();
        }
    }
}

impl GstObjectImpl for Uploading {}
impl ElementImpl for Uploading {}
impl BinImpl for Uploading {}

glib::wrapper! {
    pub struct Uploader(ObjectSubclass<Uploading>) @extends gst::Bin, gst::Element, gst::Object;
}

/// Makes it known as `name` in this process, decoding by `decoder`.
pub fn register(name: &str, decoder: &'static str) {
    DECODER.set(decoder).unwrap();
    gst::Element::register(None, name, gst::Rank::NONE, Uploader::static_type()).unwrap();
}

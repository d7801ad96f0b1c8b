//! Which decoder a stream gets, by what this machine's GStreamer has, and where its pictures lie then. Plugins register
//! a decoder only on machines that can run it, so finding its name is the probe; names differ by version.

use gstreamer as gst;

use super::pipeline::{Codec, set_if_there};
use super::sample::Keep;
use super::{Decode, Reader};
#[cfg(feature = "cuda")]
use super::{cuda_memory, nvmm};
#[cfg(not(feature = "cuda"))]
use super::{without_cuda as cuda_memory, without_cuda as nvmm};

/// NVDEC's decoders in GStreamer's own plugin. Up to 1.22 the ones that leave parsing to GStreamer, and so give each
/// picture at once, have names of their own; since 1.24 there are no others.
const NVCODEC: [[&str; 2]; 2] = [["nvh264sldec", "nvh264dec"], ["nvh265sldec", "nvh265dec"]];
/// NVDEC's decoder on a Jetson, and the only element there that reads what it gives.
const JETSON: (&str, &str) = ("nvv4l2decoder", "nvvidconv");

/// Where decoded pictures lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Ordinary memory.
    Host,
    /// CUDA's memory as GStreamer allocates it.
    Cuda,
    /// A Jetson's buffers.
    Nvmm,
}

/// What decodes a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decoder {
    /// The element.
    pub element: &'static str,
    /// What must come behind it.
    pub converter: Option<&'static str>,
    /// Whether the GPU decodes.
    pub on_gpu: bool,
    /// Where its pictures lie.
    pub memory: Memory,
}

/// Whether pictures can be taken from there. Says once why not.
fn works(memory: Memory) -> bool {
    match memory {
        Memory::Host => true,
        Memory::Cuda => cuda_memory::works(),
        Memory::Nvmm => nvmm::works(),
    }
}

impl Decoder {
    /// On the CPU.
    pub const fn cpu(codec: Codec) -> Self {
        let element = match codec {
            Codec::H264 => "avdec_h264",
            Codec::H265 => "avdec_h265",
        };
        Self { element, converter: None, on_gpu: false, memory: Memory::Host }
    }

    /// The best for what is wanted and for who reads the pictures.
    pub fn choose(codec: Codec, wanted: Decode, reader: Reader) -> Self {
        let has = |element: &str| gst::ElementFactory::find(element).is_some();
        Self::among(codec, wanted, reader, has, works)
    }

    fn among(
        codec: Codec,
        wanted: Decode,
        reader: Reader,
        has: impl Fn(&str) -> bool,
        works: impl Fn(Memory) -> bool,
    ) -> Self {
        let on_gpu = match wanted {
            Decode::Auto => reader == Reader::Gpu,
            Decode::Cpu => false,
            Decode::Gpu => true,
        };
        if !on_gpu {
            return Self::cpu(codec);
        }
        let memory = |there: Memory, may: bool| match may && reader == Reader::Gpu && works(there) {
            true => there,
            false => Memory::Host,
        };
        if let Some(element) = NVCODEC[codec as usize].into_iter().find(|element| has(element)) {
            let memory = memory(Memory::Cuda, true);
            return Self { element, converter: None, on_gpu, memory };
        }
        let (element, converter) = JETSON;
        if has(element) && has(converter) {
            // Nobody has seen it work yet: only for those who ask.
            let memory = memory(Memory::Nvmm, wanted == Decode::Gpu);
            return Self { element, converter: Some(converter), on_gpu, memory };
        }
        Self::cpu(codec)
    }

    /// Caps of the pictures that are taken from it.
    pub fn caps(self) -> gst::Caps {
        let raw = gst::Caps::builder("video/x-raw");
        match (self.memory, self.converter) {
            (Memory::Host, None) => raw.build(),
            (Memory::Host, Some(_)) => raw.field("format", "NV12").build(),
            (Memory::Nvmm, _) => raw.features(["memory:NVMM"]).field("format", "NV12").build(),
            (Memory::Cuda, _) => {
                let mut caps = raw.features(["memory:CUDAMemory"]).build();
                caps.merge(gst::Caps::new_empty_simple("video/x-raw"));
                caps
            }
        }
    }

    /// Sets the decoder up. What is lost on the way shows as smear until the next key frame; that is no evidence of
    /// anything.
    pub fn configure(self, element: &gst::Element) {
        let properties: &[(&str, &str)] = match self.on_gpu {
            false => &[("max-threads", "1"), ("output-corrupt", "false")],
            true => &[
                // After an error nothing until the next key frame, which is asked for.
                ("discard-corrupted-frames", "true"),
                ("automatic-request-sync-points", "true"),
                // Pictures come out as soon as their order allows.
                ("max-display-delay", "0"),
            ],
        };
        properties.iter().for_each(|(property, value)| set_if_there(element, property, value));
        if self.memory == Memory::Cuda {
            cuda_memory::give_context(element);
        }
    }

    /// What takes a picture where it lies; none for ordinary memory.
    pub fn keep(self) -> Option<Keep> {
        match self.memory {
            Memory::Cuda => Some(cuda_memory::keep),
            Memory::Nvmm => Some(nvmm::keep),
            Memory::Host => None,
        }
    }
}

impl std::fmt::Display for Decoder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match (self.on_gpu, self.memory) {
            (false, _) => " on the CPU",
            (true, Memory::Host) => " on the GPU, pictures through host memory",
            (true, _) => " on the GPU, pictures stay there",
        };
        write!(formatter, "{}{place}", self.element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::gst_log;

    fn choice(codec: Codec, wanted: Decode, reader: Reader, there: &[&str], works: bool) -> Decoder {
        Decoder::among(codec, wanted, reader, |element| there.contains(&element), |_| works)
    }

    #[test]
    fn the_decoder_follows_what_is_there_and_who_reads() {
        use {Codec::*, Decode::*};
        let debian_12 = ["nvh264dec", "nvh264sldec", "nvh265dec", "nvh265sldec"];
        let newer = ["nvh264dec", "nvh265dec"];
        let jetson = ["nvv4l2decoder", "nvvidconv"];
        let (stay, through) = ("pictures stay there", "pictures through host memory");
        for (codec, wanted, reader, there, works, element, place) in [
            (H264, Auto, Reader::Gpu, &debian_12[..], true, "nvh264sldec", stay),
            (H265, Auto, Reader::Gpu, &newer[..], true, "nvh265dec", stay),
            // GStreamer 1.20 has the decoders and no library.
            (H264, Auto, Reader::Gpu, &debian_12[..], false, "nvh264sldec", through),
            (H264, Gpu, Reader::Cpu, &newer[..], true, "nvh264dec", through),
            (H264, Auto, Reader::Cpu, &newer[..], true, "avdec_h264", "on the CPU"),
            (H264, Cpu, Reader::Gpu, &newer[..], true, "avdec_h264", "on the CPU"),
            (H265, Gpu, Reader::Gpu, &[][..], true, "avdec_h265", "on the CPU"),
            (H265, Auto, Reader::Gpu, &jetson[..], true, "nvv4l2decoder", through),
            (H265, Gpu, Reader::Gpu, &jetson[..], true, "nvv4l2decoder", stay),
            (H265, Gpu, Reader::Gpu, &jetson[..], false, "nvv4l2decoder", through),
            (H264, Gpu, Reader::Gpu, &jetson[..1], true, "avdec_h264", "on the CPU"),
        ] {
            let chosen = choice(codec, wanted, reader, there, works).to_string();
            let right = chosen.starts_with(&format!("{element} on the ")) && chosen.ends_with(place);
            assert!(right, "{codec:?} {wanted:?} {reader:?}: {chosen}");
        }
    }

    #[test]
    fn only_what_can_be_read_is_asked_for() {
        gst_log::init().unwrap();
        let caps = |there: &[&str], works| {
            choice(Codec::H264, Decode::Gpu, Reader::Gpu, there, works).caps().to_string()
        };
        assert_eq!(caps(&["nvh264dec"], true), "video/x-raw(memory:CUDAMemory); video/x-raw");
        assert_eq!(caps(&["nvh264dec"], false), "video/x-raw");
        let jetson = ["nvv4l2decoder", "nvvidconv"];
        assert_eq!(caps(&jetson, true), "video/x-raw(memory:NVMM), format=(string)NV12");
        assert_eq!(caps(&jetson, false), "video/x-raw, format=(string)NV12");
    }
}

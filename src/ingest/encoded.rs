//! A stream on its way to the decoder: what is noted of it, and what is kept from a decoder that would paint over gaps.
//! On the pipelines' threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use super::pipeline::size_out_of_bounds;

/// What is known of a stream before it is decoded.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// A size that is not accepted.
    pub oversize: OnceLock<(i32, i32)>,
    /// A picture came.
    pub arrived: AtomicBool,
    /// Pictures that the decoder was given; whoever takes pictures from it sets this to 0.
    pub fed: AtomicU64,
    /// Nothing was lost since the last key frame.
    whole: AtomicBool,
}

impl Encoded {
    /// Watches what leaves the parser. With `whole_only` nothing leaves it between a loss and the next key frame, which
    /// is asked for: a picture that was predicted from what is missing is no evidence of anything. libav knows such
    /// pictures and drops them; NVDEC does not say.
    pub fn watch(self: &Arc<Self>, parser: &gst::Pad, whole_only: bool) {
        let encoded = self.clone();
        let kinds = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER;
        parser.add_probe(kinds, move |pad, info| {
            if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
                && let Some(size) = size_out_of_bounds(caps.caps())
            {
                // The caps bound refuses it; this only remembers why.
                let _ = encoded.oversize.set(size);
            }
            let Some(flags) = info.buffer().map(|buffer| buffer.flags()) else {
                return gst::PadProbeReturn::Ok;
            };
            encoded.arrived.store(true, Ordering::Relaxed);
            let was_whole = encoded.whole.load(Ordering::Relaxed);
            let whole = encoded.note(
                flags.contains(gst::BufferFlags::DISCONT),
                flags.contains(gst::BufferFlags::DELTA_UNIT),
            );
            if whole_only && !whole {
                if was_whole {
                    // Whether the camera follows is its affair.
                    pad.send_event(gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
                }
                return gst::PadProbeReturn::Drop;
            }
            encoded.fed.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }

    /// Whether nothing is missing of a picture: `discont` says that something before it was lost, `delta` that it
    /// builds on pictures before it.
    fn note(&self, discont: bool, delta: bool) -> bool {
        let whole = !delta || (!discont && self.whole.load(Ordering::Relaxed));
        self.whole.store(whole, Ordering::Relaxed);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_between_a_loss_and_the_next_key_frame() {
        let encoded = Encoded::default();
        const KEY: bool = false;
        const DELTA: bool = true;
        // In the middle of a group, a group, a loss in it, the rest of it, the next group, which begins after a loss.
        let stream = [
            (true, DELTA, false),
            (false, DELTA, false),
            (false, KEY, true),
            (false, DELTA, true),
            (true, DELTA, false),
            (false, DELTA, false),
            (true, KEY, true),
            (false, DELTA, true),
        ];
        for (at, (discont, kind, passes)) in stream.into_iter().enumerate() {
            assert_eq!(encoded.note(discont, kind), passes, "picture {at}");
        }
    }
}

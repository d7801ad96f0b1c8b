//! Stands for `cuda_memory` and `nvmm` in a program that was built without CUDA.

use gstreamer as gst;

use crate::types::{PixelFormat, Pixels, Plane};

pub(super) fn works() -> bool {
    false
}

pub(super) fn give_context(_element: &gst::Element) {}

pub(super) fn keep(
    _buffer: &gst::Buffer,
    _format: PixelFormat,
    _planes: &[Plane],
    _size: [u32; 2],
) -> Option<Pixels> {
    None
}

//! Decoded pictures that stay in the GPU's memory: GStreamer is given CUDA's primary context, the one that the model
//! runs in, so that its addresses are good there. GStreamer's CUDA library is found when the program runs (it is not
//! part of 1.20); without it pictures come through ordinary memory. Called on the pipelines' threads.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, sys};
use gstreamer as gst;
use gstreamer::ffi;
use gstreamer::glib::translate::from_glib_full;
use gstreamer::prelude::*;
use libloading::Library;

use super::sample::fits;
use crate::backend::cuda::driver;
use crate::types::{DevicePicture, DevicePlane, PixelFormat, Pixels, Plane};

const LIBRARY: &str = "libgstcuda-1.0.so.0";
/// `GST_CUDA_MEMORY_TYPE_NAME` of gstcudamemory.h, since 1.18.
const MEMORY_TYPE: &str = "gst.cuda.memory";
/// `GST_MAP_CUDA` of gstcudamemory.h, since 1.18: the address on the device instead of a copy on the host.
const MAP_CUDA: ffi::GstMapFlags = ffi::GST_MAP_FLAG_LAST << 1;

/// `gst_cuda_memory_sync` of gstcudamemory.h.
type Sync = unsafe extern "C" fn(*mut ffi::GstMemory);

/// CUDA's context as GStreamer and we share it, for as long as the program runs.
struct Shared {
    cuda: Arc<CudaContext>,
    context: gst::Context,
    /// Since 1.24 pictures are copied by a stream that has to be waited for; before, the decoder waits.
    sync: Option<Sync>,
}

fn shared() -> Option<&'static Shared> {
    static SHARED: OnceLock<Option<Shared>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| match Shared::new() {
        Ok(shared) => Some(shared),
        Err(problem) => {
            tracing::warn!(%problem, "pictures decoded on the GPU go through host memory");
            None
        }
    });
    shared.as_ref()
}

impl Shared {
    fn new() -> Result<Self, String> {
        let (cuda, _) = driver::primary_context().map_err(|problem| problem.to_string())?;
        // SAFETY: GStreamer's own library; what runs when it is loaded is what runs in every GStreamer program.
        let library = unsafe { Library::new(LIBRARY) }
            .map_err(|_| format!("{LIBRARY} is not here; it comes with GStreamer 1.22 and newer"))?;
        // Its objects live as long as the program.
        let library = Box::leak(Box::new(library));
        let missing = |error: libloading::Error| format!("{LIBRARY} is of another kind ({error})");
        // SAFETY: types as in gstcudaloader.h, gstcudacontext.h, gstcudautils.h and gstcudamemory.h of GStreamer 1.22
        // to 1.28.
        let (load, wrap, context, sync) = unsafe {
            (
                library.get::<unsafe extern "C" fn() -> c_int>(b"gst_cuda_load_library").map_err(missing)?,
                library
                    .get::<unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void>(
                        b"gst_cuda_context_new_wrapped",
                    )
                    .map_err(missing)?,
                library
                    .get::<unsafe extern "C" fn(*mut c_void) -> *mut ffi::GstContext>(
                        b"gst_context_new_cuda_context",
                    )
                    .map_err(missing)?,
                library.get::<Sync>(b"gst_cuda_memory_sync").ok(),
            )
        };
        // SAFETY: loads libcuda and looks its functions up; the other two need that.
        if unsafe { load() } == 0 {
            return Err("GStreamer does not find all of libcuda".to_owned());
        }
        // SAFETY: the context lives as long as the program: `cuda` is kept in a static.
        let wrapped = unsafe { wrap(cuda.cu_ctx().cast(), cuda.cu_device()) };
        if wrapped.is_null() {
            return Err("GStreamer does not take CUDA's context".to_owned());
        }
        // SAFETY: `wrapped` is a GstCudaContext; the GstContext takes a reference of its own, ours is never given
        // back. It is returned to us in full.
        let context: gst::Context = unsafe { from_glib_full(context(wrapped)) };
        Ok(Self { cuda, context, sync: sync.map(|sync| *sync) })
    }
}

/// Whether pictures can stay on the GPU. Says once why not.
pub(super) fn works() -> bool {
    shared().is_some()
}

/// Gives an element the context, before it would ask for one or make its own.
pub(super) fn give_context(element: &gst::Element) {
    if let Some(shared) = shared() {
        element.set_context(&shared.context);
    }
}

/// The picture of a buffer where it lies on the GPU; none when it lies elsewhere or in another context, and has to be
/// read through ordinary memory.
pub(super) fn keep(
    buffer: &gst::Buffer,
    format: PixelFormat,
    planes: &[Plane],
    [width, height]: [u32; 2],
) -> Option<Pixels> {
    let shared = shared()?;
    if buffer.n_memory() != 1 || !buffer.peek_memory(0).is_type(MEMORY_TYPE) {
        return None;
    }
    let picture = Picture::map(buffer.clone(), planes)?;
    if let Some(sync) = shared.sync {
        // SAFETY: it is a GstCudaMemory, by its type's name, and mapped.
        unsafe { sync(picture.map.memory) };
    }
    let base = picture.map.data as u64;
    if !shared.owns(base) || !fits(planes, format, width, height, picture.map.size) {
        return None;
    }
    let plane = |plane: &Plane| DevicePlane { address: base + plane.offset as u64, stride: plane.stride };
    let on_device = planes.iter().map(plane).collect();
    Some(Pixels::Cuda { format, planes: on_device, picture: Arc::new(picture) })
}

impl Shared {
    /// Whether the memory is of our context. An address of another one would break ours.
    fn owns(&self, address: u64) -> bool {
        let mut context: sys::CUcontext = std::ptr::null_mut();
        let attribute = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_CONTEXT;
        // SAFETY: the attribute is a context, and there is room for one.
        let result = unsafe { sys::cuPointerGetAttribute((&raw mut context).cast(), attribute, address) };
        result.result().is_ok() && context == self.cuda.cu_ctx()
    }
}

/// A buffer of the decoder, mapped for the device. It goes back to the decoder when the last frame of it is dropped.
struct Picture {
    buffer: gst::Buffer,
    map: ffi::GstMapInfo,
    planes: Vec<Plane>,
    host: OnceLock<Option<gst::MappedBuffer<gst::buffer::Readable>>>,
}

// SAFETY: GStreamer's memory may be used and released on any thread; the map is not changed after it was made.
unsafe impl Send for Picture {}
// SAFETY: as above; mapping for the host is guarded by `host` here and by a lock of the memory there.
unsafe impl std::marker::Sync for Picture {}

impl Picture {
    fn map(buffer: gst::Buffer, planes: &[Plane]) -> Option<Self> {
        let mut map = std::mem::MaybeUninit::uninit();
        let memory = buffer.peek_memory(0).as_mut_ptr();
        // SAFETY: the memory lives as long as its buffer, which is kept until it is unmapped; read access is shared.
        let mapped = unsafe { ffi::gst_memory_map(memory, map.as_mut_ptr(), ffi::GST_MAP_READ | MAP_CUDA) };
        // SAFETY: filled when it says so.
        let map = (mapped != 0).then(|| unsafe { map.assume_init() })?;
        Some(Self { buffer, map, planes: planes.to_vec(), host: OnceLock::new() })
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, by this structure.
        unsafe { ffi::gst_memory_unmap(self.map.memory, &raw mut self.map) };
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Picture").field("bytes", &self.map.size).finish_non_exhaustive()
    }
}

impl DevicePicture for Picture {
    fn host(&self) -> Result<(&[u8], &[Plane]), &str> {
        let mapped = self.host.get_or_init(|| self.buffer.clone().into_mapped_buffer_readable().ok());
        let mapped = mapped.as_ref().ok_or("GStreamer cannot copy it")?;
        Ok((mapped.as_slice(), &self.planes))
    }
}

//! A Jetson's decoded pictures (NVMM) into CUDA's memory, without the CPU: NvBufSurface to EGLImage to CUDA, one copy on
//! the device, because the decoder has few buffers and waits for them. Both libraries are found when the program runs.
//! Called on the pipelines' threads.
//!
//! Not executed on a device: written after nvbufsurface.h of JetPack 4.6 to 6 (the part that is used did not change) and
//! cudaEGL.h of CUDA 12, and tested with the layout of the structures only. So it serves `decode: gpu` and nothing else.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result, sys};
use gstreamer as gst;
use libloading::Library;

use crate::backend::cuda::driver;
use crate::types::{DevicePicture, DevicePlane, PixelFormat, Pixels, Plane};

const SURFACE_LIBRARIES: [&str; 2] = ["libnvbufsurface.so.1.0.0", "libnvbufsurface.so"];
/// `NVBUF_MAX_PLANES`.
const MOST_PLANES: usize = 4;
/// `NVBUF_LAYOUT_PITCH`.
const LAYOUT_PITCH: c_uint = 0;
/// `CU_EGL_FRAME_TYPE_PITCH`.
const FRAME_PITCH: c_uint = 1;

/// `NvBufSurface`, as far as it is read.
#[repr(C)]
struct Surface {
    gpu: u32,
    batch: u32,
    filled: u32,
    is_contiguous: bool,
    memory: c_uint,
    list: *mut SurfaceParams,
}

/// `NvBufSurfaceParams`, as far as it is read.
#[repr(C)]
struct SurfaceParams {
    width: u32,
    height: u32,
    pitch: u32,
    colour: c_uint,
    layout: c_uint,
    descriptor: u64,
    bytes: u32,
    data: *mut c_void,
    planes: PlaneParams,
    mapped: [*mut c_void; MOST_PLANES],
    egl_image: *mut c_void,
}

/// `NvBufSurfacePlaneParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PlaneParams {
    count: u32,
    width: [u32; MOST_PLANES],
    height: [u32; MOST_PLANES],
    pitch: [u32; MOST_PLANES],
    offset: [u32; MOST_PLANES],
    bytes: [u32; MOST_PLANES],
    sample_bytes: [u32; MOST_PLANES],
    reserved: [*mut c_void; 4 * MOST_PLANES],
}

/// `CUeglFrame` of a frame whose planes are plain memory.
#[repr(C)]
struct EglFrame {
    planes: [u64; 3],
    width: c_uint,
    height: c_uint,
    depth: c_uint,
    pitch: c_uint,
    plane_count: c_uint,
    channels: c_uint,
    kind: c_uint,
    colour: c_uint,
    format: c_uint,
}

type OfSurface = unsafe extern "C" fn(*mut Surface, c_int) -> c_int;
type Register = unsafe extern "C" fn(*mut sys::CUgraphicsResource, *mut c_void, c_uint) -> c_uint;
type Mapped = unsafe extern "C" fn(*mut EglFrame, sys::CUgraphicsResource, c_uint, c_uint) -> c_uint;

struct Jetson {
    stream: Arc<CudaStream>,
    /// `NvBufSurfaceMapEglImage` and `NvBufSurfaceUnMapEglImage`.
    to_egl: OfSurface,
    from_egl: OfSurface,
    /// `cuGraphicsEGLRegisterImage` and `cuGraphicsResourceGetMappedEglFrame`.
    register: Register,
    mapped: Mapped,
}

fn jetson() -> Option<&'static Jetson> {
    static JETSON: OnceLock<Option<Jetson>> = OnceLock::new();
    let jetson = JETSON.get_or_init(|| match Jetson::new() {
        Ok(jetson) => Some(jetson),
        Err(problem) => {
            tracing::warn!(%problem, "pictures of the Jetson's decoder go through host memory");
            None
        }
    });
    jetson.as_ref()
}

impl Jetson {
    fn new() -> Result<Self, String> {
        let (context, _) = driver::primary_context().map_err(|problem| problem.to_string())?;
        let stream = context.new_stream().map_err(|error| driver::words(&error))?;
        let open = |name: &str| {
            // SAFETY: NVIDIA's own libraries, which GStreamer's elements and CUDA load as well.
            let library = unsafe { Library::new(name) };
            // What is found in it is used as long as the program runs.
            library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| error.to_string())
        };
        let surfaces = SURFACE_LIBRARIES.iter().find_map(|name| open(name).ok());
        let surfaces = surfaces.ok_or_else(|| format!("{} is not here", SURFACE_LIBRARIES[0]))?;
        let cuda = open("libcuda.so.1")?;
        let missing = |error: libloading::Error| error.to_string();
        // SAFETY: types as in nvbufsurface.h and cudaEGL.h.
        unsafe {
            Ok(Self {
                stream,
                to_egl: *surfaces.get(b"NvBufSurfaceMapEglImage").map_err(missing)?,
                from_egl: *surfaces.get(b"NvBufSurfaceUnMapEglImage").map_err(missing)?,
                register: *cuda.get(b"cuGraphicsEGLRegisterImage").map_err(missing)?,
                mapped: *cuda.get(b"cuGraphicsResourceGetMappedEglFrame").map_err(missing)?,
            })
        }
    }

    /// The two planes of a surface, copied one after the other; none when it is not what nvvidconv was asked for.
    fn copy(&self, surface: *mut Surface, [width, height]: [u32; 2]) -> Option<Copied> {
        // SAFETY: the buffer's bytes are an NvBufSurface.
        let (batch, params) = unsafe { ((*surface).batch, (*surface).list) };
        if batch != 1 || params.is_null() {
            return None;
        }
        // SAFETY: the list has one entry.
        let (found, layout, planes) =
            unsafe { ([(*params).width, (*params).height], (*params).layout, (*params).planes) };
        if found != [width, height] || layout != LAYOUT_PITCH || planes.count != 2 {
            return None;
        }
        // SAFETY: index 0 is there; what is mapped is unmapped below.
        if unsafe { (self.to_egl)(surface, 0) } != 0 {
            return None;
        }
        // SAFETY: written by the call.
        let image = unsafe { (*params).egl_image };
        let copied = self.copy_image(image, &planes, [width as usize, height as usize]);
        // SAFETY: as it was mapped. Nothing can be done when it fails.
        let _ = unsafe { (self.from_egl)(surface, 0) };
        copied
    }

    fn copy_image(&self, image: *mut c_void, planes: &PlaneParams, size: [usize; 2]) -> Option<Copied> {
        self.stream.context().bind_to_thread().ok()?;
        let mut resource: sys::CUgraphicsResource = std::ptr::null_mut();
        // SAFETY: an EGLImage that lives until the surface is unmapped; no flags.
        if unsafe { (self.register)(&raw mut resource, image, 0) } != 0 {
            return None;
        }
        let mut frame = std::mem::MaybeUninit::<EglFrame>::zeroed();
        // SAFETY: the resource was registered; index and level 0 are there.
        let found = unsafe { (self.mapped)(frame.as_mut_ptr(), resource, 0, 0) } == 0;
        // SAFETY: numbers, zero where nothing was written.
        let frame = unsafe { frame.assume_init() };
        let usable = found && frame.kind == FRAME_PITCH && frame.plane_count == 2;
        let copied = usable.then(|| self.copy_planes(&frame, planes, size)).flatten();
        // SAFETY: registered above, and the copy is done.
        let _ = unsafe { sys::cuGraphicsUnregisterResource(resource) };
        copied
    }

    fn copy_planes(
        &self,
        frame: &EglFrame,
        planes: &PlaneParams,
        [width, height]: [usize; 2],
    ) -> Option<Copied> {
        let mut places = vec![];
        let mut copies = vec![];
        let mut end = 0;
        for (index, [row, rows]) in PixelFormat::Nv12.plane_sizes(width, height).into_iter().enumerate() {
            let stride = usize::try_from(planes.pitch[index]).ok().filter(|stride| *stride >= row)?;
            let length = stride * rows.checked_sub(1)? + row;
            places.push(Plane { offset: end, stride });
            copies.push((frame.planes[index], end, length));
            end += length.next_multiple_of(256);
        }
        // SAFETY: written below before anything is read; what lies between the planes is never looked at.
        let memory = unsafe { self.stream.alloc::<u8>(end) }.ok()?;
        let base = memory.device_ptr(&self.stream).0;
        let copied = copies.into_iter().try_for_each(|(from, to, length)| {
            // SAFETY: rows of the surface's plane, and a place in `memory`; both live until the stream has run, below.
            unsafe { result::memcpy_dtod_async(base + to as u64, from, length, self.stream.cu_stream()) }
        });
        self.stream.synchronize().and(copied).ok()?;
        Some(Copied { stream: self.stream.clone(), memory, planes: places, host: OnceLock::new() })
    }
}

/// Whether a Jetson's pictures can stay on the GPU. Says once why not.
pub(super) fn works() -> bool {
    jetson().is_some()
}

/// The picture of a buffer, copied on the device.
pub(super) fn keep(
    buffer: &gst::Buffer,
    format: PixelFormat,
    _planes: &[Plane],
    size: [u32; 2],
) -> Option<Pixels> {
    let map = buffer.map_readable().ok()?;
    if format != PixelFormat::Nv12 || map.size() < size_of::<Surface>() {
        return None;
    }
    let surface = map.as_ptr().cast_mut().cast::<Surface>();
    if !surface.is_aligned() {
        return None;
    }
    let picture = jetson()?.copy(surface, size)?;
    let base = picture.memory.device_ptr(&picture.stream).0;
    let plane = |plane: &Plane| DevicePlane { address: base + plane.offset as u64, stride: plane.stride };
    let planes = picture.planes.iter().map(plane).collect();
    Some(Pixels::Cuda { format, planes, picture: Arc::new(picture) })
}

/// A picture in memory of our own.
struct Copied {
    stream: Arc<CudaStream>,
    memory: CudaSlice<u8>,
    planes: Vec<Plane>,
    host: OnceLock<Option<Vec<u8>>>,
}

impl std::fmt::Debug for Copied {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Copied").field("bytes", &self.memory.len()).finish_non_exhaustive()
    }
}

impl DevicePicture for Copied {
    fn host(&self) -> Result<(&[u8], &[Plane]), &str> {
        let copy = || {
            self.stream.context().bind_to_thread().ok()?;
            self.stream.clone_dtoh(&self.memory).ok()
        };
        let bytes = self.host.get_or_init(copy).as_ref().ok_or("CUDA cannot copy it")?;
        Ok((bytes, &self.planes))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// By hand from the headers, for 64-bit pointers.
    #[test]
    fn structures_are_those_of_the_headers() {
        assert_eq!((offset_of!(Surface, memory), offset_of!(Surface, list)), (16, 24));
        assert_eq!(size_of::<PlaneParams>(), 104 + 128);
        assert_eq!(offset_of!(SurfaceParams, layout), 16);
        assert_eq!(offset_of!(SurfaceParams, descriptor), 24);
        assert_eq!(offset_of!(SurfaceParams, planes), 48);
        assert_eq!(offset_of!(SurfaceParams, mapped), 280);
        assert_eq!(offset_of!(SurfaceParams, egl_image), 312);
        assert_eq!((offset_of!(EglFrame, kind), size_of::<EglFrame>()), (48, 64));
    }

    #[test]
    fn a_machine_that_is_no_jetson_says_so() {
        assert!(!works());
    }
}

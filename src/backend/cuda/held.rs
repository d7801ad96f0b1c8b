//! A picture of ordinary memory copied to the device, as a decoder there leaves it: for measurements and tests.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr};

use super::driver::Gpu;
use super::picture::{Bytes, Source};
use super::preprocessor::{Error, cuda};
use crate::types::{DevicePicture, DevicePlane, Frame, Pixels, Plane};

/// Rows of a decoder's pictures begin at multiples of this (NVDEC's are 256 to 512 bytes apart).
const ROW_ALIGNMENT: usize = 256;

/// The memory of one picture.
#[derive(Debug)]
struct Held {
    _memory: CudaSlice<u8>,
    host: Vec<u8>,
    planes: Vec<Plane>,
}

impl DevicePicture for Held {
    fn host(&self) -> Result<(&[u8], &[Plane]), &str> {
        Ok((&self.host, &self.planes))
    }
}

impl Gpu {
    /// The same frame with its pixels on the device. Fails when its planes are not what its size needs, or CUDA does.
    pub fn hold(&self, frame: &Frame) -> Result<Frame, Error> {
        let bad = |problem| Error::Frame { camera: frame.camera.to_string(), seq: frame.seq, problem };
        let source = Source::on_host(frame).map_err(bad)?;
        let (mut host, mut planes) = (vec![], vec![]);
        for plane in &source.planes {
            let Bytes::Host(data) = plane.bytes else { continue };
            let stride = plane.row_bytes.next_multiple_of(ROW_ALIGNMENT);
            planes.push(Plane { offset: host.len(), stride });
            for row in data.chunks(plane.stride) {
                host.extend_from_slice(&row[..plane.row_bytes]);
                host.resize(host.len().next_multiple_of(ROW_ALIGNMENT), 0);
            }
        }
        let stream = self.context().default_stream();
        let memory = stream.clone_htod(&host).map_err(cuda("copying a picture to the device"))?;
        stream.synchronize().map_err(cuda("copying a picture to the device"))?;
        let address = memory.device_ptr(&stream).0;
        let on_device =
            |plane: &Plane| DevicePlane { address: address + plane.offset as u64, stride: plane.stride };
        Ok(Frame {
            pixels: Pixels::Cuda {
                format: source.format,
                planes: planes.iter().map(on_device).collect(),
                picture: Arc::new(Held { _memory: memory, host, planes }),
            },
            ..frame.clone()
        })
    }
}

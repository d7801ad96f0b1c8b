//! What the kernels of `kernels/standoff.cu` are given: their structures, byte for byte, and the shape of a launch.
//! Pure.

use crate::preprocess::color::Conversion;
use crate::preprocess::{Geometry, MEAN, STD};

/// Pictures of one launch.
pub const MAX_PICTURES: usize = 16;
/// Points of the second set that a block of `nearest_pair` looks at at a time.
pub const PAIR_TILE: usize = 256;
/// Counters that `zone_histogram` keeps in shared memory; more are counted in global memory.
pub const KEPT_COUNTERS: usize = 8192;
/// Shared memory that every device gives a block without being asked (CUDA C++ Programming Guide, "Compute
/// Capabilities").
pub const SHARED_BYTES: usize = 48 * 1024;
/// Threads of a block; the kernels are compiled for no more.
pub const THREADS: u32 = 256;
/// Output pixels of a tile of `yuv_to_nchw_tiled`: a warp writes one row of it.
const TILE: [usize; 2] = [32, 8];

/// The kernels by their names in the PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Pictures to the model's input, through shared memory.
    YuvToNchwTiled,
    /// The same, each pixel by itself: the oracle of the other.
    YuvToNchwDirect,
    /// A depth map to points.
    DepthToPoints,
    /// The nearest two points of two sets.
    NearestPair,
    /// How the values of a map are spread in each zone.
    ZoneHistogram,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::YuvToNchwTiled,
        Self::YuvToNchwDirect,
        Self::DepthToPoints,
        Self::NearestPair,
        Self::ZoneHistogram,
    ];

    /// Its name in the PTX.
    pub fn name(self) -> &'static str {
        match self {
            Self::YuvToNchwTiled => "yuv_to_nchw_tiled",
            Self::YuvToNchwDirect => "yuv_to_nchw_direct",
            Self::DepthToPoints => "depth_to_points",
            Self::NearestPair => "nearest_pair",
            Self::ZoneHistogram => "zone_histogram",
        }
    }

    /// Bytes of its structure.
    pub fn parameter_bytes(self) -> usize {
        match self {
            Self::YuvToNchwTiled | Self::YuvToNchwDirect => size_of::<Batch>(),
            Self::DepthToPoints => size_of::<DepthToPoints>(),
            Self::NearestPair => size_of::<NearestPair>(),
            Self::ZoneHistogram => size_of::<ZoneHistogram>(),
        }
    }
}

/// Blocks, threads of a block and bytes of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of shared memory a block.
    pub shared_bytes: u32,
}

impl Shape {
    fn line(items: usize, shared_bytes: usize) -> Self {
        let blocks = u32::try_from(items.div_ceil(THREADS as usize)).unwrap_or(u32::MAX).max(1);
        let shared_bytes = u32::try_from(shared_bytes).unwrap_or(u32::MAX);
        Self { grid: [blocks, 1, 1], block: [THREADS, 1, 1], shared_bytes }
    }
}

/// One axis of a resampling in device memory; `struct Axis`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Address of `length` numbers: the first sample of each output.
    pub starts: u64,
    /// Address of `length` numbers: how many samples each output takes.
    pub counts: u64,
    /// Address of the weights: weight `k` of output `i` is number `k * length + i`.
    pub weights: u64,
    /// Outputs.
    pub length: i64,
}

/// One plane in device memory; `struct Plane`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plane {
    /// Address of its first sample.
    pub data: u64,
    /// Bytes from one row to the next.
    pub pitch: i32,
    /// Bytes from one sample to the next.
    pub step: i32,
    /// Bytes of a row that may be read, from `data`.
    pub row_bytes: i32,
}

/// One picture; `struct Picture`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Picture {
    /// Y, U, V.
    pub planes: [Plane; 3],
    /// Address of four [`Axis`]: luma across, luma down, chroma across, chroma down.
    pub axes: u64,
    /// Column and row of the input where the picture begins, its width and height there.
    pub place: [i32; 4],
    /// Weight of Y in each of R, G and B.
    pub scale_y: f32,
    /// Weights of U in R, G and B.
    pub from_u: [f32; 3],
    /// Weights of V in R, G and B.
    pub from_v: [f32; 3],
    /// What is added to R, G and B.
    pub bias: [f32; 3],
}

impl Picture {
    /// A picture whose planes and tables are at these addresses.
    pub fn new(planes: [Plane; 3], axes: u64, geometry: &Geometry, conversion: &Conversion) -> Self {
        let Conversion { scale_y, from_u, from_v, bias } = *conversion;
        // An input has far fewer pixels a side than 2^31.
        let place = geometry.place().map(|side| i32::try_from(side).unwrap_or(i32::MAX));
        Self { planes, axes, place, scale_y, from_u, from_v, bias }
    }
}

/// A launch of `yuv_to_nchw_tiled` and `yuv_to_nchw_direct`; `struct Batch`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch {
    /// The pictures; those beyond the launch's are not looked at.
    pub pictures: [Picture; MAX_PICTURES],
    /// Address of the output, `[pictures, 3, height, width]`.
    pub out: u64,
    /// Width and height of the input in pixels.
    pub input: [i32; 2],
    /// Whether the output holds 16-bit floats instead of 32-bit ones.
    pub half: i32,
    /// Output pixels of a tile, across and down.
    pub tile: [i32; 2],
    /// Samples of one row of luma and of chroma that a tile keeps.
    pub pitches: [i32; 2],
    /// 1 / deviation of each channel.
    pub gain: [f32; 3],
    /// -mean / deviation of each channel.
    pub shift: [f32; 3],
    /// Makes the length a multiple of 8, as in C.
    pub padding: i32,
}

impl Batch {
    /// For up to [`MAX_PICTURES`] pictures, each with its geometry, into `out`.
    pub fn new(pictures: &[(Picture, &Geometry)], input: [u32; 2], out: u64, half: bool) -> Self {
        let mut all = [Picture::default(); MAX_PICTURES];
        all.iter_mut().zip(pictures).for_each(|(to, (picture, _))| *to = *picture);
        let side = |side: usize| i32::try_from(side).unwrap_or(i32::MAX);
        let kept = pictures.iter().map(|(_, geometry)| kept_samples(geometry));
        let pitches = kept.fold([4, 4], |most, kept| [most[0].max(kept[0]), most[1].max(kept[1])]);
        Self {
            pictures: all,
            out,
            input: input.map(|side| i32::try_from(side).unwrap_or(i32::MAX)),
            half: i32::from(half),
            tile: [side(TILE[0]), side(tile_rows(pitches))],
            pitches: pitches.map(side),
            gain: [0, 1, 2].map(|c| (1.0 / f64::from(STD[c])) as f32),
            shift: [0, 1, 2].map(|c| (-f64::from(MEAN[c]) / f64::from(STD[c])) as f32),
            padding: 0,
        }
    }

    /// Which kernel runs it: the tiled one, unless even one row of a tile is too long for shared memory.
    pub fn kernel(&self) -> Kernel {
        if self.tile[1] == 0 { Kernel::YuvToNchwDirect } else { Kernel::YuvToNchwTiled }
    }

    /// The shape of its launch for the first `pictures` pictures.
    pub fn shape(&self, kernel: Kernel, pictures: usize) -> Shape {
        let [width, height] = self.input.map(i32::unsigned_abs);
        let pictures = u32::try_from(pictures).unwrap_or(u32::MAX);
        if kernel == Kernel::YuvToNchwDirect {
            let block = [32, THREADS / 32, 1];
            let grid = [width.div_ceil(block[0]), height.div_ceil(block[1]), pictures];
            return Shape { grid, block, shared_bytes: 0 };
        }
        let [across, down] = self.tile.map(|side| side.unsigned_abs().max(1));
        let [luma, chroma] = self.pitches.map(i32::unsigned_abs);
        Shape {
            grid: [width.div_ceil(across), height.div_ceil(down), pictures],
            block: [THREADS, 1, 1],
            shared_bytes: down * (luma + 2 * chroma) * size_of::<f32>() as u32,
        }
    }
}

/// Rows of a tile that fit into shared memory, 0 when not even one does.
fn tile_rows([luma, chroma]: [usize; 2]) -> usize {
    (SHARED_BYTES / size_of::<f32>() / (luma + 2 * chroma)).min(TILE[1])
}

/// Samples of a row of luma and of chroma that the widest tile needs, from a multiple of four to a multiple of four.
fn kept_samples(geometry: &Geometry) -> [usize; 2] {
    let [left, _, width, _] = geometry.place();
    [&geometry.luma[0], &geometry.chroma[0]].map(|axis| {
        let outputs: Vec<(usize, usize)> =
            axis.outputs().map(|(start, weights)| (start, start + weights.len())).collect();
        // A tile covers input columns [32 i, 32 i + 32), of which the picture has those from `left` on.
        let tiles = (0..(left + width).div_ceil(TILE[0])).filter_map(|tile| {
            let first = (tile * TILE[0]).saturating_sub(left);
            let last = ((tile + 1) * TILE[0]).saturating_sub(left).min(width).checked_sub(1)?;
            Some(outputs.get(last)?.1 - outputs.get(first)?.0 / 4 * 4)
        });
        tiles.max().unwrap_or(0).next_multiple_of(4)
    })
}

/// A launch of `depth_to_points`; `struct DepthToPoints`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DepthToPoints {
    /// Address of `count` depths along the camera's axis.
    pub depth: u64,
    /// Address of `3 * count` numbers: x, then y, then z of the ray through each place, z being 1.
    pub rays: u64,
    /// Address of `3 * count` numbers that are written: x, then y, then z of each point.
    pub points: u64,
    /// Places of the map.
    pub count: i64,
    /// Metres a unit of depth.
    pub scale: f32,
    /// Metres of depth 0.
    pub shift: f32,
    /// Rotation and translation to the ground's axes, 3 rows of 4.
    pub ground_from_camera: [f32; 12],
}

impl DepthToPoints {
    /// The shape of its launch.
    pub fn shape(&self) -> Shape {
        Shape::line(usize::try_from(self.count).unwrap_or(0), 0)
    }
}

/// A launch of `nearest_pair`; `struct NearestPair`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NearestPair {
    /// Addresses of x and y in metres of the first set, then of the second.
    pub coordinates: [u64; 4],
    /// Address of a 64-bit number that holds `u64::MAX` before: the key of the nearest two, see [`pair_of_key`].
    pub best: u64,
    /// Points of each set, at most 65,536.
    pub counts: [i32; 2],
}

impl NearestPair {
    /// The shape of its launch.
    pub fn shape(&self) -> Shape {
        let kept = 2 * PAIR_TILE * size_of::<f32>();
        Shape::line(usize::try_from(self.counts[0]).unwrap_or(0), kept)
    }
}

/// Distance in metres and the numbers of the two points that a key of `nearest_pair` means; none when no two
/// points were there.
pub fn pair_of_key(key: u64) -> Option<(f32, usize, usize)> {
    let square = f32::from_bits((key >> 32) as u32);
    (key != u64::MAX).then_some((square.sqrt(), (key >> 16 & 0xffff) as usize, (key & 0xffff) as usize))
}

/// A launch of `zone_histogram`; `struct ZoneHistogram`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ZoneHistogram {
    /// Address of `count` values.
    pub values: u64,
    /// Address of `count` bytes: the zone of each value, 0 for none.
    pub zone: u64,
    /// Address of `zones * bins` 32-bit counters, which are added to.
    pub counters: u64,
    /// Places of the map.
    pub count: i64,
    /// Zones.
    pub zones: i32,
    /// Bins a zone.
    pub bins: i32,
    /// Value at the lower end of the first bin.
    pub low: f32,
    /// Bins a unit.
    pub bins_a_unit: f32,
}

impl ZoneHistogram {
    /// The shape of its launch: few blocks, each with many values, because each adds its counters to the others'.
    pub fn shape(&self) -> Shape {
        let values = usize::try_from(self.count).unwrap_or(0);
        let counters = usize::try_from(i64::from(self.zones) * i64::from(self.bins)).unwrap_or(0);
        let kept = if counters <= KEPT_COUNTERS { counters * size_of::<u32>() } else { 0 };
        Shape::line(values.div_ceil(16), kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChromaSiting;

    fn batch_of(source: [u32; 2], input: [u32; 2]) -> Batch {
        let geometry = Geometry::new(source, ChromaSiting::MPEG2, input);
        Batch::new(&[(Picture::default(), &geometry)], input, 0, true)
    }

    #[test]
    fn structures_are_as_long_as_in_the_ptx() {
        let ptx = super::super::driver::PTX;
        for kernel in Kernel::ALL {
            let said = format!("{}_param_0[{}]", kernel.name(), kernel.parameter_bytes());
            assert!(ptx.contains(&said), "{said}");
        }
    }

    #[test]
    fn a_tile_fits_into_shared_memory_or_the_direct_kernel_runs() {
        let full_hd = batch_of([1920, 1080], [392, 224]);
        assert_eq!((full_hd.kernel(), full_hd.tile), (Kernel::YuvToNchwTiled, [32, 8]));
        let shape = full_hd.shape(full_hd.kernel(), 3);
        assert_eq!((shape.grid, shape.block), ([13, 28, 3], [256, 1, 1]));
        for (source, kernel) in
            [([3840, 2160], Kernel::YuvToNchwTiled), ([60_000, 100], Kernel::YuvToNchwDirect)]
        {
            let batch = batch_of(source, [224, 224]);
            assert_eq!(batch.kernel(), kernel, "{source:?}");
            assert!(batch.shape(kernel, 1).shared_bytes as usize <= SHARED_BYTES);
        }
    }

    #[test]
    fn a_key_is_distance_and_numbers() {
        let key = u64::from(6.25f32.to_bits()) << 32 | 7 << 16 | 65_535;
        assert_eq!(pair_of_key(key), Some((2.5, 7, 65_535)));
        assert_eq!(pair_of_key(u64::MAX), None);
    }
}

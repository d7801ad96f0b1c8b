//! The kernels on the device: bit for bit the CPU build's, close to float64, and how long they take beside what moving
//! their bytes and starting them takes.

use std::sync::Arc;

use anyhow::Context;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, sys};
use half::f16;
use serde::{Deserialize, Serialize};

use super::median;
use crate::backend::cuda::launch::{
    DepthToPoints, Kernel, MAX_PICTURES, NearestPair, ZoneHistogram, pair_of_key,
};
use crate::backend::cuda::{Gpu, Preprocessor, host};
use crate::clock::{Timestamp, UtcMillis};
use crate::preprocess::reference;
use crate::types::{CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, PixelFormat};

/// Normalised units: what a kernel may be away from float64 with 32-bit and with 16-bit output. Half of the last digit
/// of a 16-bit float between 2 and 4 is 9.8e-4.
const TOLERANCES: [f64; 2] = [1e-5, 1.2e-3];
/// Launches of which one time is taken.
const LAUNCHES: usize = 50;
/// Times of which the middle one counts.
const ROUNDS: usize = 15;
/// What takes longer than this is measured once: it is no GPU's time.
const SLOW_US: f64 = 50_000.0;
/// The model's input.
const INPUT: [u32; 2] = [392, 224];

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kernels {
    /// Device against CPU build.
    pub bits: Vec<Bits>,
    /// Device against float64: largest difference of 32-bit and of 16-bit output, in normalised units.
    pub from_float64: [f64; 2],
    /// How long the preprocessing takes.
    pub speed: Vec<Speed>,
    /// Bytes read and written a second by a copy inside the device's memory, in GB.
    pub bandwidth_gb_s: f64,
    /// Time of a launch that does nothing, one after the other in a stream.
    pub launch_us: f64,
}

/// One comparison, bit by bit.
#[derive(Debug, Serialize, Deserialize)]
pub struct Bits {
    /// What was compared.
    pub what: String,
    /// Values that were compared.
    pub values: usize,
    /// Values that differ.
    pub differing: usize,
}

/// The time of one launch of the preprocessing from 1920 x 1080 NV12.
#[derive(Debug, Serialize, Deserialize)]
pub struct Speed {
    /// Pictures of a launch.
    pub pictures: usize,
    /// Its time.
    pub kernel_us: f64,
    /// Time that its bytes, read and written once, take at the bandwidth that was measured.
    pub bytes_us: f64,
    /// Its time over the larger of that and of a launch that does nothing.
    pub over_floor: f64,
}

impl Kernels {
    /// Whether all of it is right. Speed is no matter of right and wrong.
    pub fn good(&self) -> bool {
        let same = self.bits.iter().all(|bits| bits.differing == 0);
        same && self.from_float64.iter().zip(TOLERANCES).all(|(found, most)| *found <= most)
    }
}

/// Compares and measures. `once`: no times.
pub fn check(gpu: &Gpu, once: bool) -> anyhow::Result<Kernels> {
    let mut bits = vec![];
    let mut from_float64 = [0.0f64; 2];
    for half in [false, true] {
        for pictures in [1, 4, MAX_PICTURES] {
            let (compared, difference) = preprocessing(gpu, pictures, half)?;
            println!("  {}: {} of {} values differ", compared.what, compared.differing, compared.values);
            bits.push(compared);
            from_float64[usize::from(half)] = from_float64[usize::from(half)].max(difference);
        }
    }
    let [full, halves] = from_float64;
    println!("  from float64: at most {full:.1e} (32 bits), {halves:.1e} (16 bits)");
    for compared in [points(gpu)?, pairs(gpu)?, histogram(gpu)?] {
        println!("  {}: {} of {} values differ", compared.what, compared.differing, compared.values);
        bits.push(compared);
    }
    let mut found = Kernels { bits, from_float64, speed: vec![], bandwidth_gb_s: 0.0, launch_us: 0.0 };
    if !once {
        found.bandwidth_gb_s = bandwidth(gpu)?;
        found.launch_us = launch_time(gpu)?;
        println!("  memory {:.0} GB/s, a launch {:.2} us", found.bandwidth_gb_s, found.launch_us);
        for pictures in [1, 2, 4, 8, MAX_PICTURES] {
            let speed = speed(gpu, pictures, found.bandwidth_gb_s, found.launch_us)?;
            println!(
                "  {pictures:2} pictures of 1920 x 1080: {:.2} us, their bytes {:.2} us, {:.2} x the floor",
                speed.kernel_us, speed.bytes_us, speed.over_floor
            );
            found.speed.push(speed);
        }
    }
    Ok(found)
}

/// Both preprocessing kernels on pictures of odd and even sizes, against the CPU build and, in places, float64.
fn preprocessing(gpu: &Gpu, pictures: usize, half: bool) -> anyhow::Result<(Bits, f64)> {
    let sizes = [(1920, 1080), (641, 359), (1279, 963), (640, 360), (2, 700), (97, 61)];
    let formats = [PixelFormat::Nv12, PixelFormat::I420];
    let frames: Vec<Frame> = (0..pictures)
        .map(|at| {
            let (width, height) = sizes[at % sizes.len()];
            random_frame(width, height, formats[at % 2], at as u64 + 1)
        })
        .collect::<Result<_, _>>()?;
    let stream = gpu.context().new_stream()?;
    let mut preprocessor = Preprocessor::new(gpu, stream.clone(), INPUT, pictures, half)?;
    let what = format!("preprocessing, {pictures} pictures, {} bits", if half { 16 } else { 32 });
    let mut bits = Bits { what, values: 0, differing: 0 };
    let mut worst = 0.0f64;
    for kernel in [Kernel::YuvToNchwTiled, Kernel::YuvToNchwDirect] {
        let expected =
            host::preprocess(kernel, &frames, INPUT, half).context("the CPU build of the kernels")?;
        let uploaded = preprocessor.upload(&frames)?;
        preprocessor.launch_as(&uploaded, |_| kernel)?;
        let found = numbers(&preprocessor.download()?, half);
        for (at, (transform, expected)) in expected.iter().enumerate() {
            let found = &found[at * expected.len()..][..expected.len()];
            bits.values += expected.len();
            bits.differing += differing(found, expected);
            if kernel == Kernel::YuvToNchwTiled && at < 6 {
                worst = worst.max(reference::worst(&frames[at], transform, found, 211));
            }
        }
    }
    Ok((bits, worst))
}

/// A picture of noise, as a decoder gives a camera's.
pub(super) fn random_frame(width: u32, height: u32, format: PixelFormat, seed: u64) -> anyhow::Result<Frame> {
    Ok(Frame {
        camera: CameraId::new("gpu-check")?,
        seq: seed,
        captured: Timestamp::default(),
        captured_utc: UtcMillis(0),
        arrived: Timestamp::default(),
        width,
        height,
        pixels: reference::random_pixels(width, height, format, seed),
        matrix: ColorMatrix::Bt709,
        range: ColorRange::Limited,
        siting: ChromaSiting::MPEG2,
    })
}

fn numbers(bytes: &[u8], half: bool) -> Vec<f32> {
    if half {
        return bytes.as_chunks().0.iter().map(|bytes| f16::from_ne_bytes(*bytes).to_f32()).collect();
    }
    bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
}

fn differing(found: &[f32], expected: &[f32]) -> usize {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    found.iter().zip(expected).filter(|pair| !same(*pair)).count()
}

/// Numbers on the device, and their address.
fn on_device<T: cudarc::driver::DeviceRepr>(
    stream: &Arc<CudaStream>,
    values: &[T],
) -> anyhow::Result<(CudaSlice<T>, u64)> {
    let slice = stream.clone_htod(values)?;
    let address = slice.device_ptr(stream).0;
    Ok((slice, address))
}

/// Numbers from -1 to 1, the same on every machine.
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut random = reference::Random(seed);
    move || random.unit()
}

fn points(gpu: &Gpu) -> anyhow::Result<Bits> {
    let mut random = random(3);
    let count = 10_007;
    let mut depth: Vec<f32> = (0..count).map(|_| 8.0 + 7.0 * random()).collect();
    (depth[7], depth[8]) = (f32::NAN, -3.0);
    let rays: Vec<f32> = (0..3 * count).map(|_| random()).collect();
    let ground_from_camera = std::array::from_fn(|_| 2.0 * random());
    let mut expected = vec![0.0f32; 3 * count];
    let launch = |depth, rays, points| DepthToPoints {
        depth,
        rays,
        points,
        count: count as i64,
        scale: 1.5,
        shift: -0.75,
        ground_from_camera,
    };
    let here = launch(depth.as_ptr() as u64, rays.as_ptr() as u64, expected.as_mut_ptr() as u64);
    // SAFETY: three buffers of that many numbers, which live.
    unsafe { host::launch(Kernel::DepthToPoints, here.shape(), &here) };
    let stream = gpu.context().new_stream()?;
    let ((_depth, depth), (_rays, rays)) = (on_device(&stream, &depth)?, on_device(&stream, &rays)?);
    let points = stream.alloc_zeros::<f32>(3 * count)?;
    let there = launch(depth, rays, points.device_ptr(&stream).0);
    // SAFETY: as above, on the device.
    unsafe { gpu.launch(&stream, Kernel::DepthToPoints, there.shape(), &there) }?;
    let differing = differing(&stream.clone_dtoh(&points)?, &expected);
    Ok(Bits { what: "depth to points".into(), values: expected.len(), differing })
}

fn pairs(gpu: &Gpu) -> anyhow::Result<Bits> {
    let mut random = random(4);
    let [a, b] = [3000usize, 5001];
    let sets: [Vec<f32>; 4] =
        [a, a, b, b].map(|count| (0..count).map(|_| (40.0 * random()).round() / 4.0).collect());
    let counts = [a as i32, b as i32];
    let mut best = [u64::MAX];
    let here = NearestPair {
        coordinates: [0, 1, 2, 3].map(|set: usize| sets[set].as_ptr() as u64),
        best: best.as_mut_ptr() as u64,
        counts,
    };
    // SAFETY: the sets and the one number, which live.
    unsafe { host::launch(Kernel::NearestPair, here.shape(), &here) };
    let stream = gpu.context().new_stream()?;
    let mut kept = vec![];
    let mut coordinates = [0; 4];
    for (address, set) in coordinates.iter_mut().zip(&sets) {
        let (slice, at) = on_device(&stream, set)?;
        kept.push(slice);
        *address = at;
    }
    let (found, address) = on_device(&stream, &[u64::MAX])?;
    let there = NearestPair { coordinates, best: address, counts };
    // SAFETY: as above, on the device.
    unsafe { gpu.launch(&stream, Kernel::NearestPair, there.shape(), &there) }?;
    let found = stream.clone_dtoh(&found)?;
    let differing = usize::from(found != best || pair_of_key(best[0]).is_none());
    Ok(Bits { what: "nearest pair of 3000 and 5001 points".into(), values: 1, differing })
}

fn histogram(gpu: &Gpu) -> anyhow::Result<Bits> {
    let mut bits = Bits { what: "histogram of 3 and of 200 zones".into(), values: 0, differing: 0 };
    for (zones, bins, count) in [(3usize, 40usize, 50_001usize), (200, 100, 50_001)] {
        let mut random = random(5);
        let values: Vec<f32> = (0..count).map(|_| 12.0 * random()).collect();
        let zone: Vec<u8> = (0..count).map(|at| (at % (zones + 2)) as u8).collect();
        let mut expected = vec![0u32; zones * bins];
        let launch = |values, zone, counters| ZoneHistogram {
            values,
            zone,
            counters,
            count: count as i64,
            zones: zones as i32,
            bins: bins as i32,
            low: -10.0,
            bins_a_unit: bins as f32 / 20.0,
        };
        let here = launch(values.as_ptr() as u64, zone.as_ptr() as u64, expected.as_mut_ptr() as u64);
        // SAFETY: three buffers of those sizes, which live.
        unsafe { host::launch(Kernel::ZoneHistogram, here.shape(), &here) };
        let stream = gpu.context().new_stream()?;
        let ((_values, values), (_zone, zone)) = (on_device(&stream, &values)?, on_device(&stream, &zone)?);
        let counters = stream.alloc_zeros::<u32>(zones * bins)?;
        let there = launch(values, zone, counters.device_ptr(&stream).0);
        // SAFETY: as above, on the device.
        unsafe { gpu.launch(&stream, Kernel::ZoneHistogram, there.shape(), &there) }?;
        let found = stream.clone_dtoh(&counters)?;
        bits.values += found.len();
        bits.differing += found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    }
    Ok(bits)
}

/// The middle of several times of what `put` puts into the stream, in microseconds.
fn time(
    gpu: &Gpu,
    stream: &Arc<CudaStream>,
    mut put: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let event = || gpu.context().new_event(Some(sys::CUevent_flags_enum::CU_EVENT_DEFAULT));
    let mut times = vec![];
    for round in 0..=ROUNDS {
        // The first round warms up.
        let launches = if round == 0 { 1 } else { LAUNCHES };
        let (first, last) = (event()?, event()?);
        first.record(stream)?;
        for at in 0..launches {
            put(at)?;
        }
        last.record(stream)?;
        let microseconds = f64::from(first.elapsed_ms(&last)?) * 1000.0 / launches as f64;
        if round > 0 || microseconds > SLOW_US {
            times.push(microseconds);
        }
        if microseconds > SLOW_US {
            break;
        }
    }
    Ok(median(&mut times))
}

fn bandwidth(gpu: &Gpu) -> anyhow::Result<f64> {
    let stream = gpu.context().new_stream()?;
    // Larger than any level 2 cache.
    let bytes = 256 << 20;
    let from = stream.alloc_zeros::<u8>(bytes)?;
    let mut to = stream.alloc_zeros::<u8>(bytes)?;
    let microseconds = time(gpu, &stream, |_| Ok(stream.memcpy_dtod(&from, &mut to)?))?;
    Ok(2.0 * bytes as f64 / microseconds / 1000.0)
}

fn launch_time(gpu: &Gpu) -> anyhow::Result<f64> {
    let stream = gpu.context().new_stream()?;
    let nothing = DepthToPoints {
        depth: 0,
        rays: 0,
        points: 0,
        count: 0,
        scale: 1.0,
        shift: 0.0,
        ground_from_camera: [0.0; 12],
    };
    time(gpu, &stream, |_| {
        // SAFETY: no place of the map is touched, there is none.
        unsafe { gpu.launch(&stream, Kernel::DepthToPoints, nothing.shape(), &nothing) }?;
        Ok(())
    })
}

fn speed(gpu: &Gpu, pictures: usize, bandwidth_gb_s: f64, launch_us: f64) -> anyhow::Result<Speed> {
    // Different pictures in turns, more than the level 2 cache holds.
    let sets = 64usize.div_ceil(pictures).max(2);
    let stream = gpu.context().new_stream()?;
    let mut prepared = vec![];
    for set in 0..sets {
        let frames: Vec<Frame> = (0..pictures)
            .map(|at| random_frame(1920, 1080, PixelFormat::Nv12, (set * pictures + at) as u64))
            .collect::<Result<_, _>>()?;
        let mut preprocessor = Preprocessor::new(gpu, stream.clone(), INPUT, pictures, true)?;
        let uploaded = preprocessor.upload(&frames)?;
        stream.synchronize()?;
        prepared.push((preprocessor, uploaded));
    }
    let kernel_us = time(gpu, &stream, |at| {
        let (preprocessor, uploaded) = &prepared[at % sets];
        Ok(preprocessor.launch(uploaded)?)
    })?;
    let bytes = pictures as f64 * (1920.0 * 1080.0 * 1.5 + 3.0 * 2.0 * f64::from(INPUT[0] * INPUT[1]));
    let bytes_us = bytes / bandwidth_gb_s / 1000.0;
    Ok(Speed { pictures, kernel_us, bytes_us, over_floor: kernel_us / bytes_us.max(launch_us) })
}

//! The kernels' CPU build against float64, the tiled kernel against the direct one, twelve and more planted mistakes
//! that must be noticed, and the sanitizers.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::f16;
use standoff::backend::cuda::host;
use standoff::backend::cuda::launch::{
    DepthToPoints, Kernel, NearestPair, Shape, ZoneHistogram, pair_of_key,
};
use standoff::preprocess::color::i420_from_rgb;
use standoff::preprocess::reference::worst;
use standoff::preprocess::{Planes, planes_of};
use standoff::types::{ChromaSiting, ColorMatrix, ColorRange, Frame, PixelFormat, PixelTransform, Pixels};

use super::fake::compiler;
use super::reference::{frame, random_frame};
use super::support::Random;

/// Normalised units, against float64.
const TOLERANCE_F32: f64 = 1e-5;
/// The same; half of the last digit of a 16-bit float between 2 and 4 is 9.8e-4.
const TOLERANCE_F16: f64 = 1.2e-3;

/// Where the kernels of a test come from when not from the program itself: a library with `standoff_host_launch`.
const LIBRARY: &str = "STANDOFF_KERNELS_HOST";

/// A build of kernels/host.cpp.
pub enum Build {
    /// The one in the program.
    Own,
    /// Another one.
    Loaded(libloading::Library),
}

type Launch =
    unsafe extern "C" fn(*const c_char, *const c_uint, *const c_uint, c_uint, *mut *mut c_void) -> c_int;

impl Build {
    fn chosen() -> Self {
        std::env::var_os(LIBRARY).map_or(Self::Own, |file| Self::load(Path::new(&file)))
    }

    fn load(file: &Path) -> Self {
        // SAFETY: a library that a test has just compiled; it has no initialisers.
        Self::Loaded(unsafe { libloading::Library::new(file) }.unwrap())
    }

    fn run<P>(&self, kernel: Kernel, shape: Shape, parameters: &P) {
        let ran = match self {
            // SAFETY: the caller's buffers, which outlive this call.
            Self::Own => unsafe { host::launch(kernel, shape, parameters) },
            Self::Loaded(library) => {
                let name = CString::new(kernel.name()).unwrap();
                let mut pointer = std::ptr::from_ref(parameters).cast_mut().cast::<c_void>();
                // SAFETY: as above, and the symbol has this type in kernels/host.cpp.
                unsafe {
                    let launch = library.get::<Launch>(b"standoff_host_launch").unwrap();
                    let (grid, block) = (shape.grid.as_ptr(), shape.block.as_ptr());
                    launch(name.as_ptr(), grid, block, shape.shared_bytes, &raw mut pointer) == 0
                }
            }
        };
        assert!(ran, "there is no kernel {}", kernel.name());
    }
}

/// What `kernel` makes of the frames: one output a frame, as f32.
pub fn preprocessed(
    build: &Build,
    kernel: Kernel,
    frames: &[Frame],
    input: [u32; 2],
    half: bool,
) -> Vec<(PixelTransform, Vec<f32>)> {
    host::preprocess_by(kernel, frames, input, half, |shape, batch| build.run(kernel, shape, batch)).unwrap()
}

/// Batches of frames whose sizes, layouts, matrices, ranges and sitings differ, rows and planes of any alignment.
pub fn batches() -> Vec<Vec<Frame>> {
    let sizes = [(97, 61), (64, 48), (31, 77), (20, 15), (1, 1), (3, 200), (201, 2), (256, 128), (130, 130)];
    let sitings = [
        ChromaSiting::MPEG2,
        ChromaSiting::JPEG,
        ChromaSiting { horizontal_cosited: true, vertical_cosited: true },
    ];
    let matrices = [ColorMatrix::Bt601, ColorMatrix::Bt709, ColorMatrix::Bt2020];
    let mut frames = vec![];
    for (seed, (width, height)) in sizes.into_iter().cycle().take(54).enumerate() {
        let format = if seed % 2 == 0 { PixelFormat::Nv12 } else { PixelFormat::I420 };
        let mut frame = random_frame(width, height, format, seed as u64 + 1);
        // The random frames' rows have odd lengths; every third one can be read four bytes at a time.
        if seed % 3 == 0 {
            frame = aligned(&frame);
        }
        frame.matrix = matrices[seed / 2 % 3];
        frame.range = if seed / 6 % 2 == 0 { ColorRange::Limited } else { ColorRange::Full };
        frame.siting = sitings[seed / 3 % 3];
        frames.push(frame);
    }
    let mut batches: Vec<Vec<Frame>> = vec![];
    for size in [1, 4, 16, 3, 2, 16, 12] {
        batches.push(frames.drain(..size).collect());
    }
    assert!(frames.is_empty());
    batches
}

/// The same picture with rows that begin at multiples of four, U and V with another pitch than Y.
fn aligned(frame: &Frame) -> Frame {
    let planes = planes_of(frame).unwrap();
    let rows = match &planes {
        Planes::I420(rows) => rows.to_vec(),
        Planes::Nv12(rows) => rows.to_vec(),
    };
    let mut data = vec![];
    let mut places = vec![];
    for (at, rows) in rows.iter().enumerate() {
        let stride = rows.row_bytes.next_multiple_of(4) + 4 * (at + 1);
        places.push(standoff::types::Plane { offset: data.len(), stride });
        for row in rows.data.chunks(rows.stride) {
            data.extend_from_slice(&row[..rows.row_bytes]);
            data.resize(data.len() + stride - rows.row_bytes, 0xEE);
        }
    }
    // Nothing behind the last row, so that a sanitizer sees who reads there.
    let end = data.len() + rows.last().unwrap().row_bytes - places.last().unwrap().stride;
    data.truncate(end);
    data.shrink_to_fit();
    let format = frame.pixels.host().unwrap().format;
    Frame { pixels: Pixels::Host { format, data: data.into(), planes: places }, ..frame.clone() }
}

/// Everything that must hold of a build; the largest differences for f32 and f16, or what does not hold.
fn examine(build: &Build) -> Result<[f64; 2], String> {
    let input = [56, 42];
    let mut overall = [0.0f64; 2];
    for frames in batches() {
        for (half, tolerance) in [(false, TOLERANCE_F32), (true, TOLERANCE_F16)] {
            let tiled = preprocessed(build, Kernel::YuvToNchwTiled, &frames, input, half);
            let direct = preprocessed(build, Kernel::YuvToNchwDirect, &frames, input, half);
            for (at, ((frame, (transform, tiled)), (_, direct))) in
                frames.iter().zip(&tiled).zip(&direct).enumerate()
            {
                let name = format!("{}x{} as number {at} of {}", frame.width, frame.height, frames.len());
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                if bits(tiled) != bits(direct) {
                    return Err(format!("{name}: the tiled kernel is not the direct one"));
                }
                let difference = worst(frame, transform, tiled, 3);
                overall[usize::from(half)] = overall[usize::from(half)].max(difference);
                if difference > tolerance {
                    return Err(format!("{name}, half {half}: {difference:.2e} from float64"));
                }
            }
        }
    }
    points_hold(build)?;
    pairs_hold(build)?;
    histogram_holds(build)?;
    Ok(overall)
}

fn points_hold(build: &Build) -> Result<(), String> {
    let mut random = Random(3);
    let count = 1000;
    let mut depth: Vec<f32> = (0..count).map(|_| 8.0 + 7.0 * random.unit()).collect();
    (depth[7], depth[8], depth[9]) = (f32::NAN, -3.0, f32::INFINITY);
    let mut rays: Vec<f32> = (0..3 * count).map(|_| random.unit()).collect();
    rays[2 * count..].fill(1.0);
    let mut matrix = [0.0f32; 12];
    matrix.iter_mut().for_each(|value| *value = 2.0 * random.unit());
    let mut points = vec![0.0f32; 3 * count];
    let (scale, shift) = (1.5, -0.75);
    let launch = DepthToPoints {
        depth: depth.as_ptr() as u64,
        rays: rays.as_ptr() as u64,
        points: points.as_mut_ptr() as u64,
        count: count as i64,
        scale,
        shift,
        ground_from_camera: matrix,
    };
    build.run(Kernel::DepthToPoints, launch.shape(), &launch);
    for at in 0..count {
        let metres = f64::from(depth[at]) * f64::from(scale) + f64::from(shift);
        let there = metres > 0.0 && metres.is_finite();
        for axis in 0..3 {
            let m = |column: usize| f64::from(matrix[4 * axis + column]);
            let ray = |i: usize| f64::from(rays[i * count + at]);
            let expected = metres * (m(0) * ray(0) + m(1) * ray(1) + m(2) * ray(2)) + m(3);
            let found = f64::from(points[axis * count + at]);
            if there && (found - expected).abs() > 1e-4 || !there && !found.is_nan() {
                return Err(format!("point {at}, axis {axis}: {found}, should be {expected}"));
            }
        }
    }
    Ok(())
}

fn pairs_hold(build: &Build) -> Result<(), String> {
    let mut random = Random(4);
    for [a_count, b_count] in [[1, 1], [300, 700], [700, 300], [0, 5], [5, 0], [257, 256]] {
        let mut set = |count: usize| -> [Vec<f32>; 2] {
            [0, 1].map(|_| (0..count).map(|_| (20.0 * random.unit()).round() / 4.0).collect())
        };
        let (mut a, b) = (set(a_count), set(b_count));
        if a_count > 3 {
            a[0][3] = f32::NAN;
        }
        let mut best = u64::MAX;
        let launch = NearestPair {
            coordinates: [&a[0], &a[1], &b[0], &b[1]].map(|values| values.as_ptr() as u64),
            best: &raw mut best as u64,
            counts: [a_count as i32, b_count as i32],
        };
        build.run(Kernel::NearestPair, launch.shape(), &launch);
        let mut expected: Option<(f64, usize, usize)> = None;
        let points = |set: &[Vec<f32>; 2]| -> Vec<[f64; 2]> {
            set[0].iter().zip(&set[1]).map(|(x, y)| [f64::from(*x), f64::from(*y)]).collect()
        };
        for (i, p) in points(&a).iter().enumerate() {
            for (j, q) in points(&b).iter().enumerate() {
                let distance = (p[0] - q[0]).hypot(p[1] - q[1]);
                if distance < expected.map_or(f64::INFINITY, |(least, ..)| least) {
                    expected = Some((distance, i, j));
                }
            }
        }
        let found = pair_of_key(best);
        let close = |(least, i, j): (f64, usize, usize)| {
            found.is_some_and(|(metres, a, b)| (f64::from(metres) - least).abs() < 1e-5 && (a, b) == (i, j))
        };
        if expected.map_or(found.is_some(), |expected| !close(expected)) {
            return Err(format!(
                "nearest pair of {a_count} and {b_count}: {found:?}, should be {expected:?}"
            ));
        }
    }
    Ok(())
}

fn histogram_holds(build: &Build) -> Result<(), String> {
    let mut random = Random(5);
    // The second is too large for shared memory.
    for (zones, bins, count) in [(3usize, 40usize, 5000usize), (200, 100, 40_000)] {
        let mut values: Vec<f32> = (0..count).map(|_| 12.0 * random.unit()).collect();
        values[1] = f32::NAN;
        let zone: Vec<u8> = (0..count).map(|i| (i % (zones + 2)) as u8).collect();
        let mut counters = vec![1u32; zones * bins];
        let launch = ZoneHistogram {
            values: values.as_ptr() as u64,
            zone: zone.as_ptr() as u64,
            counters: counters.as_mut_ptr() as u64,
            count: count as i64,
            zones: zones as i32,
            bins: bins as i32,
            low: -10.0,
            bins_a_unit: bins as f32 / 20.0,
        };
        build.run(Kernel::ZoneHistogram, launch.shape(), &launch);
        let mut expected = vec![1u32; zones * bins];
        for (value, zone) in values.iter().zip(&zone).filter(|(value, _)| !value.is_nan()) {
            if (1..=zones).contains(&usize::from(*zone)) {
                let bin = ((value + 10.0) * (bins as f32 / 20.0)).clamp(0.0, bins as f32 - 1.0) as usize;
                expected[(usize::from(*zone) - 1) * bins + bin] += 1;
            }
        }
        if counters != expected {
            return Err(format!("the histogram of {zones} zones counts wrongly"));
        }
    }
    Ok(())
}

#[test]
fn structures_are_as_long_as_in_the_source() {
    for kernel in Kernel::ALL {
        assert_eq!(host::parameter_bytes(kernel), kernel.parameter_bytes(), "{kernel:?}");
    }
}

#[test]
fn host_build_agrees_with_float64() {
    let [full, half] = examine(&Build::chosen()).unwrap();
    println!("kernels, 54 small frames in 7 batches: largest difference f32 {full:.2e}, f16 {half:.2e}");
}

#[test]
fn host_build_agrees_with_float64_at_full_size() {
    for (width, height, range) in
        [(1920, 1080, ColorRange::Limited), (640, 360, ColorRange::Full), (1279, 963, ColorRange::Limited)]
    {
        let mut frame = random_frame(width, height, PixelFormat::Nv12, u64::from(width));
        (frame.matrix, frame.range, frame.siting) = (ColorMatrix::Bt709, range, ChromaSiting::MPEG2);
        let frames = [frame.clone(), aligned(&frame)];
        for (half, tolerance) in [(false, TOLERANCE_F32), (true, TOLERANCE_F16)] {
            let found = preprocessed(&Build::Own, Kernel::YuvToNchwTiled, &frames, [392, 224], half);
            let difference = worst(&frames[0], &found[0].0, &found[0].1, 61);
            println!("kernels {width}x{height}, half {half}: largest difference {difference:.2e}");
            assert!(difference <= tolerance);
            assert_eq!(found[0].1, found[1].1, "how the rows lie does not matter");
        }
    }
}

/// Pictures of the demo clip's camera, and frames of its video where GStreamer is built in.
pub fn real_frames() -> Vec<Frame> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dock-demo");
    let picture = image::open(root.join("empty_scene.jpg")).unwrap().to_rgb8();
    let (data, planes) = i420_from_rgb(&picture);
    let mut still = frame(picture.width(), picture.height(), PixelFormat::I420, vec![], vec![]);
    still.pixels = Pixels::Host { format: PixelFormat::I420, data, planes };
    let mut frames = vec![still];
    #[cfg(feature = "gstreamer")]
    {
        let camera = standoff::types::CameraId::new("dock").unwrap();
        let clip = standoff::ingest::clip::Clip::open(&root.join("video.mp4"), camera).unwrap();
        frames.extend(clip.step_by(25).take(15).map(|frame| frame.unwrap()));
    }
    frames
}

#[test]
fn host_build_agrees_with_float64_on_real_frames() {
    let frames = real_frames();
    for (half, tolerance) in [(false, TOLERANCE_F32), (true, TOLERANCE_F16)] {
        let found = preprocessed(&Build::Own, Kernel::YuvToNchwTiled, &frames, [392, 224], half);
        let worst =
            frames.iter().zip(&found).map(|(frame, (t, out))| worst(frame, t, out, 97)).fold(0.0, f64::max);
        println!("kernels, {} real frames, half {half}: largest difference {worst:.2e}", frames.len());
        assert!(worst <= tolerance);
    }
}

/// The conversion of every 32-bit float that matters is the one of crate `half`: all 16-bit floats, their
/// neighbours and the ties between them.
#[test]
fn halves_are_rounded_as_by_the_device() {
    let file = compile(&read_kernel("standoff.cu"), &["-O1"], "probe", Some(PROBE));
    // SAFETY: compiled here, with that one function of that type.
    let library = unsafe { libloading::Library::new(&file) }.unwrap();
    // SAFETY: as above.
    let bits = unsafe { library.get::<unsafe extern "C" fn(f32) -> u16>(b"probe") }.unwrap();
    for code in 0..=u16::MAX {
        let exact = f16::from_bits(code);
        let next = f16::from_bits(code.wrapping_add(1));
        if !exact.is_finite() || !next.is_finite() {
            continue;
        }
        let middle = (exact.to_f32() + next.to_f32()) / 2.0;
        for value in [exact.to_f32(), middle, middle.next_up(), middle.next_down()] {
            // SAFETY: a pure function.
            let found = unsafe { bits(value) };
            assert_eq!(found, f16::from_f32(value).to_bits(), "{value:e}");
        }
    }
    for value in [f32::INFINITY, f32::NEG_INFINITY, 65519.9, 65520.0, 1e30, f32::MIN_POSITIVE, -0.0] {
        // SAFETY: a pure function.
        assert_eq!(unsafe { bits(value) }, f16::from_f32(value).to_bits(), "{value:e}");
    }
}

const PROBE: &str = "\nextern \"C\" uint16_t probe(float value) { return f16_bits(value); }\n";

fn read_kernel(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(name)).unwrap()
}

/// Compiles host.cpp around a source of the kernels into a library of its own.
fn compile(kernels: &str, flags: &[&str], name: &str, more: Option<&str>) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{name}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("standoff.cu"), kernels).unwrap();
    fs::write(folder.join("host.cpp"), read_kernel("host.cpp") + more.unwrap_or("")).unwrap();
    let library = folder.join("libkernels.so");
    let output = Command::new(compiler())
        .args(["-std=c++17", "-ffp-contract=off", "-fPIC", "-shared"])
        .args(flags)
        .arg(folder.join("host.cpp"))
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    library
}

/// Planted mistakes: what each is, the source's words, the words of the mistake.
const MUTANTS: [(&str, &str, &str); 18] = [
    (
        "U and V of NV12 take the pitch of Y",
        "down_bytes(&p->u, &p->axes[3], tile, 2 * tile->chroma_start",
        "static Plane wrong; wrong = p->u; wrong.pitch = p->y.pitch; \
         down_bytes(&wrong, &p->axes[3], tile, 2 * tile->chroma_start",
    ),
    (
        "U and V are swapped",
        "u = fmaf(weight, chroma_row[2 * k], u);",
        "u = fmaf(weight, chroma_row[2 * k + 1], u);",
    ),
    (
        "V of I420 lands on U",
        "tile->chroma_end, chroma, pitch, 1, 2, t, nt)",
        "tile->chroma_end, chroma, pitch, 0, 2, t, nt)",
    ),
    (
        "chroma is filtered with luma's table",
        "down_bytes(&p->u, &p->axes[3], tile, tile->",
        "down_bytes(&p->u, &p->axes[1], tile, tile->",
    ),
    ("the last weight across is left out", "k < luma_count; ++k", "k < luma_count - 1; ++k"),
    (
        "the last weight down is left out",
        "for (int k = 0; k < count; ++k) {\n                const unsigned int four",
        "for (int k = 0; k < count - 1; ++k) {\n                const unsigned int four",
    ),
    ("two of four bytes are swapped", "(float)((four >> 8) & 255u)", "(float)((four >> 16) & 255u)"),
    (
        "the picture's left edge is forgotten",
        "tile.first_column = larger(tile.x - p->left, 0)",
        "tile.first_column = larger(tile.x, 0)",
    ),
    (
        "the picture's top edge is forgotten",
        "const int tile_row = row - tile->first_row;",
        "const int tile_row = y - tile->first_row;",
    ),
    ("colours are not held to 0 to 1", "rgb = fminf(fmaxf(rgb, 0.0f), 1.0f);", ""),
    ("the mean is not taken off", "fmaf(rgb, batch->gain[c], batch->shift[c])", "rgb * batch->gain[c]"),
    (
        "RGB becomes BGR",
        "store(batch, out_at(batch, picture, c, x, y), fmaf",
        "store(batch, out_at(batch, picture, 2 - c, x, y), fmaf",
    ),
    (
        "every picture takes the first one's colours",
        "const struct Picture *p = &batch->pictures[picture];\n    for (int c",
        "const struct Picture *p = &batch->pictures[0];\n    for (int c",
    ),
    (
        "pictures overlap in the output",
        "((long long)picture * 3 + channel)",
        "((long long)picture * 2 + channel)",
    ),
    ("black is taken for 0", "fmaf(p->from_v[c], v, p->bias[c])", "fmaf(p->from_v[c], v, 0.0f)"),
    ("the camera's height is forgotten", "fmaf(m[2], z, m[3])", "m[2] * z"),
    (
        "of equal pairs the last one wins",
        "best = key < best ? key : best;",
        "best = (key >> 32) <= (best >> 32) ? key : best;",
    ),
    ("values beyond the last bin are lost", "fmaxf(bin, 0.0f), last)", "fmaxf(bin, 0.0f), last + 1.0f)"),
];

#[test]
fn planted_mistakes_are_noticed() {
    let source = read_kernel("standoff.cu");
    for (at, (what, right, wrong)) in MUTANTS.iter().enumerate() {
        assert_eq!(source.matches(right).count(), 1, "'{right}' is not in the source once");
        let library = compile(&source.replace(right, wrong), &["-O1"], &format!("mutant-{at}"), None);
        let noticed = examine(&Build::load(&library));
        println!("mutant: {what}: {}", noticed.as_ref().err().map_or("NOT NOTICED", String::as_str));
        assert!(noticed.is_err(), "{what}");
    }
    let sound = compile(&source, &["-O1"], "sound", None);
    examine(&Build::load(&sound)).unwrap();
}

#[test]
fn address_and_undefined_sanitizers_are_content() {
    let path = |what: &str| {
        let output = Command::new(compiler()).arg(format!("-print-file-name={what}")).output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    let (address, undefined) = (path("libasan.so"), path("libubsan.so"));
    if !address.is_absolute() || !undefined.is_absolute() {
        println!("SKIP: the C++ compiler has no libasan and libubsan (install gcc's libasan8 and libubsan1)");
        return;
    }
    let flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let examine_under = |library: &Path| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kernels::host_build_agrees_with_float64", "--nocapture"])
            .env(LIBRARY, library)
            .env("LD_PRELOAD", std::env::join_paths([&address, &undefined]).unwrap())
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .output()
            .unwrap()
    };
    let source = read_kernel("standoff.cu");
    let sound = examine_under(&compile(&source, &flags, "sanitized", None));
    let said = String::from_utf8_lossy(&sound.stderr);
    assert!(sound.status.success() && String::from_utf8_lossy(&sound.stdout).contains("1 passed"), "{said}");

    // Both must be able to see something: a read past a row's end, a read of four bytes at any address.
    let over = ("smaller(4, plane->row_bytes - byte)", "4", "AddressSanitizer");
    let askew = (
        "const bool aligned = (((unsigned long long)plane->data | (unsigned long long)plane->pitch) & 3) == 0;",
        "const bool aligned = true;",
        "misaligned address",
    );
    for (at, (right, wrong, word)) in [over, askew].into_iter().enumerate() {
        assert_eq!(source.matches(right).count(), 1, "'{right}' is not in the source once");
        let broken = compile(&source.replace(right, wrong), &flags, &format!("sanitized-{at}"), None);
        let output = examine_under(&broken);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(word), "{wrong}: {said}");
    }
}

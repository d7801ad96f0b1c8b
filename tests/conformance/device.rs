//! The way of frames through cudarc: on this machine's GPU if it has one, and through a test double of libcuda
//! (kernels/fake_cuda.cpp) on every machine. What comes out is the host build's, bit for bit.

use std::fs;
use std::process::{Command, Output};

use cudarc::driver::{CudaStream, result};
use half::f16;
use standoff::backend::cuda::launch::Kernel;
use standoff::backend::cuda::pipeline::{Network, Output as ModelOutput, Shape};
use standoff::backend::cuda::{CudaBackend, Gpu, NoGpu, Preprocessor};
use standoff::backend::onnxruntime::device::{DeviceSession, Provider};
use standoff::backend::{self, Backend, BackendError, BackendSettings};
use standoff::model::graph::Precision;
use standoff::types::{Batch, Frame, HostPlanes, Pixels};

pub use super::fake::driver as fake_driver;
use super::kernels::{Build, batches, preprocessed, real_frames};
use super::support::{environment, installed};

/// Runs one of the tests below in a process of its own, with the test double as its driver.
fn run_with_fake(test: &str, settings: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", fake_driver())
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_way_through_cudarc_changes_no_bit() {
    let output = run_with_fake("device::a_device_gives_what_the_host_build_gives", &[]);
    let said = said(&output);
    assert!(output.status.success() && said.contains("1 passed") && !said.contains("SKIP"), "{said}");
    said.lines().filter(|line| line.starts_with("device:")).for_each(|line| println!("{line}"));
}

#[test]
fn a_gpu_that_cannot_be_used_is_said_in_one_line() {
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("FAKE_CUDA_DEVICES", "0")], "the NVIDIA driver sees no GPU"),
        (&[("FAKE_CUDA_INIT", "999")], "the NVIDIA driver does not start (CUDA_ERROR_FAKED, error 999)"),
        (&[("FAKE_CUDA_DRIVER", "11080")], "the NVIDIA driver is made for CUDA 11.8, CUDA 12.2 is needed"),
        (
            &[("FAKE_CUDA_CAPABILITY", "61")],
            "no GPU but a test double has compute capability 6.1, 7.5 is needed",
        ),
        (
            &[("FAKE_CUDA_FAIL", "cuModuleLoadData:1:2")],
            "the GPU cannot be opened (CUDA_ERROR_OUT_OF_MEMORY, error 2)",
        ),
        (&[], "no GPU but a test double, CUDA 12.6"),
    ];
    for (settings, expected) in cases {
        let output = run_with_fake("device::what_opening_says", settings);
        let said = said(&output);
        assert!(output.status.success() && said.contains(&format!("opened: {expected}\n")), "{said}");
    }
}

#[test]
fn a_device_that_breaks_is_an_error_from_then_on() {
    let output = run_with_fake("device::what_a_batch_says", &[("FAKE_CUDA_FAIL", "cuLaunchKernel:3:700")]);
    let said = said(&output);
    let broken = "launching the preprocessing: CUDA_ERROR_ILLEGAL_ADDRESS, error 700";
    assert!(output.status.success(), "{said}");
    let found: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("batch: ")).collect();
    assert_eq!(&found[..3], ["good", "good", broken], "{said}");
    assert!(found[3..].iter().all(|line| line.contains("error 700")), "{said}");
}

#[test]
fn a_machine_without_driver_gets_a_reason() {
    match Gpu::open() {
        Ok(gpu) => println!("SKIP: this machine has a GPU: {}", gpu.name),
        Err(NoGpu::NoDriver) => {
            let said = "no NVIDIA driver (libcuda.so.1 not found)";
            assert_eq!(NoGpu::NoDriver.to_string(), said);
        }
        Err(other) => println!("SKIP: this machine has a driver: {other}"),
    }
}

#[test]
#[ignore = "needs a GPU; the tests above run it with a test double of the driver"]
fn what_opening_says() {
    match Gpu::open() {
        Ok(gpu) => println!("opened: {}, {}", gpu.name, gpu.driver_version()),
        Err(problem) => println!("opened: {problem}"),
    }
}

#[test]
#[ignore = "needs a GPU; the tests above run it with a test double of the driver"]
fn what_a_batch_says() {
    let gpu = Gpu::open().unwrap();
    let stream = gpu.context().new_stream().unwrap();
    let mut preprocessor = Preprocessor::new(&gpu, stream.clone(), [56, 42], 4, true).unwrap();
    for _ in 0..5 {
        let result = preprocessor.upload(&batches()[1]).and_then(|uploaded| preprocessor.launch(&uploaded));
        println!("batch: {}", result.err().map_or("good".to_owned(), |error| error.to_string()));
        let _ = stream.synchronize();
    }
}

/// Frames that were compared, and values that differ.
#[derive(Default)]
struct Tally {
    frames: usize,
    values: usize,
    differing: usize,
}

fn compare(gpu: &Gpu, frames: &[Frame], input: [u32; 2], half: bool, tally: &mut Tally) {
    let stream = gpu.context().new_stream().unwrap();
    let mut preprocessor = Preprocessor::new(gpu, stream.clone(), input, frames.len(), half).unwrap();
    // The second time buffers and tables are used again.
    for kernel in [Kernel::YuvToNchwTiled, Kernel::YuvToNchwDirect] {
        let expected =
            frames.chunks(16).flat_map(|some| preprocessed(&Build::Own, kernel, some, input, half));
        let expected: Vec<_> = expected.collect();
        let uploaded = preprocessor.upload(frames).unwrap();
        preprocessor.launch_as(&uploaded, |_| kernel).unwrap();
        stream.synchronize().unwrap();
        let bytes = preprocessor.download().unwrap();
        let found: Vec<f32> = if half {
            bytes.as_chunks::<2>().0.iter().map(|bytes| f16::from_ne_bytes(*bytes).to_f32()).collect()
        } else {
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
        };
        let values = preprocessor.input_bytes() / if half { 2 } else { 4 };
        for (at, (transform, expected)) in expected.iter().enumerate() {
            assert_eq!(uploaded.transforms[at], *transform);
            let found = &found[at * values..][..values];
            tally.frames += 1;
            tally.values += values;
            tally.differing += found
                .iter()
                .zip(expected)
                .filter(|(found, expected)| found.to_bits() != expected.to_bits())
                .count();
        }
    }
}

#[test]
#[ignore = "needs a GPU; the tests above run it with a test double of the driver"]
fn a_device_gives_what_the_host_build_gives() {
    let gpu = match Gpu::open() {
        Ok(gpu) => gpu,
        Err(problem) => {
            println!("SKIP: {problem}");
            return;
        }
    };
    let real = real_frames();
    // 20 take two launches.
    for size in [1, 4, 16, 20] {
        let mut tally = Tally::default();
        for half in [false, true] {
            for frames in batches().iter().filter(|frames| frames.len() == size) {
                compare(&gpu, frames, [56, 42], half, &mut tally);
            }
            for frames in real
                .iter()
                .cycle()
                .take(real.len().next_multiple_of(size))
                .cloned()
                .collect::<Vec<_>>()
                .chunks(size)
            {
                compare(&gpu, frames, [392, 224], half, &mut tally);
            }
        }
        let Tally { frames, values, differing } = tally;
        println!(
            "device: {}: batch {size}: {differing} of {values} values differ, {frames} frames",
            gpu.name
        );
        assert_eq!(differing, 0);
    }
}

/// A model whose outputs are the first values of its input: what a capture and a replay do to a batch shows.
struct Beginning {
    outputs: Vec<ModelOutput>,
    input: u64,
    addresses: Vec<u64>,
}

/// Values of one picture of the input below.
const INPUT: [u32; 2] = [56, 42];
const INPUT_VALUES: usize = 3 * 56 * 42;

impl Beginning {
    fn new() -> Self {
        let output = |name: &str, values| ModelOutput { name: name.to_owned(), values };
        Self { outputs: vec![output("cls", 384), output("segment", 12 * 5)], input: 0, addresses: vec![] }
    }
}

impl Network for Beginning {
    fn name(&self) -> String {
        "the input's first values".to_owned()
    }

    fn half(&self) -> bool {
        false
    }

    fn outputs(&self) -> &[ModelOutput] {
        &self.outputs
    }

    fn bind(&mut self, input: u64, outputs: &[u64]) -> Result<(), BackendError> {
        (self.input, self.addresses) = (input, outputs.to_vec());
        Ok(())
    }

    fn enqueue(&mut self, stream: &CudaStream, count: usize) -> Result<(), BackendError> {
        for (output, address) in self.outputs.iter().zip(&self.addresses) {
            for at in 0..count {
                let to = address + (at * output.values * 4) as u64;
                let from = self.input + (at * INPUT_VALUES * 4) as u64;
                // SAFETY: both lie in memory that the backend holds for as many pictures.
                unsafe { result::memcpy_dtod_async(to, from, output.values * 4, stream.cu_stream()) }
                    .map_err(|error| BackendError::Infer(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn can_be_captured(&self) -> bool {
        true
    }
}

#[test]
fn a_graph_gives_what_the_passes_before_it_gave() {
    // The graph is used: if its first launch fails, the third batch of one kind does.
    for (settings, expected) in [
        ("none", "0 of 48 batches wrong, 0 failed"),
        ("cuStreamEndCapture:1:901", "0 of 48 batches wrong, 0 failed"),
        ("cuGraphLaunch:1:2", "0 of 48 batches wrong, 1 failed"),
        ("cuMemcpyDtoHAsync:9:2", "0 of 48 batches wrong, 1 failed"),
    ] {
        let output = run_with_fake("device::batches_by_graph", &[("FAKE_CUDA_FAIL", settings)]);
        let said = said(&output);
        assert!(
            output.status.success() && said.contains(&format!("graphs: {expected}")),
            "{settings}: {said}"
        );
    }
    let output = run_with_fake("device::batches_by_graph", &[("FAKE_CUDA_FAIL", "cuGraphLaunch:2:719")]);
    let said = said(&output);
    let broken = "the device is lost to this process: launching the graph: CUDA_ERROR_FAKED, error 719";
    assert!(output.status.success() && said.contains(broken), "{said}");
}

#[test]
#[ignore = "needs a GPU; the test above runs it with a test double of the driver"]
fn batches_by_graph() {
    let gpu = Gpu::open().unwrap();
    let stream = gpu.context().new_stream().unwrap();
    let shape = Shape { input: INPUT, max_batch: 16, heads: vec!["segment".to_owned()] };
    let mut backend = CudaBackend::open(&gpu, stream, Box::new(Beginning::new()), shape).unwrap();
    let all: Vec<Frame> = batches().into_iter().flatten().collect();
    let (mut wrong, mut failed, mut count) = (0, 0, 0);
    // Batches of one kind three times and more with other pixels, of other kinds in between.
    for round in 0..12 {
        for (first, size) in [(0, 1), (3, 4), (9, 16), (round, 3)] {
            let frames: Vec<Frame> = all[first..first + size]
                .iter()
                .map(|frame| standoff::types::Frame { seq: round as u64, ..shifted(frame, round as u8) })
                .collect();
            // Every other batch of a kind lies on the device, each time elsewhere.
            let given: Result<Vec<Frame>, String> = frames
                .iter()
                .map(|frame| if round % 2 == 0 { Ok(frame.clone()) } else { gpu.hold(frame) })
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string());
            count += 1;
            let inferred =
                given.and_then(|frames| backend.infer(&Batch { frames }).map_err(|error| error.to_string()));
            match inferred {
                Err(error) => {
                    println!("failed: {error}");
                    failed += 1;
                }
                Ok(features) => {
                    let expected = preprocessed(&Build::Own, Kernel::YuvToNchwTiled, &frames, INPUT, false);
                    let right =
                        features.iter().zip(&frames).zip(&expected).all(|((got, frame), (_, input))| {
                            got.frame.seq == frame.seq
                                && got.cls == input[..384]
                                && got.dense["segment"].values == input[..60]
                                && got.layers.is_empty()
                        });
                    wrong += usize::from(!right || features.len() != frames.len());
                }
            }
        }
    }
    println!("graphs: {wrong} of {count} batches wrong, {failed} failed");
}

/// |difference| / |reference| of the whole way on the device, where the kernels round otherwise than the CPU's own
/// preprocessing.
const FULL_TOLERANCE: f64 = 1e-4;
/// The same for a graph in 16 bits.
const MIXED_TOLERANCE: f64 = 0.03;

#[test]
fn a_model_on_device_memory_gives_what_the_cpu_backend_gives() {
    let output = run_with_fake("device::features_through_device_memory", &[("FAKE_CUDA_OPEN", "1")]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    said.lines()
        .filter(|line| ["SKIP", "device:"].iter().any(|word| line.starts_with(word)))
        .for_each(|line| println!("{line}"));
}

#[test]
#[ignore = "needs a driver; the test above runs it with a test double of it"]
fn features_through_device_memory() {
    let heads = standoff::heads::shipped::graph_heads().unwrap();
    let settings = BackendSettings { max_batch: 4, heads, layers: false, ..BackendSettings::default() };
    let Some(mut on_cpu) = open_backend(&settings) else { return };
    let frames = real_frames();
    for (precision, tolerance) in [(Precision::Full, FULL_TOLERANCE), (Precision::Mixed, MIXED_TOLERANCE)] {
        let gpu = Gpu::open().unwrap();
        let stream = gpu.context().new_stream().unwrap();
        let session = DeviceSession::open(&settings, precision, Provider::Cpu, &stream).unwrap();
        let shape = Shape {
            input: [settings.input_width, settings.input_height],
            max_batch: 4,
            heads: settings.heads.iter().map(|head| head.name.clone()).collect(),
        };
        let mut on_device = CudaBackend::open(&gpu, stream, Box::new(session), shape).unwrap();
        let mut worst = 0.0f64;
        // The same size of batch twice, and one that is not full.
        for batch in [&frames[..1], &frames[1..5], &frames[5..9], &frames[9..12]] {
            let batch = Batch { frames: batch.to_vec() };
            let (got, expected) = (on_device.infer(&batch).unwrap(), on_cpu.infer(&batch).unwrap());
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(
                    (got.transform, got.grid, got.dim),
                    (expected.transform, expected.grid, expected.dim)
                );
                assert_eq!(got.dense.keys().collect::<Vec<_>>(), expected.dense.keys().collect::<Vec<_>>());
                worst = worst.max(relative(&got.cls, &expected.cls));
                for (head, expected) in &expected.dense {
                    assert_eq!(got.dense[head].channels, expected.channels);
                    worst = worst.max(relative(&got.dense[head].values, &expected.values));
                }
            }
        }
        println!("device: {}: |difference| / |reference| at most {worst:.1e}", on_device.spec().name);
        assert!(worst <= tolerance, "{worst}");
    }
}

fn open_backend(settings: &BackendSettings) -> Option<Box<dyn Backend>> {
    let store = standoff::model::store::Store::locate().unwrap();
    let (Some(_), Some(_)) = (environment(), installed(store.model_path(&settings.model))) else {
        return None;
    };
    Some(backend::open(settings).unwrap())
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (difference / square(&mut expected.iter().map(|value| f64::from(*value)))).sqrt()
}

#[test]
fn without_its_libraries_the_cuda_provider_is_a_clear_error() {
    let output = run_with_fake("device::what_the_cuda_provider_says", &[]);
    let said = said(&output);
    let clear = said.contains("ONNX Runtime cannot be used: its CUDA provider does not load")
        || said.contains("SKIP");
    assert!(output.status.success() && clear, "{said}");
    said.lines()
        .filter(|line| ["SKIP", "cuda:"].iter().any(|word| line.starts_with(word)))
        .for_each(|line| println!("{line}"));
}

#[test]
#[ignore = "needs a driver; the test above runs it with a test double of it"]
fn what_the_cuda_provider_says() {
    let settings = BackendSettings { max_batch: 4, layers: false, ..BackendSettings::default() };
    if open_backend(&settings).is_none() {
        return;
    }
    let gpu = Gpu::open().unwrap();
    let stream = gpu.context().new_stream().unwrap();
    let opened = DeviceSession::open(&settings, Precision::Mixed, Provider::Cuda, &stream);
    println!("cuda: {}", opened.err().map_or("opened".to_owned(), |error| error.to_string()));
}

/// The frame with other codes.
fn shifted(frame: &Frame, by: u8) -> Frame {
    let HostPlanes { format, data, planes } = frame.pixels.host().unwrap();
    let data: Vec<u8> = data.iter().map(|code| code.wrapping_add(by)).collect();
    let pixels = Pixels::Host { format, data: data.into(), planes: planes.to_vec() };
    Frame { pixels, ..frame.clone() }
}

/// The program's check of a GPU, on the test double: what it says of speed means nothing there, the rest must hold.
#[test]
fn the_check_of_a_gpu_writes_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let program = |arguments: &[&str], fake: bool| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_standoff"));
        program.arg("gpu").args(arguments);
        if fake {
            program.env("LD_LIBRARY_PATH", fake_driver());
        }
        program.output().unwrap()
    };
    let checked = program(&["check", "--kernels-only", "--once", "--out", out], true);
    assert!(checked.status.success(), "{}", said(&checked));
    let file = folder.path().join("check.json");
    let check: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let bits = check["kernels"]["bits"].as_array().unwrap();
    assert_eq!(bits.len(), 9);
    assert!(bits.iter().all(|bits| bits["differing"] == 0 && bits["values"].as_u64() > Some(0)), "{bits:?}");

    // The page of a device with backends and a peer.
    let mut check = check;
    let speed = |batch: usize, frames: f64| {
        serde_json::json!({"model": "S", "input": [392, 224], "batch": batch, "from": "host", "backend": "X",
            "frames_per_s": frames, "latency_ms": 2.0, "latency_p99_ms": 3.0, "preprocess_ms": 0.5, "backbone_ms": 1.0})
    };
    check["models"] = serde_json::json!({"heads": {"segment": 5}, "speed": [speed(1, 500.0), speed(16, 4000.0)],
        "backends": [{"what": "X in 16 bits", "name": "X", "problem": null, "gate": "a table", "rejected": null, "least_cosine": 0.9999}]});
    fs::write(&file, check.to_string()).unwrap();
    let row = |batch: usize, frames: f64| {
        serde_json::json!({"model": "S", "input": [392, 224], "batch": batch, "from": "host", "how": "CUDA graph",
            "frames_per_s": frames, "latency_ms": 4.0})
    };
    let peer = serde_json::json!({"peer": "PyTorch", "matmul_tflops": 800.0, "rows": [row(16, 2000.0)]});
    fs::write(folder.path().join("peer.json"), peer.to_string()).unwrap();
    let sanitizer = r#"{"memcheck": {"exit_code": 0, "said": "ERROR SUMMARY: 0 errors"}}"#;
    fs::write(folder.path().join("sanitizer.json"), sanitizer).unwrap();
    let reported = program(&["report", out], false);
    assert!(reported.status.success(), "{}", said(&reported));
    let page = fs::read_to_string(folder.path().join("report.md")).unwrap();
    for line in [
        "- compute-sanitizer memcheck: ERROR SUMMARY: 0 errors (exit code 0)",
        "- compute-sanitizer racecheck: not run",
        "- **X in 16 bits**: X, passes the gate",
        "| 2000 (CUDA graph) | 4.00 | 2.00 |",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    assert!(folder.path().join("speed.png").is_file());
}

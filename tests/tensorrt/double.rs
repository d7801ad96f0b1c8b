//! Plans that run on a machine without a GPU: a test double of TensorRT's library (fake_nvinfer.cpp), compiled with
//! the headers that the program was built with, on the test double of libcuda (kernels/fake_cuda.cpp). The shim, the
//! bindings, the checks and the way of a picture into the model and back are the real ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use standoff::backend::Backend;
use standoff::backend::cuda::pipeline::Shape;
use standoff::backend::cuda::{CudaBackend, Gpu};
use standoff::backend::gate::frames;
use standoff::backend::tensorrt::library::{Library, built_for, candidates};
use standoff::backend::tensorrt::network::TensorRt;
use standoff::backend::tensorrt::plan::{self, BuiltFor, Key};
use standoff::backend::tensorrt::tensors::Wanted;
use standoff::backend::tensorrt::{Device, DriverState, Kind};
use standoff::heads::shipped;
use standoff::model::graph::{CLS, INPUT};
use standoff::model::store::Store;
use standoff::preprocess::Preprocessor;
use standoff::types::{Batch, Frame};

use super::support::{PROGRAM, said};

/// Size of the model's input here.
pub const SIZE: [u32; 2] = [196, 112];
const PATCHES: usize = (196 / 14) * (112 / 14);
const DIM: usize = 384;
/// Every so many values of a picture are what it is known by.
pub const STRIDE: usize = 61;

fn headers(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::TensorRt10 => option_env!("TENSORRT_HEADERS_T10"),
        Kind::TensorRt11 => option_env!("TENSORRT_HEADERS_T11"),
        Kind::Rtx => option_env!("TENSORRT_HEADERS_RTX"),
    }
}

/// The folder of libcuda.so.1, and the libraries of all kinds that the program was built for.
pub fn doubles() -> &'static (PathBuf, Vec<(Kind, PathBuf)>) {
    static DOUBLES: OnceLock<(PathBuf, Vec<(Kind, PathBuf)>)> = OnceLock::new();
    DOUBLES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-trt-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let cuda = folder.join("libcuda.so.1");
        let kernels = ["kernels/fake_cuda.cpp", "kernels/host.cpp"].map(|file| root.join(file));
        compile(&cuda, &kernels, &["-ffp-contract=off"]);
        std::os::unix::fs::symlink(&cuda, folder.join("libcuda.so")).unwrap();
        let libraries = built_for().into_iter().map(|version| {
            let name = match version.kind {
                Kind::TensorRt10 => "libnvinfer.so.10",
                Kind::TensorRt11 => "libnvinfer.so.11",
                Kind::Rtx => "libtensorrt_rtx.so.1",
            };
            let library = folder.join(name);
            let includes = [root.join("src/backend/tensorrt/cuda"), headers(version.kind).unwrap().into()];
            let includes = includes.map(|folder: PathBuf| format!("-isystem{}", folder.display()));
            let source = [root.join("tests/tensorrt/fake_nvinfer.cpp")];
            compile(&library, &source, &[&includes[0], &includes[1], "-Wno-deprecated-declarations"]);
            (version.kind, library)
        });
        (folder.clone(), libraries.collect())
    })
}

fn compile(library: &Path, sources: &[PathBuf], flags: &[&str]) {
    let name = library.file_name().unwrap().to_str().unwrap();
    let output = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned()))
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", &format!("-Wl,-soname,{name}")])
        .args(flags)
        .args(sources)
        .args(["-ldl", "-o"])
        .arg(library)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// With the doubles as driver (of an RTX card) and library.
pub fn with_doubles(command: &mut Command, library: &Path) {
    command.env("LD_LIBRARY_PATH", &doubles().0).env("STANDOFF_TENSORRT", library);
    command.env("FAKE_CUDA_CAPABILITY", "86");
}

/// Runs one of the ignored tests below in a process of its own, for each kind of library.
pub fn run(test: &str, settings: &[(&str, &str)]) -> Vec<(Kind, String)> {
    if doubles().1.is_empty() {
        println!("SKIP: built without TensorRT's headers (docs/engines.md)");
    }
    let one = |(kind, library): &(Kind, PathBuf)| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", test, "--nocapture"]).envs(settings.iter().copied());
        with_doubles(&mut command, library);
        let output: Output = command.output().unwrap();
        let words = said(&output);
        assert!(output.status.success() && words.contains("1 passed"), "{kind}: {words}");
        (*kind, words)
    };
    doubles().1.iter().map(one).collect()
}

// --- plans ---

/// What must be in a plan, and the plan.
type Plan = (Wanted, Vec<u8>);

/// A picture as the plan knows it, and what it gives: `cls`, then the heads.
#[derive(Clone)]
pub struct Picture {
    pub sample: Vec<f32>,
    pub outputs: Vec<Vec<f32>>,
}

/// The heads with the values that they give a patch.
pub fn heads() -> Vec<(String, usize)> {
    let heads = shipped::graph_heads().unwrap();
    heads.iter().map(|head| (head.name.clone(), head.channels())).collect()
}

fn wanted(batch: usize) -> Wanted {
    let [input_width, input_height] = SIZE;
    Wanted { batch, input_width, input_height, dim: Some(DIM), layers: false, heads: heads() }
}

/// What each frame is known by.
pub fn samples(frames: &[Frame]) -> Vec<Vec<f32>> {
    let mut preprocessor = Preprocessor::new(SIZE[0], SIZE[1]);
    let mut pixels = vec![0.0; preprocessor.values()];
    let mut sample = |frame: &Frame| {
        preprocessor.run(frame, &mut pixels).unwrap();
        pixels.iter().step_by(STRIDE).copied().collect()
    };
    frames.iter().map(&mut sample).collect()
}

/// The frames with outputs that no model gives, each value another one.
pub fn pictures(frames: &[Frame]) -> Vec<Picture> {
    let lengths: Vec<usize> =
        std::iter::once(DIM).chain(heads().iter().map(|(_, channels)| PATCHES * channels)).collect();
    let mut next = 0.0;
    let mut count = || {
        next += 1.0;
        next
    };
    let mut picture = |sample| {
        let outputs = lengths.iter().map(|length| (0..*length).map(|_| count()).collect()).collect();
        Picture { sample, outputs }
    };
    samples(frames).into_iter().map(&mut picture).collect()
}

/// The file that fake_nvinfer.cpp reads.
pub fn fake_plan(batch: usize, half: bool, pictures: &[Picture]) -> Vec<u8> {
    let mut tensors = vec![(INPUT.to_owned(), true, vec![3, SIZE[1] as usize, SIZE[0] as usize])];
    tensors.push((CLS.to_owned(), false, vec![DIM]));
    tensors.extend(heads().into_iter().map(|(name, channels)| (name, false, vec![PATCHES, channels])));
    let mut file = b"FAKEPLAN".to_vec();
    let number = |file: &mut Vec<u8>, number: usize| file.extend((number as u32).to_le_bytes());
    number(&mut file, STRIDE);
    number(&mut file, tensors.len());
    for (name, is_input, sides) in tensors {
        number(&mut file, name.len());
        file.extend(name.as_bytes());
        number(&mut file, usize::from(half && is_input));
        number(&mut file, usize::from(is_input));
        number(&mut file, 1 + sides.len());
        std::iter::once(batch).chain(sides).for_each(|side| number(&mut file, side));
    }
    number(&mut file, pictures.len());
    for values in pictures.iter().flat_map(|picture| std::iter::once(&picture.sample).chain(&picture.outputs))
    {
        number(&mut file, values.len());
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    file
}

// --- in a process with the doubles ---

fn open(gpu: &Gpu) -> Library {
    let store = Store::at("nowhere");
    Library::open(&DriverState::Ready(Device::of(gpu)), &candidates(None, &store)).unwrap()
}

fn backend(gpu: &Gpu, library: &Library, plans: &[Plan], max_batch: usize) -> CudaBackend {
    let network = TensorRt::open(library, plans).unwrap();
    let heads = heads().into_iter().map(|(name, _)| name).collect();
    let shape = Shape { input: SIZE, max_batch, heads };
    let stream = gpu.context().new_stream().unwrap();
    CudaBackend::open(gpu, stream, Box::new(network), shape).unwrap()
}

#[test]
#[ignore = "runs in a process of its own: frames_go_through_plans_and_come_back_as_they_should"]
fn frames_through_plans() {
    let gpu = Gpu::open().unwrap();
    let library = open(&gpu);
    let frames = frames::frames().unwrap();
    let pictures = pictures(&frames);
    for half in [false, true] {
        let plans: Vec<_> =
            [1, 2, 4].iter().map(|batch| (wanted(*batch), fake_plan(*batch, half, &pictures))).collect();
        let mut backend = backend(&gpu, &library, &plans, 4);
        let bits = if half { "16 bits" } else { "32 bits" };
        assert!(backend.spec().name.starts_with(&format!("{}, {bits} on ", library.version())));
        let (mut compared, mut wrong) = (0, 0);
        // Each size three times and more, so that graphs are captured and used; each position with every frame.
        for round in 0..24 {
            let size = 1 + round % 4;
            let which: Vec<usize> =
                (0..size).map(|position| (round / 4 + position * 3) % frames.len()).collect();
            let batch = Batch { frames: which.iter().map(|at| frames[*at].clone()).collect() };
            let features = backend.infer(&batch).unwrap();
            assert_eq!(features.len(), size);
            for (at, features) in which.iter().zip(features) {
                let [cls, dense @ ..] = pictures[*at].outputs.as_slice() else { panic!("no outputs") };
                let right = features.cls == *cls
                    && heads()
                        .iter()
                        .zip(dense)
                        .all(|((name, _), values)| features.dense[name].values == *values);
                compared += 1;
                wrong += usize::from(!right);
            }
        }
        println!("plans: {bits}: {wrong} of {compared} frames wrong");
    }
}

#[test]
#[ignore = "runs in a process of its own: what_is_no_good_is_refused_with_a_reason"]
fn refusals() {
    let gpu = Gpu::open().unwrap();
    let library = open(&gpu);
    let pictures = pictures(&frames::frames().unwrap()[..1]);
    let good = fake_plan(2, true, &pictures);
    let more = Wanted { heads: vec![("more".to_owned(), 3)], ..wanted(2) };
    let cases: [(&str, Vec<Plan>); 7] = [
        ("random bytes", vec![(wanted(2), vec![7; 1000])]),
        ("empty", vec![(wanted(2), vec![])]),
        ("cut", vec![(wanted(2), good[..good.len() - 1].to_vec())]),
        ("batch", vec![(wanted(4), good.clone())]),
        ("head", vec![(more, good.clone())]),
        ("mixture", vec![(wanted(2), good), (wanted(1), fake_plan(1, false, &pictures))]),
        ("none", vec![]),
    ];
    for (name, plans) in cases {
        match TensorRt::open(&library, &plans) {
            Ok(_) => println!("refusal: {name}: taken"),
            Err(error) => println!("refusal: {name}: {error}"),
        }
    }
}

#[test]
#[ignore = "runs in a process of its own: a_run_that_fails_is_an_error_with_a_reason"]
fn failing_runs() {
    let gpu = Gpu::open().unwrap();
    let library = open(&gpu);
    let plans = [(wanted(1), fake_plan(1, true, &pictures(&frames::frames().unwrap()[..1])))];
    let network = match TensorRt::open(&library, &plans) {
        Ok(network) => network,
        Err(error) => return println!("failure: {error}"),
    };
    let shape = Shape { input: SIZE, max_batch: 1, heads: vec!["depth".to_owned()] };
    let stream = gpu.context().new_stream().unwrap();
    match CudaBackend::open(&gpu, stream, Box::new(network), shape) {
        Ok(_) => println!("failure: none"),
        Err(error) => println!("failure: {error}"),
    }
}

// --- the tests ---

#[test]
fn frames_go_through_plans_and_come_back_as_they_should() {
    for (kind, words) in run("double::frames_through_plans", &[]) {
        for bits in ["32 bits", "16 bits"] {
            assert!(words.contains(&format!("plans: {bits}: 0 of 60 frames wrong")), "{kind}: {words}");
        }
        println!("{kind}: 120 frames through plans of 1, 2 and 4, 0 wrong");
    }
}

#[test]
fn what_is_no_good_is_refused_with_a_reason() {
    for (kind, words) in run("double::refusals", &[]) {
        let expected = [
            (
                "random bytes",
                "does not take the plan: the plan does not begin as a plan of this library does; build it anew",
            ),
            ("empty", "does not take the plan: "),
            ("cut", "does not take the plan: "),
            ("batch", "'pixels' of the plan is 2x3x112x196, 4x3x112x196 is needed"),
            ("head", "the plan has no output 'more'; it has 'cls', 'decoder', 'depth'"),
            (
                "mixture",
                "the plans do not fit together: their inputs or outputs differ in more than the batch",
            ),
            ("none", "the plans do not fit together: there is none"),
        ];
        for (name, reason) in expected {
            let line = words.lines().find(|line| line.starts_with(&format!("refusal: {name}: ")));
            assert!(line.is_some_and(|line| line.contains(reason)), "{kind}, {name}: {words}");
        }
    }
}

#[test]
fn a_run_that_fails_is_an_error_with_a_reason() {
    for (fail, expected) in [
        ("", "failure: none"),
        (
            "context",
            "failure: the plan cannot be made ready to run: out of memory (is there enough GPU memory?)",
        ),
        ("enqueue", "inference could not be started: out of tactics"),
    ] {
        for (kind, words) in run("double::failing_runs", &[("FAKE_TENSORRT_FAIL", fail)]) {
            assert!(words.contains(expected), "{kind}, {fail}: {words}");
        }
    }
}

#[test]
fn the_program_lists_and_verifies_plans_on_a_machine_that_can_run_them() {
    let frames = frames::frames().unwrap();
    let plan = fake_plan(1, true, &pictures(&frames[..1]));
    for (kind, library) in &doubles().1 {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let run = |arguments: &[&str], settings: &[(&str, &str)]| {
            let mut command = Command::new(PROGRAM);
            with_doubles(command.args(arguments).env("STANDOFF_HOME", folder.path()), library);
            let output = command.envs(settings.iter().copied()).output().unwrap();
            (output.status.code(), said(&output))
        };
        let device = |name: &str| Device { name: name.to_owned(), capability: 86 };
        let write = |built_for: BuiltFor, tensors: Wanted| {
            let version = kind.built_for().unwrap();
            let (onnx_sha256, precision) = ("0".repeat(64), "mixed".to_owned());
            let key = Key { onnx_sha256, library: version, built_for, batch: 1, precision };
            fs::create_dir_all(store.engines_folder()).unwrap();
            let path = store.engines_folder().join(key.file_name());
            plan::write(&path, key, "made up".to_owned(), Some(tensors), &plan).unwrap();
        };
        write(BuiltFor::Gpu(device("no GPU but a test double")), wanted(1));
        write(BuiltFor::Target(86), wanted(1));
        let (code, words) = run(&["engine", "list"], &[]);
        assert_eq!((code, words.matches("  runs here\n").count()), (Some(0), 2), "{kind}: {words}");
        let (code, words) = run(&["engine", "verify"], &[]);
        assert_eq!(
            (code, words.matches("takes it: pixels f16 1x3x112x196, cls f32 1x384").count()),
            (Some(0), 2)
        );

        write(BuiltFor::Gpu(device("another")), wanted(1));
        let (_, words) = run(&["engine", "list"], &[]);
        assert!(words.contains("does not run here: this GPU is no GPU but a test double (sm_86)"), "{words}");
        write(BuiltFor::Target(89), wanted(2));
        let (code, words) = run(&["engine", "verify"], &[]);
        let said = "whole; 'pixels' of the plan is 1x3x112x196, 2x3x112x196 is needed";
        assert!(code == Some(1) && words.contains(said), "{words}");

        // One of trtexec's: taken when its tensors are what is needed.
        let bare = folder.path().join("bare.engine");
        fs::write(&bare, &plan).unwrap();
        let verify = ["engine", "verify", "--plan", bare.to_str().unwrap(), "--size"];
        let (code, words) = run(&[verify.as_slice(), &["196x112"]].concat(), &[]);
        assert!(code == Some(0) && words.contains("no header of standoff's; "), "{words}");
        let (code, words) = run(&[verify.as_slice(), &["392x224"]].concat(), &[]);
        assert!(code == Some(1) && words.contains("1x3x224x392 is needed"), "{words}");

        // And the gates, with a driver that answers.
        let version = kind.built_for().unwrap();
        let older = (version.major * 10_000 + (version.minor - 1) * 100).to_string();
        let (code, words) = run(&["engine", "verify"], &[("FAKE_TENSORRT_VERSION", &older)]);
        assert!(code == Some(2) && words.contains("; standoff was built for "), "{words}");
        let (_, words) = run(&["engine", "list"], &[("FAKE_CUDA_CAPABILITY", "90")]);
        assert_eq!(words.contains("does not run on no GPU but a test double (sm_90)"), *kind == Kind::Rtx);
        let (_, words) = run(&["doctor"], &[]);
        assert!(
            words.contains(&format!("TensorRT      {version}, ")) || words.contains(&format!("{version}, "))
        );
    }
}

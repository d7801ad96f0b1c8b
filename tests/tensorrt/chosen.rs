//! The daemon's choice of a backend with TensorRT on the test doubles: plans from the cache, through the numeric gate
//! with the real model's numbers; and what is chosen when a plan gives wrong ones.

use std::fs;
use std::os::unix::fs::symlink;

use standoff::backend::choice::choose;
use standoff::backend::cuda::Gpu;
use standoff::backend::gate::frames;
use standoff::backend::onnxruntime::OnnxRuntime;
use standoff::backend::tensorrt::cache::Cache;
use standoff::backend::tensorrt::job::Job;
use standoff::backend::tensorrt::library::{Library, candidates};
use standoff::backend::tensorrt::plan::BuiltFor;
use standoff::backend::tensorrt::{Device, DriverState};
use standoff::backend::{Backend, BackendSettings};
use standoff::heads::shipped;
use standoff::model::fetch::DINOV2_SMALL;
use standoff::model::graph::Precision;
use standoff::model::store::Store;
use standoff::types::Batch;

use super::double::{Picture, SIZE, doubles, fake_plan, heads, pictures, run, samples, with_doubles};
use super::support::{OwnStore, said};

/// Where `depth` is among the outputs: after `cls` and `decoder`.
const DEPTH: usize = 2;

fn settings() -> BackendSettings {
    BackendSettings {
        input_width: SIZE[0],
        input_height: SIZE[1],
        max_batch: 2,
        heads: shipped::graph_heads().unwrap(),
        layers: false,
        threads: Some(2),
        ..BackendSettings::default()
    }
}

/// The gate's frames with what ONNX Runtime gives for them.
fn honest() -> Vec<Picture> {
    let frames = frames::frames().unwrap();
    let mut cpu = OnnxRuntime::open(&BackendSettings { max_batch: 1, ..settings() }).unwrap();
    let of = |(sample, frame)| {
        let mut features = cpu.infer(&Batch { frames: vec![frame] }).unwrap().remove(0);
        let dense = heads().into_iter().map(|(name, _)| features.dense.remove(&name).unwrap().values);
        let outputs = std::iter::once(features.cls.clone()).chain(dense).collect();
        Picture { sample, outputs }
    };
    samples(&frames).into_iter().zip(frames.clone()).map(of).collect()
}

/// Puts plans into the cache: what they give for batches of one, and of two.
fn put(precision: Precision, plans: [&[Picture]; 2]) {
    let store = Store::locate().unwrap();
    let device = Device::of(&Gpu::open().unwrap());
    let library = Library::open(&DriverState::Ready(device.clone()), &candidates(None, &store)).unwrap();
    for (batch, pictures) in [1, 2].into_iter().zip(plans) {
        let built_for = BuiltFor::Gpu(device.clone());
        let job = Job::of_model(&store, &settings(), &library, built_for, batch, precision).unwrap();
        let plan = fake_plan(batch, precision == Precision::Mixed, pictures);
        Cache::of(&store).put(job.key, &job.about, job.tensors, &plan).unwrap();
    }
}

#[test]
#[ignore = "runs in a process of its own: the_best_plan_that_gives_right_numbers_runs"]
fn choices() {
    let say = |case: &str| {
        let settings = settings();
        let chosen = choose(&settings).unwrap();
        println!("choice: {case}: {}: {}", chosen.degraded.unwrap_or("as expected"), chosen.line());
    };
    say("no plans");

    let right = honest();
    let mut halved = right.clone();
    halved.iter_mut().flat_map(|picture| &mut picture.outputs[DEPTH]).for_each(|value| *value *= 0.5);
    let mut not_a_number = right.clone();
    not_a_number[3].outputs[0][17] = f32::NAN;
    let mut exchanged = right.clone();
    let outputs: Vec<_> = right.iter().map(|picture| picture.outputs.clone()).collect();
    for (at, picture) in exchanged.iter_mut().enumerate() {
        picture.outputs = outputs[at ^ 1].clone();
    }

    put(Precision::Mixed, [&right, &right]);
    put(Precision::Full, [&right, &right]);
    say("right");
    put(Precision::Mixed, [&halved, &right]);
    say("depth halved");
    put(Precision::Mixed, [&right, &not_a_number]);
    put(Precision::Full, [&right, &exchanged]);
    say("both wrong");

    let store = Store::locate().unwrap();
    for entry in Cache::of(&store).list() {
        let mut bytes = fs::read(&entry.path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&entry.path, bytes).unwrap();
    }
    say("damaged");
}

#[test]
fn the_best_plan_that_gives_right_numbers_runs() {
    let real = Store::locate().unwrap();
    if !real.model_path(DINOV2_SMALL).is_file() || !real.library_path().is_file() {
        println!("SKIP: no model or no onnxruntime in the store (standoff model fetch)");
        return;
    }
    // A store with the model and ONNX Runtime for the CPU, and nothing else.
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lib")).unwrap();
    symlink(real.root().join("models"), folder.path().join("models")).unwrap();
    let library = fs::canonicalize(real.library_path()).unwrap();
    for name in ["libonnxruntime.so".as_ref(), library.file_name().unwrap()] {
        symlink(&library, folder.path().join("lib").join(name)).unwrap();
    }

    let store = folder.path().to_str().unwrap();
    for (kind, words) in run("chosen::choices", &[("STANDOFF_HOME", store)]) {
        let line = |case: &str| {
            let start = format!("choice: {case}: ");
            let line = words.lines().find_map(|line| line.strip_prefix(&start));
            let line = line.unwrap_or_else(|| panic!("{kind}, {case}: {words}")).to_owned();
            println!("{case}: {line}");
            line
        };
        let version = kind.built_for().unwrap();
        let none = line("no plans");
        assert!(none.starts_with("not_installed: the model runs on ONNX Runtime"), "{none}");
        assert!(
            none.contains(&format!("{version} has no plan for dinov2-small 196x112 batch 1 mixed")),
            "{none}"
        );
        let command =
            "standoff engine build --model dinov2-small --size 196x112 --batch 1,2 --precision mixed";
        assert!(none.contains(&format!("({command}, then restart)")), "{none}");

        let right = line("right");
        let sixteen = format!("the model runs on {version}, 16 bits on no GPU but a test double");
        assert_eq!(right, format!("as expected: {sixteen}"));

        let halved = line("depth halved");
        let full = format!("rejected: the model runs on {version}, 32 bits on no GPU but a test double: ");
        assert!(halved.starts_with(&full) && halved.contains("wrong numbers, output 'depth'"), "{halved}");

        let wrong = line("both wrong");
        assert!(wrong.starts_with("rejected: the model runs on ONNX Runtime 1."), "{wrong}");
        assert!(wrong.contains("TensorRT: wrong numbers, output 'cls'"), "{wrong}");
        assert!(wrong.contains("TensorRT in 32 bits: wrong numbers, "), "{wrong}");

        let damaged = line("damaged");
        assert!(damaged.starts_with("not_installed: ") && damaged.contains("is damaged"), "{damaged}");
    }
}

#[test]
fn a_plan_of_trtexec_is_taken_into_the_cache_and_found_there() {
    let Some(store) = OwnStore::new() else { return };
    let plan = fake_plan(1, true, &pictures(&frames::frames().unwrap()[..1]));
    let bare = store.path().join("trtexec.engine");
    fs::write(&bare, &plan).unwrap();
    for (kind, library) in &doubles().1 {
        let build = |size: &str, more: &[&str]| {
            let plan = ["engine", "build", "--size", size, "--plan", bare.to_str().unwrap()];
            let mut command = store.command(&[plan.as_slice(), more].concat());
            with_doubles(&mut command, library);
            let output = command.output().unwrap();
            (output.status.code(), said(&output))
        };
        let (code, words) = build("392x224", &[]);
        assert!(
            code == Some(1) && words.contains("is not taken for dinov2-small 392x224 batch 1"),
            "{words}"
        );
        let before = store.engines().len();
        let (code, words) = build("196x112", &[]);
        assert!(code == Some(0) && words.contains("taken: dinov2-small 196x112 batch 1 mixed"), "{words}");
        assert_eq!(store.engines().len(), before + 1, "{kind}");
        let entries = Cache::of(&store.store()).list();
        let device = Device { name: "no GPU but a test double".to_owned(), capability: 86 };
        let found = entries.iter().filter_map(|entry| entry.header.as_ref().ok()).find(|header| {
            header.key.library.kind == *kind && header.key.built_for == BuiltFor::Gpu(device.clone())
        });
        let found = found.unwrap_or_else(|| panic!("{kind}: {entries:?}"));
        assert_eq!((found.key.batch, found.key.precision.as_str()), (1, "mixed"));
    }
}

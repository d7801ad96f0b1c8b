//! TensorRT-RTX compiles ahead of time, for GPUs that are not here, and refuses what is no good.

use std::fs;
use std::path::Path;

use prost::Message;
use standoff::backend::tensorrt::DriverState;
use standoff::backend::tensorrt::plan::{self, BuiltFor, PlanError};
use standoff::heads::shipped;
use standoff::model::fetch::DINOV2_SMALL;
use standoff::model::graph::{BatchSize, GraphOptions};
use standoff::model::onnx::{Dim, GraphProto, ModelProto, NodeProto, OperatorSetId, ValueInfoProto};

use super::support::{OwnStore, build, refusal, rtx, said};

/// The graph that the daemon would run, small input, in 32 bits.
fn graph(store: &OwnStore, batch: BatchSize) -> std::path::PathBuf {
    let heads = shipped::graph_heads().unwrap();
    let options = GraphOptions { taps: false, ..GraphOptions::new([196, 112], batch, &heads) };
    store.store().graph(DINOV2_SMALL, &options).unwrap()
}

#[test]
fn the_model_with_its_heads_is_compiled_for_three_gpus_and_kept() {
    let (Some(_), Some(store)) = (rtx(), OwnStore::new()) else { return };
    let build = ["engine", "build", "--target", "sm_86,sm_89,sm_120"];
    let output = store.run(&build);
    println!("{}", said(&output));
    assert!(output.status.success());
    let words = said(&output);
    for target in ["sm_86", "sm_89", "sm_120"] {
        assert!(words.contains(&format!("batch 1 mixed for any {target} with TensorRT-RTX 1.7")), "{target}");
    }
    let mut plans = store.engines();
    plans.sort();
    assert_eq!(plans.len(), 3, "{plans:?}");
    for file in &plans {
        let (header, bytes) = plan::read(file, None).unwrap();
        // ViT-S has 22 million weights, here of 2 bytes; a plan without them would be smaller.
        assert!((42_000_000..60_000_000).contains(&bytes.len()), "{}: {}", file.display(), bytes.len());
        assert_eq!(header.about, "dinov2-small 392x224");
        assert_eq!(header.tensors.unwrap().heads.len(), 2);

        let mut other = header.key.clone();
        other.library.minor += 1;
        assert!(matches!(plan::read(file, Some(&other)), Err(PlanError::OtherKey { .. })));
        other = header.key.clone();
        other.built_for = BuiltFor::Target(75);
        assert!(matches!(plan::read(file, Some(&other)), Err(PlanError::OtherKey { .. })));
    }

    // What is there is not built again, and what was changed on disk is.
    let output = store.run(&build);
    assert_eq!(said(&output).matches("already built").count(), 3, "{}", said(&output));
    let mut bytes = fs::read(&plans[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&plans[0], bytes).unwrap();
    fs::write(store.store().engines_folder().join("random.plan"), [7; 5000]).unwrap();

    let output = store.run(&["engine", "verify"]);
    let words = said(&output);
    println!("{words}");
    assert_eq!(output.status.code(), Some(1));
    assert!(words.contains("is damaged (its hash is another one)"));
    assert!(words.contains("random.plan is not a plan of standoff's"));
    if let DriverState::Absent(_) = DriverState::probe() {
        assert_eq!(words.matches(": whole; no NVIDIA driver ").count(), 2);
    }
    let listed = said(&store.run(&["engine", "list"]));
    println!("{listed}");
    assert!(listed.contains("batch 1, mixed, TensorRT-RTX 1.7.1, for any sm_120"));

    let output = store.run(&build);
    assert_eq!(said(&output).matches("already built").count(), 2, "{}", said(&output));
    assert!(plan::read(&plans[0], None).is_ok(), "the damaged one is whole again");

    // 32 bits is another plan, twice as large; and two pictures at once are another.
    let full = ["engine", "build", "--target", "sm_86", "--precision", "full", "--batch", "1,2", "--layers"];
    let output = store.run(&full);
    println!("{}", said(&output));
    assert!(output.status.success());
    let bytes: Vec<u64> = store
        .engines()
        .iter()
        .filter(|file| file.to_str().unwrap().contains("-full-"))
        .map(|file| fs::metadata(file).unwrap().len())
        .collect();
    assert!(bytes.len() == 2 && bytes.iter().all(|bytes| *bytes > 80_000_000), "{bytes:?}");
}

#[test]
fn a_gpu_that_rtx_does_not_know_is_refused_before_anything_is_built() {
    let (Some(_), Some(store)) = (rtx(), OwnStore::new()) else { return };
    for target in ["sm_90", "sm_87"] {
        let output = store.run(&["engine", "build", "--target", target]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            said(&output),
            format!(
                "standoff: TensorRT-RTX 1.7.1 cannot build for {target}: it knows sm_75, sm_80, sm_86, sm_89, \
                 sm_120, sm_121\n"
            )
        );
    }
    assert!(store.engines().is_empty());
}

#[test]
fn a_truncated_graph_is_refused() {
    let (Some(library), Some(store)) = (rtx(), OwnStore::new()) else { return };
    let whole = graph(&store, BatchSize::Fixed(1));
    let bytes = fs::read(&whole).unwrap();
    let cut = store.path().join("cut.onnx");
    for length in [0, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&cut, &bytes[..length]).unwrap();
        let said = refusal(&library, &cut, None);
        assert!(said.starts_with("the ONNX graph is not accepted: "), "{length}: {said}");
    }
    let plan = store.path().join("plan");
    build(&library, &whole, Some([1, 3, 112, 196]), &plan).unwrap();
    assert!(fs::metadata(plan).unwrap().len() > 80_000_000, "the whole one is accepted");
}

#[test]
fn an_unknown_operator_is_named() {
    let (Some(library), Some(store)) = (rtx(), OwnStore::new()) else { return };
    let side = |name: &str| ValueInfoProto::float(name, [1, 3, 14, 14].map(Dim::Value).to_vec());
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(GraphProto {
            name: Some("odd".to_owned()),
            node: vec![NodeProto {
                input: vec!["pixels".to_owned()],
                output: vec!["cls".to_owned()],
                name: Some("the odd one".to_owned()),
                op_type: Some("Frobnicate".to_owned()),
                ..NodeProto::default()
            }],
            input: vec![side("pixels")],
            output: vec![side("cls")],
            ..GraphProto::default()
        }),
        opset_import: vec![OperatorSetId { domain: Some(String::new()), version: Some(17) }],
        ..ModelProto::default()
    };
    let file = store.path().join("odd.onnx");
    fs::write(&file, model.encode_to_vec()).unwrap();
    let said = refusal(&library, &file, None);
    assert!(said.starts_with("the ONNX graph is not accepted: node 'the odd one' (Frobnicate): "), "{said}");
}

#[test]
fn an_input_of_another_shape_is_refused() {
    let (Some(library), Some(store)) = (rtx(), OwnStore::new()) else { return };
    let file = graph(&store, BatchSize::Fixed(1));
    for wanted in [[2, 3, 112, 196], [1, 3, 224, 196]] {
        let said = refusal(&library, &file, Some(wanted));
        let words = wanted.map(|side: i64| side.to_string()).join("x");
        assert_eq!(
            said,
            format!("the ONNX graph has the wrong input: input 'pixels' is 1x3x112x196, wanted is {words}")
        );
    }
}

#[test]
fn an_open_batch_without_a_profile_is_refused_and_with_a_shape_it_is_built() {
    let (Some(library), Some(store)) = (rtx(), OwnStore::new()) else { return };
    let file = graph(&store, BatchSize::Symbolic);
    let said = refusal(&library, &file, None);
    assert!(said.contains("optimization profile"), "{said}");
    let plan = store.path().join("plan");
    build(&library, &file, Some([2, 3, 112, 196]), &plan).unwrap();
    assert!(fs::metadata(plan).unwrap().len() > 80_000_000);
}

#[test]
fn a_bare_plan_is_never_taken_for_one_of_ours() {
    let Some(store) = OwnStore::new() else { return };
    let file = store.path().join("trtexec.engine");
    fs::write(&file, [9; 4096]).unwrap();
    let output = store.run(&["engine", "verify", "--plan", file.to_str().unwrap()]);
    let words = said(&output);
    println!("{words}");
    assert!(!output.status.success());
    assert!(words.contains("no header of standoff's; "), "{words}");
    assert!(matches!(plan::read(&file, None), Err(PlanError::Foreign(_))));
    let missing = store.run(&["engine", "verify", "--plan", "nowhere.engine"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(Path::new("nowhere.engine").metadata().is_err() && said(&missing).contains("nowhere.engine"));
}

//! The numeric gate lets honest backends through and names what a broken one gives wrongly.

use std::collections::BTreeMap;

use standoff::backend::gate::{self, Reference, frames::frames};
use standoff::backend::onnxruntime::OnnxRuntime;
use standoff::backend::{Backend, BackendError, BackendSettings, BackendSpec};
use standoff::heads::shipped;
use standoff::model::graph::{CLS, Dialect, Precision, TAPS, grid_of};
use standoff::model::store::Store;
use standoff::preprocess::letterbox;
use standoff::types::{Batch, Dense, Features, StageTimes};

use super::mixed;
use super::support::{environment, installed};

const INPUT: [u32; 2] = [392, 224];

fn settings(max_batch: usize, layers: bool) -> BackendSettings {
    let heads = shipped::graph_heads().unwrap();
    BackendSettings { max_batch, heads, layers, threads: Some(2), ..BackendSettings::default() }
}

/// The reference, when model and library are there.
fn reference() -> Option<Reference> {
    let store = Store::locate().unwrap();
    environment()?;
    installed(store.model_path("dinov2-small"))?;
    Some(Reference::of(&settings(1, true)).unwrap())
}

/// Answers with what was computed before for each of the gate's frames, after `fault` has had its way with the batch.
struct Known<F> {
    spec: BackendSpec,
    answers: Vec<Features>,
    fault: F,
}

impl<F: FnMut(&mut Vec<Features>) + Send> Backend for Known<F> {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Features>, BackendError> {
        let answer = |frame: &standoff::types::Frame| Features {
            frame: frame.clone(),
            ..self.answers[usize::try_from(frame.seq).unwrap()].clone()
        };
        let mut answers = batch.frames.iter().map(answer).collect();
        (self.fault)(&mut answers);
        Ok(answers)
    }
}

/// What ONNX Runtime gives for each frame, alone.
fn honest() -> (BackendSpec, Vec<Features>) {
    let mut backend = OnnxRuntime::open(&settings(1, true)).unwrap();
    let answers = frames()
        .unwrap()
        .into_iter()
        .map(|frame| backend.infer(&Batch { frames: vec![frame] }).unwrap().remove(0));
    let answers = answers.collect();
    (backend.spec().clone(), answers)
}

#[test]
fn honest_backends_pass() {
    let Some(reference) = reference() else { return };
    let cpu = |layers: bool| OnnxRuntime::open(&settings(4, layers)).unwrap();
    let half = |dialect| OnnxRuntime::open_as(&settings(4, true), Precision::Mixed, dialect).unwrap();
    for mut backend in [cpu(true), cpu(false), half(Dialect::Onnx), half(Dialect::OnnxRuntime)] {
        let report = gate::check(&mut backend, &reference);
        println!("{report}");
        assert_eq!(report.rejection(), None);
        assert_eq!(report.batches, [1, 2, 3, 4]);
    }
}

/// A graph in 16 bits that rounds as a GPU does is let through, with room to spare.
#[test]
fn sixteen_bits_on_a_device_pass() {
    let (Some(reference), Some(weights)) = (reference(), mixed::weights()) else { return };
    let model = mixed::on_a_device(&mixed::written(&weights, 1, Precision::Mixed, Dialect::Onnx));
    let outputs = mixed::one_by_one(&model, &mixed::rounded(&mixed::pictures())).unwrap();
    let outputs = mixed::within_half("gate", outputs);
    let grid = grid_of(INPUT[0], INPUT[1]).unwrap();
    let frames = frames().unwrap();
    let values = |name: &str, at: usize| {
        let all = &outputs.iter().find(|(known, _)| known == name).unwrap().1;
        let part = all.len() / frames.len();
        all[at * part..][..part].to_vec()
    };
    let answer = |(at, frame): (usize, &standoff::types::Frame)| Features {
        frame: frame.clone(),
        transform: letterbox([frame.width, frame.height], INPUT),
        grid,
        dim: weights.dim,
        layers: TAPS.iter().map(|tap| values(tap, at)).collect(),
        cls: values(CLS, at),
        dense: (["decoder", "depth"].iter())
            .map(|head| {
                let values = values(head, at);
                (String::from(*head), Dense { channels: values.len() / grid.len(), values })
            })
            .collect::<BTreeMap<_, _>>(),
        closer: vec![],
        times: StageTimes::default(),
    };
    let answers = frames.iter().enumerate().map(answer).collect();
    let (spec, _) = honest();
    let mut backend = Known {
        spec: BackendSpec { name: "16 bits".into(), max_batch: 16, ..spec },
        answers,
        fault: |_: &mut Vec<Features>| (),
    };
    let report = gate::check(&mut backend, &reference);
    println!("{report}");
    assert_eq!(report.rejection(), None);
}

/// Every fault, and how the gate names it.
#[test]
fn corrupted_backends_are_rejected_by_name() {
    type Fault = fn(&mut Vec<Features>);
    let faults: [(&str, Fault, &str); 16] = [
        ("nothing at all", |a| a.clear(), "batch of 1: 0 answers came"),
        (
            "a NaN",
            |a| a[0].dense.get_mut("depth").unwrap().values[7] = f32::NAN,
            "output 'depth' (frame 0, position 0 of a batch of 1): NaN came out",
        ),
        (
            "an infinity in the CLS token",
            |a| a[0].cls[3] = f32::INFINITY,
            "output 'cls' (frame 0, position 0 of a batch of 1): inf came out",
        ),
        (
            "zeros",
            |a| a[0].cls.fill(0.0),
            "output 'cls' (frame 0, position 0 of a batch of 1): cosine NaN, at least 0.999 is needed",
        ),
        (
            "half as much CLS",
            |a| a[0].cls.iter_mut().for_each(|v| *v *= 0.5),
            "output 'cls' (frame 0, position 0 of a batch of 1): relative difference 0.5000, at most 0.045 is allowed",
        ),
        (
            "half as much of a head",
            |a| a[0].dense.get_mut("decoder").unwrap().values.iter_mut().for_each(|v| *v *= 0.5),
            "output 'decoder' (frame 0, position 0 of a batch of 1): relative difference 0.5000",
        ),
        (
            "depth nearer by 4 %",
            |a| a[0].dense.get_mut("depth").unwrap().values.iter_mut().step_by(2).for_each(|v| *v -= 0.04),
            "output 'depth' (frame 0, position 0 of a batch of 1): error",
        ),
        (
            "an offset in one class of one cell",
            |a| a[0].dense.get_mut("decoder").unwrap().values.iter_mut().step_by(173).for_each(|v| *v += 0.2),
            "output 'decoder' (frame 0, position 0 of a batch of 1): ",
        ),
        (
            "one patch of depth",
            |a| a[0].dense.get_mut("depth").unwrap().values[200] += 0.1,
            "output 'depth' (frame 0, position 0 of a batch of 1): error over the span of the bins",
        ),
        (
            "tokens one further",
            |a| a[0].layers[2].rotate_right(384),
            "output 'tap2' (frame 0, position 0 of a batch of 1): cosine",
        ),
        (
            "two tokens swapped",
            |a| {
                if a[0].frame.seq == 0 {
                    let (left, right) = a[0].layers[3].split_at_mut(10 * 384);
                    left[..384].swap_with_slice(&mut right[..384]);
                }
            },
            "output 'tap3' (",
        ),
        (
            "channels of a head swapped",
            |a| {
                a[0].dense.get_mut("decoder").unwrap().values.chunks_exact_mut(173).for_each(|v| v.swap(0, 5))
            },
            "output 'decoder' (frame 0, position 0 of a batch of 1): ",
        ),
        (
            "a head missing",
            |a| {
                a[0].dense.remove("decoder");
            },
            "output 'decoder' (frame 0, position 0 of a batch of 1): it is missing",
        ),
        (
            "entries 5 and 9 swapped",
            |a| {
                if a.len() == 16 {
                    let (l, r) = a.split_at_mut(9);
                    std::mem::swap(&mut l[5].dense, &mut r[0].dense);
                }
            },
            "output 'decoder' (frame 1, position 5 of a batch of 16): cosine",
        ),
        (
            "the last of eight is the first",
            |a| {
                if a.len() == 8 {
                    a[7].cls = a[0].cls.clone();
                }
            },
            "output 'cls' (frame 3, position 7 of a batch of 8): cosine",
        ),
        (
            "frames exchanged",
            |a| {
                if a.len() == 2 {
                    a.swap(0, 1);
                }
            },
            "batch of 2: frame 0, position 0 of a batch of 2: the answer is for another frame",
        ),
    ];
    let Some(reference) = reference() else { return };
    let (spec, answers) = honest();
    let spec = BackendSpec { max_batch: 16, ..spec };
    let mut sound = Known { spec: spec.clone(), answers: answers.clone(), fault: |_: &mut Vec<Features>| () };
    assert_eq!(gate::check(&mut sound, &reference).rejection(), None);
    let mut missed = vec![];
    for (name, fault, expected) in faults {
        let mut backend = Known { spec: spec.clone(), answers: answers.clone(), fault };
        let rejection = gate::check(&mut backend, &reference).rejection();
        println!("{name}: {}", rejection.as_deref().unwrap_or("PASSED"));
        if !rejection.is_some_and(|why| why.starts_with(expected)) {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
    let mut other = Known {
        spec: BackendSpec { heads: vec!["depth".into()], ..spec },
        answers,
        fault: |_: &mut Vec<Features>| (),
    };
    assert!(gate::check(&mut other, &reference).rejection().unwrap().starts_with("it has the heads"));
}

#[test]
fn a_kept_reference_is_the_computed_one() {
    if reference().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let computed = Reference::in_folder(&settings(1, true), folder.path()).unwrap();
    let kept = Reference::in_folder(&settings(4, false), folder.path()).unwrap();
    assert!(format!("{computed:?}") == format!("{kept:?}"));
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    println!("{}: {} bytes", files[0].display(), files[0].metadata().unwrap().len());
    let bytes = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &bytes[..1000]).unwrap();
    let again = Reference::in_folder(&settings(1, true), folder.path()).unwrap();
    assert!(format!("{again:?}") == format!("{kept:?}"));
    assert_eq!(
        std::fs::metadata(&files[0]).unwrap().len(),
        bytes.len() as u64,
        "the damaged one was replaced"
    );
}

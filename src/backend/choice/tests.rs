use std::cell::RefCell;

use super::*;
use crate::backend::BackendSpec;
use crate::backend::driver::NO_DRIVER;
use crate::types::{Batch, Features, Grid};

/// A backend that can only say its name.
struct Named(BackendSpec);

impl Backend for Named {
    fn spec(&self) -> &BackendSpec {
        &self.0
    }

    fn infer(&mut self, _: &Batch) -> Result<Vec<Features>, BackendError> {
        Err(BackendError::Infer("a name cannot infer".into()))
    }
}

fn named(name: &str) -> Box<dyn Backend> {
    Box::new(Named(BackendSpec {
        name: name.to_owned(),
        input_width: 14,
        input_height: 14,
        grid: Grid { rows: 1, cols: 1, patch_px: 14 },
        dim: 1,
        max_batch: 1,
        heads: vec![],
        reads_gpu: false,
    }))
}

type Opened = Result<&'static str, Unusable>;

fn no_driver() -> Opened {
    Err(Unusable::NoDevice(NO_DRIVER.into()))
}

fn not_installed() -> Opened {
    Err(Unusable::NotInstalled {
        problem: "TensorRT is not installed".into(),
        remedy: "apt-get install libnvinfer10".into(),
    })
}

fn failed() -> Opened {
    Err(Unusable::Failed(BackendError::Open("out of memory".into())))
}

/// Chooses among TensorRT mixed and full, CUDA mixed, CPU, each opening as said; backends whose name holds "wrong" do
/// not pass the gate. Also tells which were opened.
fn chosen(wanted: Wanted, opened: [Opened; 4]) -> (Result<Chosen, BackendError>, Vec<&'static str>) {
    let places = [
        (Runtime::TensorRt, Precision::Mixed, "trt16"),
        (Runtime::TensorRt, Precision::Full, "trt32"),
        (Runtime::Cuda, Precision::Mixed, "cuda"),
        (Runtime::Cpu, Precision::Full, "cpu"),
    ];
    let tried = RefCell::new(vec![]);
    let candidate = |((runtime, precision, place), result): ((Runtime, Precision, &'static str), Opened)| {
        let tried = &tried;
        let open = Box::new(move || {
            tried.borrow_mut().push(place);
            result.map(named)
        });
        Candidate { runtime, precision, open: open as Box<dyn FnOnce() -> _> }
    };
    let candidates = places.into_iter().zip(opened).map(candidate).collect();
    let gate = |backend: &mut dyn Backend| match backend.spec().name.contains("wrong") {
        true => Err("output 'depth' is wrong".to_owned()),
        false => Ok(()),
    };
    let chosen = choose_from(wanted, candidates, gate);
    (chosen, tried.into_inner())
}

#[test]
fn the_best_runs_and_nothing_else_is_opened() {
    let (best, tried) = chosen(Wanted::Auto, [Ok("TensorRT 10.13"), Ok("x"), Ok("y"), Ok("z")]);
    let best = best.unwrap();
    assert_eq!((best.line().as_str(), best.degraded), ("the model runs on TensorRT 10.13", None));
    assert_eq!((tried, best.problem()), (vec!["trt16"], None));
}

#[test]
fn without_a_gpu_the_cpu_runs_and_nothing_is_wrong() {
    let (cpu, tried) = chosen(Wanted::Auto, [no_driver(), no_driver(), no_driver(), Ok("CPU")]);
    let cpu = cpu.unwrap();
    assert_eq!(cpu.line(), "the model runs on CPU: no NVIDIA driver (libcuda.so.1 not found)");
    assert_eq!((cpu.degraded, tried), (None, vec!["trt16", "cuda", "cpu"]), "what is absent is asked once");
}

#[test]
fn a_named_backend_that_is_not_there_is_a_health_alarm() {
    let (cpu, _) = chosen(Wanted::TensorRt, [no_driver(), no_driver(), no_driver(), Ok("CPU")]);
    let cpu = cpu.unwrap();
    let line =
        "the model runs on CPU, not on TensorRT as configured: no NVIDIA driver (libcuda.so.1 not found)";
    assert_eq!((cpu.degraded, cpu.problem().as_deref()), (Some("no_device"), Some(line)));
}

#[test]
fn wrong_numbers_lead_to_the_next_and_to_a_health_alarm() {
    let (full, tried) = chosen(Wanted::Auto, [Ok("wrong"), Ok("TensorRT in full"), Ok("y"), Ok("z")]);
    let full = full.unwrap();
    assert_eq!(
        full.line(),
        "the model runs on TensorRT in full: TensorRT: wrong numbers, output 'depth' is wrong"
    );
    assert_eq!((full.degraded, tried), (Some("rejected"), vec!["trt16", "trt32"]));

    let (cuda, tried) = chosen(Wanted::Auto, [Ok("wrong"), Ok("wrong too"), Ok("CUDA"), Ok("z")]);
    assert_eq!((cuda.unwrap().degraded, tried.len()), (Some("rejected"), 3));

    let (cpu, _) = chosen(Wanted::Auto, [Ok("wrong"), failed(), Ok("wrong"), Ok("wrong, but the reference")]);
    let cpu = cpu.unwrap();
    assert_eq!(
        cpu.line(),
        "the model runs on wrong, but the reference: TensorRT and ONNX Runtime CUDA: wrong numbers, output 'depth' \
         is wrong; TensorRT in 32 bits: the model cannot be opened: out of memory"
    );
    assert_eq!(cpu.degraded, Some("rejected"));
}

#[test]
fn a_gpu_that_is_not_used_is_a_health_alarm_only_while_the_cpu_runs() {
    let (cuda, _) = chosen(Wanted::Auto, [not_installed(), not_installed(), Ok("CUDA"), Ok("z")]);
    let cuda = cuda.unwrap();
    assert_eq!(
        cuda.line(),
        "the model runs on CUDA: TensorRT: TensorRT is not installed (apt-get install libnvinfer10)"
    );
    assert_eq!(cuda.degraded, None);
    let (cpu, _) = chosen(Wanted::Auto, [not_installed(), not_installed(), not_installed(), Ok("CPU")]);
    assert_eq!(cpu.unwrap().degraded, Some("not_installed"));
    let (cpu, _) = chosen(Wanted::Auto, [not_installed(), not_installed(), failed(), Ok("CPU")]);
    assert_eq!(cpu.unwrap().degraded, Some("failed"));
}

#[test]
fn without_the_cpu_there_is_nothing_to_fall_back_to() {
    let missing = || Err(Unusable::Failed(BackendError::Library { problem: "it is not there".into() }));
    let (none, _) = chosen(Wanted::Auto, [no_driver(), no_driver(), no_driver(), missing()]);
    assert!(matches!(none, Err(BackendError::Library { .. })));
}

#[test]
fn the_configuration_decides_what_is_tried() {
    let tried = |wanted, precision| {
        let settings = BackendSettings { wanted, precision, ..BackendSettings::default() };
        candidates(&settings).into_iter().map(|c| (c.runtime, c.precision)).collect::<Vec<_>>()
    };
    use {Precision::*, Runtime::*};
    let all = [
        (TensorRt, Mixed),
        (TensorRt, Full),
        (Runtime::Cuda, Mixed),
        (Runtime::Cuda, Full),
        (Runtime::Cpu, Full),
    ];
    assert_eq!(tried(Wanted::Auto, Mixed), all);
    assert_eq!(tried(Wanted::TensorRt, Mixed), all);
    assert_eq!(tried(Wanted::Cuda, Mixed), all[2..]);
    assert_eq!(tried(Wanted::Auto, Full), [all[1], all[3], all[4]]);
    assert_eq!(tried(Wanted::Cpu, Mixed), all[4..]);
}

//! What the suites share: the libraries in the store, a store of one's own, the program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use standoff::backend::tensorrt::child::{self, ChildError, Order};
use standoff::backend::tensorrt::library::built_for;
use standoff::backend::tensorrt::{Kind, Version};
use standoff::model::fetch;
use standoff::model::store::Store;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_standoff");
/// Longest build that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// TensorRT-RTX of the store, or a skip that CI counts.
pub fn rtx() -> Option<PathBuf> {
    if !built_for().iter().any(|version| version.kind == Kind::Rtx) {
        println!("SKIP: built without the headers of TensorRT-RTX (docs/engines.md)");
        return None;
    }
    let store = Store::locate().unwrap();
    if !fetch::has_tensorrt_rtx(&store) {
        println!("SKIP: no TensorRT-RTX in the store (standoff model fetch tensorrt-rtx)");
        return None;
    }
    Some(store.tensorrt_rtx_folder().join("libtensorrt_rtx.so.1"))
}

/// A store of the test's own with the model and the libraries of the real one.
pub struct OwnStore {
    folder: tempfile::TempDir,
}

impl OwnStore {
    pub fn new() -> Option<Self> {
        let real = Store::locate().unwrap();
        if !real.model_path(fetch::DINOV2_SMALL).is_file() {
            println!("SKIP: no model in the store (standoff model fetch dinov2-small)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["models", "lib"] {
            symlink(real.root().join(name), folder.path().join(name)).unwrap();
        }
        Some(Self { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn store(&self) -> Store {
        Store::at(self.path())
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env("STANDOFF_HOME", self.path()).env_remove("STANDOFF_TENSORRT");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Files in the folder of plans.
    pub fn engines(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.store().engines_folder()) else { return vec![] };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

pub fn said(output: &Output) -> String {
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{out}{err}")
}

/// Builds a graph for sm_86 in the program's child. Returns what it said no with, and checks that nothing is
/// left of the plan.
pub fn refusal(library: &Path, onnx: &Path, input_shape: Option<[i64; 4]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan");
    match build(library, onnx, input_shape, &plan) {
        Err(ChildError::Refused(said)) => {
            assert!(!plan.exists(), "{said}");
            println!("refused: {said}");
            said
        }
        other => panic!("{other:?}"),
    }
}

pub fn build(
    library: &Path,
    onnx: &Path,
    input_shape: Option<[i64; 4]>,
    plan: &Path,
) -> Result<Version, ChildError> {
    let order = Order {
        library: library.to_owned(),
        target: Some(86),
        onnx: onnx.to_owned(),
        input_shape,
        workspace_bytes: 0,
        timings: None,
        plan: plan.to_owned(),
    };
    child::build(Path::new(PROGRAM), &order, PATIENCE, &mut |_, _| {})
}

//! What the suites share: the store with model and library, sessions, random numbers.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::Session;
use standoff::model::store::Store;
pub use standoff::preprocess::reference::Random;

/// The installed library, or a skip that CI counts.
pub fn environment() -> Option<&'static Environment> {
    static ENVIRONMENT: OnceLock<Option<Environment>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let library = Store::locate().unwrap().library_path();
        library.is_file().then(|| standoff::backend::onnxruntime::environment(Some(&library)).unwrap())
    });
    if environment.is_none() {
        println!("SKIP: no onnxruntime in the store (standoff model fetch onnxruntime)");
    }
    environment.as_ref()
}

/// A file of the store, or a skip that CI counts.
pub fn installed(path: PathBuf) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path);
    }
    println!("SKIP: {} is not there (standoff model fetch dinov2-small)", path.display());
    None
}

pub fn session(environment: &Environment, file: &Path) -> Session {
    let builder = Session::builder(environment).unwrap().with_intra_threads(2).unwrap();
    builder.with_intra_op_spinning(false).unwrap().commit_from_file(file).unwrap()
}

/// All outputs of one run on `pixels`, `[batch, 3, height, width]`.
pub fn outputs(
    session: &mut Session,
    input: &str,
    shape: [usize; 4],
    pixels: &[f32],
) -> Vec<(String, Vec<f32>)> {
    let tensor = ort::value::TensorRef::from_array_view((shape, pixels)).unwrap();
    let run = session.run(ort::inputs![input => tensor]).unwrap();
    run.iter()
        .map(|(name, value)| (name.to_owned(), value.try_extract_tensor::<f32>().unwrap().1.to_vec()))
        .collect()
}

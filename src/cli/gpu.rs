//! `standoff gpu check`: what this machine's GPU gives and how fast, for a report that travels. Everything that is
//! missing is said and skipped; a result that is wrong makes the command fail.

mod kernels;
mod models;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use serde::{Deserialize, Serialize};

use crate::backend::cuda::Gpu;
use crate::clock;

/// Arguments of `standoff gpu`.
#[derive(Debug, Args)]
pub struct GpuArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: GpuCommand,
}

/// What `standoff gpu` can do.
#[derive(Debug, Subcommand)]
pub enum GpuCommand {
    /// Compare the kernels with the CPU, every backend with the CPU, and measure speed; writes check.json
    Check {
        /// Where the results go
        #[arg(long, value_name = "DIR", default_value = "gpu-check")]
        out: PathBuf,
        /// Leave out the backends: kernels only
        #[arg(long)]
        kernels_only: bool,
        /// Run each kernel only once or twice, for tools that slow it down
        #[arg(long)]
        once: bool,
    },
    /// Make report.md and speed.png of check.json and what lies beside it (peer.json, sanitizer.json)
    Report {
        /// Where the results are
        #[arg(value_name = "DIR", default_value = "gpu-check")]
        dir: PathBuf,
    },
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Check {
    /// Version of this program.
    pub program: String,
    /// When, UTC.
    pub when: String,
    /// The device.
    pub device: Device,
    /// The kernels.
    pub kernels: kernels::Kernels,
    /// The backends.
    pub models: Option<models::Models>,
}

/// What the device is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its compute capability: "9.0".
    pub capability: String,
    /// What the driver is made for: "CUDA 13.0".
    pub driver: String,
    /// Multiprocessors.
    pub multiprocessors: i32,
    /// Highest clock of the multiprocessors.
    pub clock_mhz: i32,
    /// Memory.
    pub memory_mib: usize,
    /// Level 2 cache.
    pub l2_mib: f64,
}

/// Runs the command. Exit code 1 when something gives wrong results, 2 when there is no GPU.
pub fn run(arguments: &GpuArguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        GpuCommand::Check { out, kernels_only, once } => check(out, *kernels_only, *once),
        GpuCommand::Report { dir } => report::write(dir),
    }
}

fn check(out: &Path, kernels_only: bool, once: bool) -> anyhow::Result<ExitCode> {
    let gpu = match Gpu::open() {
        Ok(gpu) => gpu,
        Err(problem) => {
            eprintln!("there is no GPU to check: {problem}");
            if let Some(remedy) = problem.remedy() {
                eprintln!("mend it: {remedy}");
            }
            return Ok(ExitCode::from(super::EXIT_USAGE));
        }
    };
    fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
    let device = describe(&gpu)?;
    println!("{}, compute capability {}, {}", device.name, device.capability, device.driver);
    let kernels = kernels::check(&gpu, once)?;
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let mut check = Check { program, when: clock::utc().to_string(), device, kernels, models: None };
    let file = out.join("check.json");
    // Again after each step: what was measured outlives a time limit.
    let write = |check: &Check| {
        fs::write(&file, serde_json::to_string_pretty(check)?)
            .with_context(|| format!("{} cannot be written", file.display()))
    };
    write(&check)?;
    if !kernels_only {
        models::check(&gpu, &mut |models| {
            check.models = Some(models.clone());
            write(&check)
        })?;
    }
    let good = check.kernels.good() && check.models.as_ref().is_none_or(models::Models::good);
    println!("{}: {}", file.display(), if good { "everything agrees" } else { "SOMETHING IS WRONG" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(gpu: &Gpu) -> anyhow::Result<Device> {
    let context = gpu.context();
    let number = |attribute| context.attribute(attribute).unwrap_or(0);
    Ok(Device {
        name: gpu.name.clone(),
        capability: format!("{}.{}", gpu.capability.0, gpu.capability.1),
        driver: gpu.driver_version(),
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        clock_mhz: number(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE) / 1000,
        memory_mib: context.total_mem().context("the size of the GPU's memory")? >> 20,
        l2_mib: f64::from(number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)) / f64::from(1 << 20),
    })
}

/// The middle of some numbers; 0 when there are none.
fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

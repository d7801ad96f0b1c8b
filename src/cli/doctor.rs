//! `standoff doctor`: what is installed, which backend would run and why, what is missing and the command
//! that mends it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::backend::choice::{self, Candidate, Runtime, Unusable};
use crate::backend::{BackendError, BackendSettings, onnxruntime};
use crate::clock;
use crate::heads::shipped;
use crate::model::graph::Precision;
use crate::model::store::{Store, StoreError};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    what: String,
    standing: Standing,
    detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Good,
    /// The daemon runs without it; what would have to be done to have it, if that is known.
    Note(Option<String>),
    /// The daemon cannot run; the command or the sentence says what to do.
    Missing(String),
}

impl Finding {
    fn good(what: &str, detail: impl Into<String>) -> Self {
        Self { what: what.to_owned(), standing: Standing::Good, detail: detail.into() }
    }

    fn note(what: &str, detail: impl Into<String>) -> Self {
        Self { what: what.to_owned(), standing: Standing::Note(None), detail: detail.into() }
    }

    fn mended_by(self, remedy: &str) -> Self {
        Self { standing: Standing::Note(Some(remedy.to_owned())), ..self }
    }

    fn missing(what: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let standing = Standing::Missing(remedy.into());
        Self { what: what.to_owned(), standing, detail: detail.into() }
    }
}

/// Runs the command: prints the table. Exit code 1 when `standoff run` could not work on this machine.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut findings = vec![Finding::good("standoff", program())];
    findings.extend(gstreamer());
    match Store::locate() {
        Ok(store) => {
            findings.extend(inference(&store));
            #[cfg(feature = "tensorrt")]
            findings.push(tensorrt(&store));
        }
        Err(error) => findings.push(Finding::missing("store", error.to_string(), "export HOME=/your/home")),
    }
    print!("{}", render(&findings));
    let fit = findings.iter().all(|finding| !matches!(finding.standing, Standing::Missing(_)));
    println!("{}", if fit { "All is there: standoff can run." } else { "standoff cannot run yet." });
    Ok(if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "tensorrt")]
fn tensorrt(store: &Store) -> Finding {
    use crate::backend::tensorrt::{library, standing};

    let versions: Vec<_> = library::built_for().iter().map(ToString::to_string).collect();
    let built = format!("built for {}", versions.join(", "));
    match standing(store) {
        Ok(library) => Finding::good("TensorRT library", format!("{library}; {built}")),
        Err(error) if versions.is_empty() => Finding::note("TensorRT library", error.to_string()),
        Err(error) => Finding::note("TensorRT library", format!("{error}; {built}")),
    }
}

fn program() -> String {
    let with = |feature: bool, name: &str| format!("{} {name}", if feature { "with" } else { "without" });
    let gstreamer = with(cfg!(feature = "gstreamer"), "gstreamer");
    format!("{}, built {gstreamer}, {}", env!("CARGO_PKG_VERSION"), with(cfg!(feature = "demo"), "demo"))
}

#[cfg(feature = "gstreamer")]
fn gstreamer() -> Vec<Finding> {
    use crate::ingest::{Element, inventory};

    let inventory = match inventory() {
        Ok(inventory) => inventory,
        Err(problem) => {
            let remedy = "apt-get install libgstreamer1.0-0 gstreamer1.0-plugins-base";
            return vec![Finding::missing("GStreamer", problem, remedy)];
        }
    };
    let (here, gone): (Vec<&Element>, Vec<&Element>) =
        inventory.elements.iter().partition(|element| element.installed);
    let names: Vec<_> = here.iter().map(|element| element.name).collect();
    let version = inventory.version.trim_start_matches("GStreamer ");
    let mut findings = vec![Finding::good("GStreamer", format!("{version}, with {}", names.join(" ")))];
    let mut packages: Vec<_> = gone.iter().map(|element| element.package).collect();
    packages.sort_unstable();
    packages.dedup();
    for package in packages {
        let names: Vec<_> = gone.iter().filter(|e| e.package == package).map(|e| e.name).collect();
        let detail = format!("not installed: {}", names.join(" "));
        findings.push(Finding::missing("GStreamer element", detail, format!("apt-get install {package}")));
    }
    findings.push(Finding::note("decoders", decoders(&inventory.gpu_decoders)));
    findings
}

/// Who would decode for a model on the GPU; for one on the CPU it is always the CPU.
#[cfg(feature = "gstreamer")]
fn decoders([h264, h265]: &[String; 2]) -> String {
    if [h264, h265].iter().all(|decoder| decoder.contains("on the CPU")) {
        return "on the CPU: GStreamer has none for a GPU on this machine".to_owned();
    }
    format!("when the model runs on the GPU: {h264}; {h265}")
}

#[cfg(not(feature = "gstreamer"))]
fn gstreamer() -> Vec<Finding> {
    vec![Finding::note("GStreamer", "not built in: no cameras and no clips, only picture folders")]
}

/// Library, model and backend.
fn inference(store: &Store) -> Vec<Finding> {
    let mut findings = vec![Finding::good("store", store.root().display().to_string())];
    let mut settings = BackendSettings::default();
    match shipped::graph_heads() {
        Ok(heads) => {
            let names: Vec<_> = heads.iter().map(|head| head.name.as_str()).collect();
            findings.push(Finding::good("heads", format!("shipped: {}", names.join(", "))));
            settings.heads = heads;
        }
        // They are part of the program.
        Err(error) => findings.push(Finding::missing("heads", error.to_string(), "make build")),
    }
    findings.push(library(&onnxruntime::library_candidates(None, store)));
    findings.push(model(store, &settings.model));
    findings.extend(backends(&settings));
    findings
}

fn library(candidates: &[PathBuf]) -> Finding {
    let what = "ONNX Runtime";
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Finding::good(what, path.display().to_string()),
        None => {
            let looked: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
            let detail = format!("not found as {}", looked.join(" or "));
            // A bare name is left to the system's loader, so not finding the file proves nothing yet.
            Finding::note(what, detail)
        }
    }
}

fn model(store: &Store, name: &str) -> Finding {
    let what = "model";
    match store.installed(name) {
        Ok(installed) => {
            let word = |key: &str| installed.metadata.get(key).map_or("not said", String::as_str);
            let hash: String = word("source_sha256").chars().take(12).collect();
            let megabytes = installed.bytes as f64 / 1e6;
            let detail = format!("{name}: {}, {megabytes:.0} MB, source sha256 {hash}", word("architecture"));
            Finding::good(what, detail)
        }
        Err(error @ StoreError::NotInstalled { .. }) => {
            Finding::missing(what, error.to_string(), format!("standoff model fetch {name}"))
        }
        Err(error) => {
            let remedy = format!("standoff model fetch {name} (after removing the file that is named)");
            Finding::missing(what, error.to_string(), remedy)
        }
    }
}

/// Opens and tries everything that `standoff run` could choose: nothing else proves that it works.
fn backends(settings: &BackendSettings) -> Vec<Finding> {
    let mut gate = choice::gate_of(settings);
    let mut findings: Vec<Finding> = vec![];
    let mut absent = None;
    for Candidate { runtime, precision, open } in choice::candidates(settings) {
        if absent == Some(runtime) {
            continue;
        }
        let start = clock::monotonic();
        let opened = open().and_then(|mut backend| {
            let tried = if runtime == Runtime::Cpu { Ok(()) } else { gate(backend.as_mut()) };
            tried.map(|()| backend.spec().clone()).map_err(Unusable::Rejected)
        });
        let what = match precision {
            Precision::Full if runtime != Runtime::Cpu => format!("{runtime} in 32 bits"),
            _ => runtime.to_string(),
        };
        findings.push(match opened {
            Ok(spec) => {
                let seconds = clock::monotonic().since(start).as_secs_f64();
                let size = format!("{} x {}", spec.input_width, spec.input_height);
                let detail = format!("{}, opened and tried at {size} in {seconds:.1} s", spec.name);
                Finding::good(&what, detail)
            }
            Err(why) => {
                absent = why.is_absent().then_some(runtime);
                unusable(&what, runtime, why)
            }
        });
    }
    findings
}

/// Only without the CPU nothing runs; without a GPU it is slower.
fn unusable(what: &str, runtime: Runtime, why: Unusable) -> Finding {
    match why {
        Unusable::Failed(error @ BackendError::Library { .. }) if runtime == Runtime::Cpu => {
            Finding::missing(what, error.to_string(), "standoff model fetch onnxruntime")
        }
        Unusable::Failed(error) if runtime == Runtime::Cpu => {
            Finding::missing(what, error.to_string(), "see the line above, then try again")
        }
        Unusable::NoDevice(problem) => Finding::note(what, problem)
            .mended_by("with an NVIDIA GPU, install its driver (nvidia-smi must work)"),
        Unusable::NotInstalled { problem, remedy } => Finding::note(what, problem).mended_by(&remedy),
        Unusable::Failed(error) => Finding::note(what, error.to_string()),
        rejected @ Unusable::Rejected(_) => Finding::note(what, rejected.to_string())
            .mended_by("another version of the driver or of the library; until then it is not used"),
    }
}

fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut table = String::new();
    for Finding { what, standing, detail } in findings {
        let mark = match standing {
            Standing::Good => "ok     ",
            Standing::Note(_) => "note   ",
            Standing::Missing(_) => "MISSING",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{mark}  {what:width$}  {detail}");
        if let Standing::Missing(remedy) | Standing::Note(Some(remedy)) = standing {
            let _ = writeln!(table, "{:9}{:width$}  mend it: {remedy}", "", "");
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_names_the_command_that_fills_it() {
        let folder = tempfile::tempdir().unwrap();
        let finding = model(&Store::at(folder.path()), "dinov2-small");
        assert_eq!(finding.standing, Standing::Missing("standoff model fetch dinov2-small".into()));
    }

    #[test]
    fn the_table_shows_the_remedy_under_what_is_missing() {
        let findings = [
            Finding::good("standoff", "0.1.0"),
            Finding::missing(
                "GStreamer element",
                "not installed: avdec_h264",
                "apt-get install gstreamer1.0-libav",
            ),
        ];
        let table = render(&findings);
        assert_eq!(
            table,
            "ok       standoff           0.1.0\n\
             MISSING  GStreamer element  not installed: avdec_h264\n\
             \u{20}                           mend it: apt-get install gstreamer1.0-libav\n"
        );
    }

    #[test]
    fn a_gpu_that_is_not_there_is_a_note_with_its_remedy() {
        let finding = unusable("TensorRT", Runtime::TensorRt, Unusable::NoDevice("no NVIDIA driver".into()));
        assert_eq!(
            render(&[finding]),
            "note     TensorRT  no NVIDIA driver\n\
             \u{20}                  mend it: with an NVIDIA GPU, install its driver (nvidia-smi must work)\n"
        );
        let error = BackendError::Library { problem: "it is not there".into() };
        let finding = unusable("ONNX Runtime CPU", Runtime::Cpu, Unusable::Failed(error));
        assert_eq!(finding.standing, Standing::Missing("standoff model fetch onnxruntime".into()));
    }
}

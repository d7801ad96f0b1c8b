//! The report: what was measured, as a page to read and a plot, beside the peer's and the sanitizers' results.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use super::Check;
use super::models::{Models, Speed};
use crate::draw::{self, LinePlot, plot_lines};

/// What `deploy/gpu/peer.py` measured.
#[derive(Debug, Deserialize)]
struct Peer {
    peer: String,
    matmul_tflops: f64,
    rows: Vec<PeerRow>,
}

#[derive(Debug, Deserialize)]
struct PeerRow {
    model: String,
    input: [u32; 2],
    batch: usize,
    from: String,
    how: String,
    frames_per_s: f64,
    latency_ms: f64,
}

/// Writes `report.md` and `speed.png` into the folder of the results.
pub fn write(dir: &Path) -> anyhow::Result<ExitCode> {
    let file = dir.join("check.json");
    let text = fs::read_to_string(&file)
        .with_context(|| format!("{} cannot be read: run `standoff gpu check` first", file.display()))?;
    let check: Check = serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?;
    let peer = fs::read_to_string(dir.join("peer.json")).ok();
    let peer: Option<Peer> = peer.and_then(|text| serde_json::from_str(&text).ok());
    let sanitizer = fs::read_to_string(dir.join("sanitizer.json")).ok();
    let sanitizer: Option<Value> = sanitizer.and_then(|text| serde_json::from_str(&text).ok());
    let report = dir.join("report.md");
    fs::write(&report, page(&check, peer.as_ref(), sanitizer.as_ref()))
        .with_context(|| format!("{} cannot be written", report.display()))?;
    println!("{}", report.display());
    if let Some(models) = check.models.as_ref().filter(|models| !models.speed.is_empty()) {
        let plot = dir.join("speed.png");
        draw::save(&plot_lines(&lines(&check, models, peer.as_ref())), &plot)?;
        println!("{}", plot.display());
    }
    Ok(ExitCode::SUCCESS)
}

// Writing to a String cannot fail.
fn page(check: &Check, peer: Option<&Peer>, sanitizer: Option<&Value>) -> String {
    let mut page = String::new();
    let device = &check.device;
    let _ = writeln!(page, "# standoff {} on {}\n", check.program, device.name);
    let _ = writeln!(
        page,
        "{}. Compute capability {}, driver for {}, {} multiprocessors at {} MHz, {} MiB, level 2 cache {:.0} MiB.\n",
        check.when,
        device.capability,
        device.driver,
        device.multiprocessors,
        device.clock_mhz,
        device.memory_mib,
        device.l2_mib
    );
    kernels(&mut page, check, sanitizer);
    if let Some(models) = &check.models {
        backends(&mut page, models);
        speeds(&mut page, models, peer);
    }
    page
}

fn kernels(page: &mut String, check: &Check, sanitizer: Option<&Value>) {
    let kernels = &check.kernels;
    let _ = writeln!(
        page,
        "## Kernels\n\n| On the device against their CPU build | values | differ |\n| --- | --- | --- |"
    );
    for bits in &kernels.bits {
        let _ = writeln!(page, "| {} | {} | {} |", bits.what, bits.values, bits.differing);
    }
    let [full, halves] = kernels.from_float64;
    let _ = writeln!(
        page,
        "\nAgainst float64, normalised units: at most {full:.1e} (32 bits, allowed 1e-5) and {halves:.1e} (16 bits, allowed 1.2e-3).\n"
    );
    for tool in ["memcheck", "racecheck"] {
        let found = sanitizer.and_then(|found| found.get(tool));
        let said = found.and_then(|found| found.get("said")).and_then(Value::as_str);
        let code = found.and_then(|found| found.get("exit_code")).and_then(Value::as_i64);
        let _ = match (said, code) {
            (Some(said), Some(code)) => {
                writeln!(page, "- compute-sanitizer {tool}: {said} (exit code {code})")
            }
            _ => writeln!(page, "- compute-sanitizer {tool}: not run"),
        };
    }
    if !kernels.speed.is_empty() {
        let _ = writeln!(
            page,
            "\nMemory {:.0} GB/s (a copy, bytes read and written), a launch that does nothing {:.2} us. From 1920 x 1080 NV12 to 392 x 224, 16 bits:\n\n| pictures | us | their bytes, us | x the larger of bytes and launch |\n| --- | --- | --- | --- |",
            kernels.bandwidth_gb_s, kernels.launch_us
        );
        for speed in &kernels.speed {
            let _ = writeln!(
                page,
                "| {} | {:.2} | {:.2} | {:.2} |",
                speed.pictures, speed.kernel_us, speed.bytes_us, speed.over_floor
            );
        }
    }
}

fn backends(page: &mut String, models: &Models) {
    let _ = writeln!(page, "\n## Backends against the CPU\n");
    for backend in &models.backends {
        let standing = match (&backend.problem, &backend.rejected, &backend.name) {
            (Some(problem), ..) => format!("does not run here: {problem}"),
            (_, Some(rejected), _) => format!("REJECTED: {rejected}"),
            (_, _, Some(name)) => format!("{name}, passes the gate"),
            _ => "not tried".to_owned(),
        };
        let _ = writeln!(page, "- **{}**: {standing}", backend.what);
        if let Some(gate) = &backend.gate {
            let _ = writeln!(page, "\n```\n{}\n```\n", gate.trim_end());
        }
    }
}

fn speeds(page: &mut String, models: &Models, peer: Option<&Peer>) {
    let _ = writeln!(
        page,
        "\n## Speed\n\nFrom 1920 x 1080 NV12 in memory to the heads' outputs in host memory, one batch after the other.\n"
    );
    if let Some(peer) = peer {
        let _ = writeln!(
            page,
            "The peer is {} doing the same work in the same run, from page-locked host memory. Its 8192 x 8192 products run at {:.0} TFLOP/s, which is the roofline below.\n",
            peer.peer, peer.matmul_tflops
        );
    }
    let _ = writeln!(
        page,
        "| model | input | batch | from | backend | frames/s | ms | p99 ms | upload + kernel ms | model ms | roofline | peer frames/s | peer ms | x peer |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for speed in &models.speed {
        let beside = peer.and_then(|peer| peer.rows.iter().find(|row| row.is_beside(speed)));
        let [width, height] = speed.input;
        let roofline = peer.map_or_else(String::new, |peer| {
            let share =
                speed.frames_per_s * operations(&speed.model, speed.input) / (peer.matmul_tflops * 1e12);
            format!("{:.1} %", 100.0 * share)
        });
        let (frames, latency, ratio) = beside.map_or_else(Default::default, |row| {
            let ratio = speed.frames_per_s / row.frames_per_s;
            (
                format!("{:.0} ({})", row.frames_per_s, row.how),
                format!("{:.2}", row.latency_ms),
                format!("{ratio:.2}"),
            )
        });
        let _ = writeln!(
            page,
            "| ViT-{} | {width} x {height} | {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {roofline} | {frames} | {latency} | {ratio} |",
            speed.model,
            speed.batch,
            speed.from,
            speed.backend,
            speed.frames_per_s,
            speed.latency_ms,
            speed.latency_p99_ms,
            speed.preprocess_ms,
            speed.backbone_ms
        );
    }
    let _ = writeln!(page, "\n![frames a second over the size of the batch](speed.png)");
}

impl PeerRow {
    fn is_beside(&self, speed: &Speed) -> bool {
        (&self.model, self.input, self.batch, &self.from)
            == (&speed.model, speed.input, speed.batch, &speed.from)
    }
}

/// Floating-point operations of one picture: two for each weight of the linear maps and each token, and attention's
/// two products (Dosovitskiy et al. 2021, counted for this graph; norms, softmax and heads are left out).
fn operations(model: &str, [width, height]: [u32; 2]) -> f64 {
    let dim = if model == "S" { 384.0 } else { 768.0 };
    let tokens = f64::from(width / 14 * (height / 14)) + 1.0;
    let blocks = 12.0 * (2.0 * tokens * 12.0 * dim * dim + 4.0 * tokens * tokens * dim);
    blocks + 2.0 * tokens * dim * 3.0 * 14.0 * 14.0
}

fn lines(check: &Check, models: &Models, peer: Option<&Peer>) -> LinePlot {
    let mut batches: Vec<usize> = models.speed.iter().map(|speed| speed.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let mut lines: Vec<(String, Vec<Option<f64>>)> = vec![];
    let mut put = |name: String, batch: usize, value: f64| {
        let at = lines.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            lines.push((name, vec![None; batches.len()]));
            lines.len() - 1
        });
        if let Some(step) = batches.iter().position(|known| *known == batch) {
            lines[at].1[step] = Some(value);
        }
    };
    let shown = |input: [u32; 2], from: &str| input == [392, 224] && from == "host";
    for speed in models.speed.iter().filter(|speed| shown(speed.input, &speed.from)) {
        put(format!("ViT-{}, {}", speed.model, speed.backend), speed.batch, speed.frames_per_s);
    }
    for row in peer.iter().flat_map(|peer| &peer.rows).filter(|row| shown(row.input, &row.from)) {
        put(format!("ViT-{}, PyTorch", row.model), row.batch, row.frames_per_s);
    }
    LinePlot {
        title: format!("frames a second, 1080p in host memory to heads, 392 x 224: {}", check.device.name),
        steps_are: "pictures at once".to_owned(),
        steps: batches.iter().map(ToString::to_string).collect(),
        lines,
    }
}

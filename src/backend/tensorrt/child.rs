//! Builds a plan in a process of its own: a builder that crashes or is killed for memory is an error there, not
//! the end of the daemon. The process is this program with [`COMMAND`]; it gets an [`Order`] on its standard
//! input, says a line of JSON for each thing that it hears, and dies with its parent.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getppid, nice, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::builder::{self, Request};
use super::library::Library;
use super::{DriverState, Version};
use crate::clock;

/// Arguments with which the program becomes the builder.
pub const COMMAND: [&str; 3] = ["engine", "build", "--child"];
/// How often the caller hears that the build goes on.
const TICK: Duration = Duration::from_millis(250);
/// Lines of the process that an error repeats.
const LAST_WORDS: usize = 3;
/// Longest line that is taken from it.
const LONGEST_LINE: usize = 2000;

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The library, as [`Library::path`] says it.
    pub library: PathBuf,
    /// Compute capability to build for without that GPU; none for the GPU that is here.
    pub target: Option<u32>,
    /// The graph.
    pub onnx: PathBuf,
    /// See [`Request::input_shape`].
    pub input_shape: Option<[i64; 4]>,
    /// See [`Request::workspace_bytes`].
    pub workspace_bytes: u64,
    /// Where timings are read from and written to; none for none.
    pub timings: Option<PathBuf>,
    /// Where the bare plan is written.
    pub plan: PathBuf,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The process cannot be started.
    #[error("the builder's process cannot be started: {0}")]
    Start(io::Error),
    /// TensorRT said no.
    #[error("{0}")]
    Refused(String),
    /// It crashed, or somebody killed it.
    #[error("the builder's process {how}{}", last(.words))]
    Died {
        /// How.
        how: String,
        /// What it said last.
        words: String,
    },
    /// It took too long and was killed.
    #[error("the build was stopped after {limit_s} s; --limit-s allows more")]
    TooLong {
        /// The limit in seconds.
        limit_s: u64,
    },
}

fn last(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; it said last: {words}") }
}

/// A line from the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// TensorRT's words with their severity.
    Heard(i32, String),
    /// The plan is written.
    Built(Version),
    /// There is none.
    Refused(String),
}

/// Builds: `program` is this program, `progress` is called several times a second with how long it has taken and
/// what was heard last.
///
/// # Errors
/// Also when the process dies; nothing is left of the plan then.
pub fn build(
    program: &Path,
    order: &Order,
    limit: Duration,
    progress: &mut dyn FnMut(Duration, &str),
) -> Result<Version, ChildError> {
    let result = watch(program, order, limit, progress);
    if result.is_err() {
        let _ = fs::remove_file(&order.plan);
    }
    result
}

/// A process that does not outlive its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(
    program: &Path,
    order: &Order,
    limit: Duration,
    progress: &mut dyn FnMut(Duration, &str),
) -> Result<Version, ChildError> {
    let start = clock::monotonic();
    let mut command = Command::new(program);
    command.args(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process(command.spawn().map_err(ChildError::Start)?);
    let (send, lines) = mpsc::sync_channel(64);
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        process.0.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        process.0.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    for pipe in pipes.into_iter().flatten() {
        let send = send.clone();
        thread::Builder::new()
            .name("engine-build".to_owned())
            .spawn(move || read_lines(pipe, &send))
            .map_err(ChildError::Start)?;
    }
    drop(send);
    let input = serde_json::to_vec(&(std::process::id(), order)).map_err(|e| ChildError::Start(e.into()))?;
    if let Some(mut stdin) = process.0.stdin.take() {
        // A process that is gone already says so by its status.
        let _ = stdin.write_all(&input);
    }

    let (mut words, mut answer) = (VecDeque::new(), None);
    loop {
        let elapsed = clock::monotonic().since(start);
        if elapsed >= limit {
            return Err(ChildError::TooLong { limit_s: limit.as_secs() });
        }
        match lines.recv_timeout(TICK.min(limit - elapsed)) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(Line::Built(version)) => answer = Some(Ok(version)),
                Ok(Line::Refused(said)) => answer = Some(Err(ChildError::Refused(said))),
                Ok(Line::Heard(_, said)) => keep(&mut words, said),
                Err(_) => keep(&mut words, line),
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress(clock::monotonic().since(start), words.back().map_or("", String::as_str));
    }
    let status = process.0.wait().map_err(ChildError::Start)?;
    match answer {
        Some(Ok(version)) if status.success() => Ok(version),
        Some(Err(refused)) => Err(refused),
        _ => Err(ChildError::Died { how: how(status), words: Vec::from(words).join(" / ") }),
    }
}

fn keep(words: &mut VecDeque<String>, line: String) {
    if words.len() == LAST_WORDS {
        words.pop_front();
    }
    words.push_back(line);
}

fn read_lines(pipe: impl Read, send: &mpsc::SyncSender<String>) {
    let mut pipe = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match pipe.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line) {
            Ok(1..) if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_ok() => {}
            _ => return,
        }
    }
}

fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(9) => "was killed (signal 9): by hand, or by the system for want of memory".to_owned(),
        Some(signal) => format!("crashed (signal {signal})"),
        None => format!("ended without an answer ({status})"),
    }
}

/// The other side: reads an order from `input`, builds, writes lines to `output`. Returns whether there is a plan.
///
/// # Errors
/// When nobody gave an order or hears the answer.
pub fn serve(input: impl Read, output: impl Write + Send + 'static) -> io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (parent, order): (u32, Order) = serde_json::from_reader(input)?;
    // Who asked may have died before the line above.
    if getppid().map(|id| id.as_raw_nonzero().get().cast_unsigned()) != Some(parent) {
        return Ok(false);
    }
    // Cameras are more important.
    let _ = nice(10);
    let output = std::sync::Arc::new(std::sync::Mutex::new(output));
    let say = move |line: &Line| -> io::Result<()> {
        let mut output = output.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        serde_json::to_writer(&mut *output, line)?;
        output.write_all(b"\n")?;
        output.flush()
    };
    let heard = say.clone();
    let answer = run(
        &order,
        Box::new(move |severity, words| {
            // Verbose lines are thousands.
            if severity <= 3 {
                let words = words.trim().chars().take(LONGEST_LINE / 4).collect();
                let _ = heard(&Line::Heard(severity, words));
            }
        }),
    );
    let built = answer.is_ok();
    say(&answer.map_or_else(Line::Refused, Line::Built))?;
    Ok(built)
}

fn run(order: &Order, hear: Box<super::journal::Hear>) -> Result<Version, String> {
    let library = [order.library.clone()];
    let library = match order.target {
        Some(target) => Library::open_for_target(target, &library),
        None => Library::open(&DriverState::probe(), &library),
    };
    let library = library.map_err(|error| error.to_string())?;
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    let onnx = fs::read(&order.onnx).map_err(at(&order.onnx))?;
    let timings = order.timings.as_ref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let request = Request {
        onnx: &onnx,
        onnx_path: &order.onnx,
        input_shape: order.input_shape,
        workspace_bytes: order.workspace_bytes,
        target: order.target,
        timing_cache: &timings,
    };
    let built = builder::build(&library, &request, Some(hear)).map_err(|error| error.to_string())?;
    fs::write(&order.plan, &built.plan).map_err(at(&order.plan))?;
    if let Some(path) = order.timings.as_ref().filter(|_| !built.timing_cache.is_empty()) {
        let temporary = path.with_extension(format!("new.{}", std::process::id()));
        fs::write(&temporary, &built.timing_cache).map_err(at(&temporary))?;
        fs::rename(&temporary, path).map_err(at(path))?;
    }
    Ok(library.version())
}

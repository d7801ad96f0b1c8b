//! A small site for the end-to-end tests: a real broker, a subscriber, and the real daemon, each with its own
//! port and folder, and a deadline on every wait.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::Value;
use standoff::clock::{self, Timestamp};

/// Two daemons at once would slow each other down on a small machine: one test at a time.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A deadline.
pub struct Deadline(Timestamp);

impl Deadline {
    pub fn after(seconds: f64) -> Self {
        Self(clock::monotonic() + Duration::from_secs_f64(seconds))
    }

    pub fn left(&self) -> Option<Duration> {
        let left = self.0.since(clock::monotonic());
        (left > Duration::ZERO).then_some(left)
    }
}

/// A real mosquitto. Killed when dropped.
pub struct Mosquitto {
    pub port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

fn mosquitto_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    folders.into_iter().map(|folder| folder.join("mosquitto")).find(|program| program.exists())
}

impl Mosquitto {
    /// None, with a line that is counted, where mosquitto is not installed.
    pub fn start() -> Option<Self> {
        if mosquitto_program().is_none() {
            println!("SKIP: mosquitto is not installed");
            return None;
        }
        let mut broker = Self { port: free_port(), folder: tempfile::tempdir().unwrap(), child: None };
        broker.start_again();
        Some(broker)
    }

    /// Starts on the same port, knowing nothing of before.
    pub fn start_again(&mut self) {
        let file = self.folder.path().join("mosquitto.conf");
        let text = format!("listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n", self.port);
        std::fs::write(&file, text).unwrap();
        let child = Command::new(mosquitto_program().unwrap())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Deadline::after(10.0);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(deadline.left().is_some(), "mosquitto does not listen");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A message as the subscriber got it.
#[derive(Debug, Clone)]
pub struct Got {
    pub topic: String,
    pub text: String,
    pub retained: bool,
    /// When it came.
    pub at: Timestamp,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.topic, self.text))
    }
}

/// Hears everything below `standoff/`.
pub struct Subscriber {
    messages: Receiver<Got>,
    /// All that was heard, in order.
    pub heard: Vec<Got>,
    client: Client,
}

impl Subscriber {
    pub fn connect(port: u16) -> Self {
        Self::to(port, "standoff/#")
    }

    /// Hears what the filter says.
    pub fn to(port: u16, filter: &'static str) -> Self {
        let mut options =
            MqttOptions::new(format!("e2e-{}-{}", std::process::id(), free_port()), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5)).set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 64);
        let (sender, messages) = channel();
        let subscriber = client.clone();
        std::thread::spawn(move || {
            for event in connection.iter() {
                let alive = match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        subscriber.subscribe(filter, QoS::AtLeastOnce).is_ok()
                    }
                    Ok(Event::Incoming(Packet::Publish(message))) => sender
                        .send(Got {
                            topic: message.topic,
                            text: String::from_utf8_lossy(&message.payload).into_owned(),
                            retained: message.retain,
                            at: clock::monotonic(),
                        })
                        .is_ok(),
                    Ok(_) => true,
                    Err(_) => {
                        std::thread::park_timeout(Duration::from_millis(50));
                        true
                    }
                };
                if !alive {
                    return;
                }
            }
        });
        Self { messages, heard: vec![], client }
    }

    pub fn publish(&self, topic: &str, payload: &str, retain: bool) {
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).unwrap();
    }

    /// Waits for a message that `is_it`; the time it took. Panics with the last messages after `seconds`.
    pub fn wait(&mut self, what: &str, seconds: f64, is_it: impl Fn(&Got) -> bool) -> (Got, Duration) {
        let begun = clock::monotonic();
        let deadline = Deadline::after(seconds);
        while let Some(left) = deadline.left() {
            match self.messages.recv_timeout(left) {
                Ok(message) => {
                    self.heard.push(message.clone());
                    if is_it(&message) {
                        return (message, clock::monotonic().since(begun));
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("the subscriber's thread has ended"),
            }
        }
        let last: Vec<String> =
            self.heard.iter().rev().take(12).map(|got| format!("{} {}", got.topic, got.text)).collect();
        panic!("{what}: not within {seconds} s; the last messages, newest first:\n{}", last.join("\n"));
    }

    /// Waits for a rule's state.
    pub fn wait_state(&mut self, rule: &str, state: &str, seconds: f64) -> (Value, Duration) {
        let topic = format!("/alarm/{rule}");
        let (got, took) = self.wait(&format!("{rule} is {state}"), seconds, |got| {
            got.topic.ends_with(&topic) && got.json()["state"] == state
        });
        (got.json(), took)
    }

    /// Drops what came before.
    pub fn forget(&mut self) {
        while self.messages.try_recv().is_ok() {}
        self.heard.clear();
    }

    /// The states of a rule in the order in which they were said, without repeats.
    pub fn states(&self, rule: &str) -> Vec<String> {
        let topic = format!("/alarm/{rule}");
        let mut states: Vec<String> = vec![];
        for got in self.heard.iter().filter(|got| got.topic.ends_with(&topic)) {
            let state = got.json()["state"].as_str().unwrap().to_owned();
            if states.last() != Some(&state) {
                states.push(state);
            }
        }
        states
    }
}

/// The real program. Killed when dropped.
pub struct Standoff {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Standoff {
    /// `standoff run` with this configuration.
    pub fn run(config: &str) -> Self {
        Self::run_with(config, &[])
    }

    /// The same with more environment variables.
    pub fn run_with(config: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.yaml");
        std::fs::File::create(&file).unwrap().write_all(config.as_bytes()).unwrap();
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let log = Arc::new(Mutex::new(vec![]));
        let child = Self::spawn(folder.path(), &variables, &log);
        Self { child, log, folder, variables }
    }

    /// A folder's configuration and state, whether it has run before or not.
    fn spawn(folder: &Path, variables: &[(String, String)], log: &Arc<Mutex<Vec<String>>>) -> Child {
        let mut child = Command::new(env!("CARGO_BIN_EXE_standoff"))
            .arg("run")
            .arg(folder.join("site.yaml"))
            .env("STATE_DIRECTORY", folder.join("state"))
            .env_remove("RUNTIME_DIRECTORY")
            // Many daemons run side by side: each test that wants the console says where.
            .env("STANDOFF__HTTP__LISTEN", "off")
            .env("STANDOFF__PROOF_TEST__EVERY", "off")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stderr.take().unwrap());
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        child
    }

    /// After [`Standoff::kill`]: starts it with what it left behind.
    pub fn run_again(&mut self) {
        self.child = Self::spawn(self.folder.path(), &self.variables, &self.log);
    }

    /// `standoff alarm` with these arguments: exit code, output, errors.
    pub fn alarm(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_standoff"))
            .arg("alarm")
            .args(arguments)
            .arg("--socket")
            .arg(self.state_dir().join("control.sock"))
            .env_remove("RUNTIME_DIRECTORY")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Lines of the log that hold `text`.
    pub fn log_with(&self, text: &str) -> Vec<String> {
        self.log().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// Writes another configuration and has the daemon read it.
    pub fn reload(&self, config: &str) {
        std::fs::write(self.folder.path().join("site.yaml"), config).unwrap();
        self.signal("-HUP");
    }

    /// Waits for a line of the log that holds `text`.
    pub fn wait_log(&self, text: &str, seconds: f64) -> String {
        let deadline = Deadline::after(seconds);
        loop {
            if let Some(line) = self.log_with(text).pop() {
                return line;
            }
            assert!(deadline.left().is_some(), "the log never says '{text}'");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Stops one of its threads as a hang would, until the answer is dropped; none, with a line that is counted,
    /// where this process may not do that.
    pub fn freeze(&self, thread: &str) -> Option<Frozen> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let task = tasks
            .filter_map(Result::ok)
            .find(|task| std::fs::read_to_string(task.path().join("comm")).unwrap().trim() == thread)
            .unwrap_or_else(|| panic!("there is no thread '{thread}'"));
        let script = "
import ctypes, os, sys
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
libc, tid = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
if libc.ptrace(SEIZE, tid, None, None) or libc.ptrace(INTERRUPT, tid, None, None):
    sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(tid, WALL)
print('frozen', flush=True)
os.waitpid(tid, WALL)  # its end: a thread that nobody buries keeps its process from ending
";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(task.file_name())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.trim() == "frozen" {
            return Some(Frozen(child));
        }
        let _ = child.wait();
        println!("SKIP: a thread of another process cannot be stopped here (ptrace)");
        None
    }

    /// Waits until it ends by itself.
    pub fn ended(mut self, seconds: f64) -> (ExitStatus, Vec<String>) {
        (self.wait(seconds), self.log())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(signal).arg(pid).status().unwrap().success());
    }

    /// Where it keeps what must survive a restart.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// SIGKILL, as a crash; the folder stays as long as this.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, as systemd stops it; its exit status.
    pub fn terminate(mut self) -> (ExitStatus, Vec<String>) {
        self.signal("-TERM");
        (self.wait(10.0), self.log())
    }

    fn wait(&mut self, seconds: f64) -> ExitStatus {
        let deadline = Deadline::after(seconds);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                deadline.left().is_some(),
                "the daemon does not end; its log:\n{}",
                self.log().join("\n")
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// Holds a thread of the daemon.
pub struct Frozen(Child);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Standoff {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log().join("\n"));
        }
    }
}

/// A file of the demo's data.
pub fn dock(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dock-demo").join(name)
}

/// What a camera of the dock has beside its address: calibration, edge and pair, indented for `cameras:`.
pub fn dock_site() -> String {
    let points: Value = serde_json::from_str(&std::fs::read_to_string(dock("scene.json")).unwrap()).unwrap();
    let points: Vec<String> = points["calibration_points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| format!("        - {{pixel: {}, floor_m: {}}}", point["pixel"], point["floor_m"]))
        .collect();
    format!(
        "    calibration:
      size: 640x360
      hfov_deg: 70
      points:
{}
    edges:
      dock_edge: {{line_m: [[-21, 0], [13, 0]]}}
    pairs:
      forklift_edge: {{from: forklift, to: dock_edge}}
",
        points.join("\n")
    )
}

/// The dock's configuration with another camera URL and broker.
pub fn dock_config(url: &str, mqtt_port: u16) -> String {
    format!(
        "node: e2e
mqtt: {{host: 127.0.0.1, port: {mqtt_port}, keep_alive: 5s}}
cameras:
  dock:
    url: {url}
{}    rules:
      forklift_near_edge: {{pair: forklift_edge, warning_m: 2.0, alarm_m: 0.5, clear_after: 500ms}}
",
        dock_site()
    )
}

/// Records what the model says of the dock clip at these seconds (`"2,22"`), for `model.recorded`.
pub fn record(file: &Path, at: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_standoff"))
        .arg("bench")
        .arg(dock("video.mp4"))
        .arg("--config")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/dock-demo.yaml"))
        .args(["--at", at, "--record"])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

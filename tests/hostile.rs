//! Bad input, by the hundred thousand: texts that are nearly right, put to everything that reads what others
//! wrote. Nothing may panic, hang or fill the memory, and no error may show a password.
//!
//! `STANDOFF_HOSTILE_CASES=1000000 cargo test --release --test hostile` is the long run;
//! `STANDOFF_HOSTILE_SEED` repeats the one whose seed is printed, `STANDOFF_HOSTILE_TRACE=FILE` leaves each case in a file
//! before it is tried, so that one which hangs can be seen.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use standoff::config::{Config, Surroundings};
use standoff::console;
use standoff::control;
use standoff::geometry::calibration::{FloorPoint, calibrate};
use standoff::geometry::camera::Lens;
use standoff::heartbeat::Heart;
use standoff::outbox::Outbox;
use standoff::publish::command;
use standoff::replay::truth::Truth;
use standoff::types::NodeId;
use standoff::types::command::{Action, Order, Refusal, channel};
use standoff::view::Profile;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// What stands wherever a password may stand; no error may show it.
const PASSWORD: &str = "hunter2-hunter2";

/// A single case that takes longer has hung; the slowest honest one takes milliseconds.
const HANG: Duration = Duration::from_secs(20);

/// No input may grow beyond this.
const TEXT_MAX_BYTES: usize = 64 << 10;

/// What a run may add to the memory of the process.
const MEMORY_MAX_KB: u64 = 400 << 10;

fn cases() -> u32 {
    let wanted = std::env::var("STANDOFF_HOSTILE_CASES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(20_000)
}

fn seed() -> u64 {
    let wanted = std::env::var("STANDOFF_HOSTILE_SEED").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or_else(|| standoff::clock::monotonic().as_nanos())
}

/// One way of spoiling a text. Places are shares of its length, in 65,536ths.
#[derive(Debug, Clone)]
enum Spoil {
    Insert { at: u16, what: String },
    Delete { at: u16, length: u8 },
    Copy { from: u16, length: u8, to: u16 },
    Repeat { at: u16, length: u8, times: u8 },
    Flip { at: u16, byte: u8 },
    Truncate { at: u16 },
}

fn spoil(words: &'static [&'static str]) -> impl Strategy<Value = Spoil> {
    let what = prop_oneof![
        4 => prop::sample::select(words).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
        1 => prop::collection::vec(any::<u8>(), 1..4).prop_map(|b| String::from_utf8_lossy(&b).into_owned()),
        1 => (prop::sample::select(words), 2usize..2000).prop_map(|(word, times)| word.repeat(times)),
    ];
    prop_oneof![
        4 => (any::<u16>(), what).prop_map(|(at, what)| Spoil::Insert { at, what }),
        2 => (any::<u16>(), any::<u8>()).prop_map(|(at, length)| Spoil::Delete { at, length }),
        2 => (any::<u16>(), any::<u8>(), any::<u16>()).prop_map(|(from, length, to)| Spoil::Copy { from, length, to }),
        1 => (any::<u16>(), any::<u8>(), any::<u8>()).prop_map(|(at, length, times)| Spoil::Repeat { at, length, times }),
        3 => (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Spoil::Flip { at, byte }),
        1 => any::<u16>().prop_map(|at| Spoil::Truncate { at }),
    ]
}

fn apply(mut bytes: Vec<u8>, spoils: &[Spoil]) -> String {
    for spoil in spoils {
        let place = |at: u16| usize::from(at) * bytes.len() / 65_536;
        let part = |at: u16, length: u8| {
            let from = place(at);
            from..(from + usize::from(length)).min(bytes.len())
        };
        match spoil {
            Spoil::Insert { at, what } => {
                let at = place(*at);
                bytes.splice(at..at, what.bytes());
            }
            Spoil::Delete { at, length } => {
                bytes.drain(part(*at, *length));
            }
            Spoil::Copy { from, length, to } => {
                let copy = bytes[part(*from, *length)].to_vec();
                let to = place(*to);
                bytes.splice(to..to, copy);
            }
            Spoil::Repeat { at, length, times } => {
                let range = part(*at, *length);
                let repeated = bytes[range.clone()].repeat(usize::from(*times));
                bytes.splice(range, repeated);
            }
            Spoil::Flip { at, byte } => {
                let at = place(*at);
                if let Some(there) = bytes.get_mut(at) {
                    *there ^= byte;
                }
            }
            Spoil::Truncate { at } => bytes.truncate(place(*at)),
        }
        bytes.truncate(TEXT_MAX_BYTES);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn memory_kb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Puts `cases()` values to `take`. Ends the process when one takes too long: a hang has no other way out.
fn run<S: Strategy>(name: &'static str, strategy: S, take: impl Fn(S::Value) -> Result<(), String>) {
    let (cases, seed) = (cases(), seed());
    println!("hostile {name}: {cases} cases, STANDOFF_HOSTILE_SEED={seed}");
    let before_kb = memory_kb("VmRSS");
    let (beat, heard) = sync_channel::<()>(0);
    let watch = std::thread::spawn(move || {
        loop {
            match heard.recv_timeout(HANG) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("hostile {name}: a case hangs, STANDOFF_HOSTILE_SEED={seed}");
                    std::process::abort();
                }
            }
        }
    });
    let trace = std::env::var_os("STANDOFF_HOSTILE_TRACE");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Cases { cases, failure_persistence: None, ..Cases::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let outcome = TestRunner::new_with_rng(config, rng).run(&strategy, |value| {
        // A full channel means that the watcher has not come round yet, which is as good.
        let _ = beat.try_send(());
        if let Some(file) = &trace {
            std::fs::write(file, format!("{value:?}")).unwrap();
        }
        take(value).map_err(TestCaseError::fail)
    });
    drop(beat);
    watch.join().unwrap();
    if let Err(failure) = outcome {
        panic!("{name}, STANDOFF_HOSTILE_SEED={seed}: {failure}");
    }
    let grown_kb = memory_kb("VmHWM").saturating_sub(before_kb);
    assert!(grown_kb < MEMORY_MAX_KB, "{name}: {grown_kb} kB of memory more than before");
}

/// Texts of the corpus with up to eight faults.
fn texts(corpus: Vec<String>, words: &'static [&'static str]) -> impl Strategy<Value = String> {
    (prop::sample::select(corpus), prop::collection::vec(spoil(words), 0..8))
        .prop_map(|(text, spoils)| apply(text.into_bytes(), &spoils))
}

fn no_password(text: &str) -> Result<(), String> {
    if text.contains(PASSWORD) { Err(format!("a password is shown: {text}")) } else { Ok(()) }
}

/// Whether every password of a configuration stands where passwords stand: after its key, even a misspelt sign
/// between them, or in a URL. (A password that was copied to a place for public text is public.)
fn passwords_in_place(text: &str) -> bool {
    text.match_indices(PASSWORD).all(|(at, _)| {
        let line = text[..at].rsplit('\n').next().unwrap_or_default();
        let before = line.trim_end_matches([':', ';', '=', ' ', '\'', '"', '\t']);
        let after_key = before
            .strip_suffix("password")
            .is_some_and(|rest| rest.is_empty() || rest.ends_with([' ', '{', ',']));
        let in_url = line.rsplit_once("rtsp://u:").is_some_and(|(_, rest)| !rest.contains(['@', '/']));
        after_key || in_url
    })
}

fn pipelines() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    let mut texts: Vec<String> = yaml.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    texts.push(format!(
        "mqtt: {{username: u, password: {PASSWORD}}}\ncameras: {{c: {{url: 'rtsp://u:{PASSWORD}@192.0.2.1/s'}}}}\n"
    ));
    assert!(texts.len() >= 4);
    texts
}

const YAML: &[&str] = &[
    ":",
    "- ",
    "\n",
    "\t",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "<<: *a",
    "? ",
    "|",
    ">",
    "---\n",
    "...\n",
    "'",
    "\"",
    "#",
    "!!binary ",
    "~",
    "null",
    "-1",
    "1e308",
    "-1e-308",
    "nan",
    ".inf",
    "0x7f",
    "99999999999999999999",
    "1s",
    "0ms",
    "9999999h",
    "00:00-24:00",
    "mon",
    "é",
    "\u{feff}",
    "\u{0}",
    "cameras:\n",
    "  rules:\n",
    "alarm_m: ",
    "points: ",
    "floor_m: ",
    "pixel: ",
    "size: 1x1",
    "hfov_deg: ",
    "when: ",
    "password: ",
    "{a: [",
];

#[test]
fn configurations() {
    let around = Surroundings {
        file: "hostile.yaml".into(),
        machine_id: Some("0123".into()),
        ..Surroundings::default()
    };
    run("configurations", texts(pipelines(), YAML), |text| {
        let said = match Config::parse(&text, &around) {
            Ok(config) => format!("{config:?}"),
            Err(problems) => problems.to_string(),
        };
        if passwords_in_place(&text) { no_password(&said) } else { Ok(()) }
    });
}

#[test]
fn environment_variables() {
    let base = "cameras: {c: {url: 'rtsp://192.0.2.1/s'}}\n".to_owned();
    let name = prop_oneof![
        texts(
            vec!["STANDOFF__CAMERAS__C__RULES__R__ALARM_M".into(), "STANDOFF__MQTT__PORT".into()],
            &["__", "_", "É", "0"]
        ),
        "STANDOFF__[A-Z_]{0,40}",
    ];
    run(
        "environment variables",
        (name, texts(vec!["1883".into(), "[1, 2]".into()], YAML)),
        |(name, value)| {
            let around = Surroundings {
                file: "hostile.yaml".into(),
                variables: vec![(name, value)],
                machine_id: Some("0123".into()),
                ..Surroundings::default()
            };
            let _ = Config::parse(&base, &around).map_err(|problems| problems.to_string());
            Ok(())
        },
    );
}

#[test]
fn calibrations() {
    let number = prop_oneof![
        8 => -2000.0..2000.0f64,
        2 => prop::sample::select(vec![0.0, -0.0, 1.0, 1e-300, 1e300, -1e300, 320.0, 180.0]),
        1 => any::<f64>(),
    ];
    let point = prop::array::uniform4(number.clone()).prop_map(|[x, y, u, v]| FloorPoint {
        pixel: [x, y],
        ground_m: [u, v],
        height_m: 0.0,
    });
    let points = prop_oneof![
        6 => prop::collection::vec(point.clone(), 0..12),
        1 => prop::collection::vec(point.clone(), 12..130),
        // All the same, or on one line.
        1 => (point, 0usize..100).prop_map(|(point, times)| vec![point; times]),
        1 => prop::collection::vec(-2000.0..2000.0f64, 4..100).prop_map(|along| {
            along.into_iter().map(|t| FloorPoint { pixel: [t, 2.0 * t], ground_m: [t * 0.01, t * 0.02], height_m: 0.0 }).collect()
        }),
    ];
    run("calibrations", (prop::array::uniform6(number), points), |(lens, points)| {
        let [width_px, height_px, fx_px, fy_px, cx_px, cy_px] = lens;
        let lens = Lens { fx_px, fy_px, cx_px, cy_px, width_px, height_px, k1: 0.0, k2: 0.0 };
        match calibrate(&lens, &points) {
            Ok(calibration) => {
                let finite = calibration.residual_px.iter().all(|residual| residual.is_finite());
                if finite { Ok(()) } else { Err(format!("accepted with {:?}", calibration.residual_px)) }
            }
            Err(error) => no_password(&error.to_string()),
        }
    });
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "-1",
    "1e999",
    "1e308",
    "\"frame\":",
    "18446744073709551616",
    "\"objects\":",
    "\\u0000",
    "\"",
    "\n",
    "NaN",
];

#[test]
fn truth_files() {
    let whole = include_str!("data/dock-demo/gt.jsonl");
    let corpus: Vec<String> = whole.lines().step_by(40).map(|line| format!("{line}\n{line}\n")).collect();
    run("truth files", texts(corpus, JSON), |text| {
        match Truth::parse(&text) {
            Ok(_) => {}
            Err(error) => assert!(error.to_string().len() < 2000, "a long error: {error}"),
        }
        Ok(())
    });
}

#[test]
fn mqtt_commands() {
    let node = NodeId::new("north").unwrap();
    let topics: Vec<String> = ["alarm_m", "warning_m", "armed", "acknowledge", "shelve", "unshelve", "x"]
        .map(|setting| format!("standoff/north/camera/dock/alarm/edge/{setting}/set"))
        .into();
    let topic = prop_oneof![
        8 => prop::sample::select(topics.clone()),
        1 => texts(topics, &["/", "+", "#", "set", "north", "\u{0}"]),
    ];
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        "[0-9eE.+-]{0,12}[smhd]?".prop_map(String::into_bytes),
        "\\PC{0,30}".prop_map(String::into_bytes),
    ];
    let taken = Cell::new(0u32);
    run("MQTT commands", (topic, payload, any::<bool>()), |(topic, payload, retained)| match command::parse(
        &node, &topic, &payload, retained,
    ) {
        Ok(_) if retained => Err("a retained command is from the past".to_owned()),
        Ok(command) => {
            taken.set(taken.get() + 1);
            let plain = match command.action {
                Action::Rule { order: Order::Limit(_, value), .. } => value.is_finite(),
                Action::Rule { order: Order::Shelve(time), .. } => time > Duration::ZERO,
                Action::Rule { .. } => true,
                Action::List => false,
            };
            if plain { Ok(()) } else { Err(format!("{command:?}")) }
        }
        Err(why) if why.to_string().is_empty() => Err("refused without a word".to_owned()),
        Err(_) => Ok(()),
    });
    assert!(taken.get() > 0, "nothing was ever a command");
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Says it all, then hears the other side out.
fn exchange(mut stream: impl Read + Write, said_all: impl Fn(), request: &[u8]) -> Vec<u8> {
    // It may hang up before it has heard everything.
    let _ = stream.write_all(request);
    said_all();
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn control_requests() {
    const WORDS: &[&str] = &[
        "{",
        "}",
        "\"",
        ",",
        ":",
        "\n",
        "null",
        "-1",
        "1e999",
        "18446744073709551616",
        "[[[[",
        "\"for_s\":",
        "\"action\":\"list\"",
        "\\ud800",
        "\u{0}",
    ];
    let corpus = vec![
        "{\"action\":\"list\"}\n".to_owned(),
        "{\"by\":\"ann\",\"action\":\"ack\",\"camera\":\"dock\",\"rule\":\"edge\"}\n".to_owned(),
        "{\"action\":\"shelve\",\"camera\":\"dock\",\"rule\":\"edge\",\"for_s\":60}\n".to_owned(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(control::SOCKET);
    let (_stop, stopped) = watch::channel(false);
    let (sender, commands) = channel();
    let runtime = runtime();
    let _task = runtime
        .block_on(async {
            control::spawn(path.clone(), sender, std::sync::Arc::new(|_, _| Err(String::new())), stopped)
        })
        .unwrap();
    std::thread::spawn(move || {
        for command in commands {
            let answer = match command.action {
                Action::List => Ok(vec![]),
                Action::Rule { camera, rule, .. } => Err(Refusal::NoRule(camera, rule)),
            };
            let _ = command.reply.unwrap().send(answer);
        }
    });
    run("control requests", texts(corpus, WORDS), |request| {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(HANG / 2)).unwrap();
        let end = stream.try_clone().unwrap();
        let answer = exchange(stream, || drop(end.shutdown(Shutdown::Write)), request.as_bytes());
        // Without a whole line there is no question, and no answer.
        let understood = serde_json::from_slice::<control::Reply>(&answer).is_ok();
        let asked = request.len() < 4096 && request.contains('\n');
        if understood || (answer.is_empty() && !asked) {
            Ok(())
        } else {
            Err(format!("answered {:?}", String::from_utf8_lossy(&answer)))
        }
    });
}

#[test]
fn http_requests() {
    const WORDS: &[&str] = &[
        "\r\n",
        "\n",
        "\r",
        " ",
        ":",
        "GET ",
        "POST ",
        "HTTP/1.1",
        "HTTP/1.0",
        "HTTP/2.0",
        "/metrics",
        "/../",
        "%00",
        "%",
        "?",
        "#",
        "host: ",
        "content-length: 5\r\n",
        "content-length: -1\r\n",
        "transfer-encoding: chunked\r\n",
        "ffffffffffffffff\r\n",
        "0\r\n\r\n",
        "expect: 100-continue\r\n",
        "upgrade: h2c\r\n",
        "connection: close\r\n",
        "range: bytes=0-\r\n",
        "\u{0}",
        "é",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let corpus: Vec<String> = ["/metrics", "/healthz", "/readyz", "/"]
        .into_iter()
        .flat_map(|path| {
            [
                format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: */*\r\n\r\n"),
                format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nabcd"),
            ]
        })
        .collect();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wiring = console::Wiring {
        heart: Arc::new(Heart::default()),
        outbox: Arc::new(Outbox::default()),
        backend: Arc::new(OnceLock::new()),
    };
    let (_stop, stopped) = watch::channel(false);
    let runtime = runtime();
    let entered = runtime.enter();
    console::spawn(address, wiring, stopped);
    drop(entered);
    let ask = |request: &[u8], hangs_up: bool| {
        let stream = loop {
            // Refused until it listens.
            if let Ok(stream) = TcpStream::connect(address) {
                break stream;
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(HANG / 2)).unwrap();
        let end = stream.try_clone().unwrap();
        // Whoever hangs up may go without an answer, but does not wait for more of the request.
        let said_all = || {
            if hangs_up {
                let _ = end.shutdown(Shutdown::Write);
            }
        };
        String::from_utf8_lossy(&exchange(stream, said_all, request)).into_owned()
    };
    let asked = Cell::new(0u32);
    run("HTTP requests", texts(corpus, WORDS), |request| {
        let answer = ask(request.as_bytes(), true);
        if !answer.is_empty() && !answer.starts_with("HTTP/1.") {
            return Err(format!("answered {answer:?}"));
        }
        asked.set(asked.get() + 1);
        if asked.get() % 1000 == 1 {
            let answer = ask(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", false);
            if !answer.starts_with("HTTP/1.1 200 OK") || !answer.ends_with("# EOF\n") {
                return Err(format!("a good request is answered with {answer:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn view_profiles() {
    let tiles = ["0.4"; 24].join(",");
    let whole = format!(
        "{{\"v\":1,\"width\":640,\"height\":360,\"pictures\":600,\"seconds\":60.0,\"stillest\":0.9,\
         \"brightness\":[0.1,0.4,0.9],\"spread\":0.8,\"mean\":[{tiles}],\"contrast\":[{tiles}],\"detail\":[{tiles}]}}"
    );
    assert!(Profile::parse(&whole).is_ok());
    run("view profiles", texts(vec![whole], JSON), |text| {
        let Ok(profile) = Profile::parse(&text) else { return Ok(()) };
        match profile.frozen_below() {
            Some(below) if !(0.0..=1.0).contains(&below) => Err(format!("frozen below {below}")),
            _ => Ok(()),
        }
    });
}

//! Cameras against real servers: live, refused, killed, stalled.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gstreamer::prelude::*;
use standoff::clock;
use standoff::ingest::clip::Clip;
use standoff::ingest::{self, CameraHandle, CameraSource, IngestError, Reader, RtspSource, StreamUrl};
use standoff::slot::{Batching, HealthBoard, Slots};
use standoff::types::{CameraHealth, CameraId, CameraState, Frame, HostPlanes, Reason, Secret};

use crate::rtsp::{AioServer, LaunchServer, Proxy, data, dock, free_port, serve, wait_for};

const SOON: Duration = Duration::from_secs(15);

struct Camera {
    id: CameraId,
    slots: Arc<Slots>,
    board: Arc<HealthBoard>,
    handle: CameraHandle,
}

impl Camera {
    fn start(name: &str, source: CameraSource) -> Self {
        let id = CameraId::new(name).unwrap();
        let (slots, board) = (Arc::new(Slots::default()), Arc::new(HealthBoard::default()));
        let handle =
            ingest::spawn(id.clone(), source, Duration::ZERO, Reader::Cpu, slots.clone(), board.clone())
                .unwrap();
        Self { id, slots, board, handle }
    }

    fn rtsp(name: &str, url: &str) -> Self {
        Self::start(name, CameraSource::Rtsp(RtspSource::new(StreamUrl::parse(url, None, None).unwrap())))
    }

    fn health(&self) -> CameraHealth {
        self.board.get(&self.id).expect("health is said from the start")
    }

    fn wait(&self, what: &str, accept: impl Fn(&CameraHealth) -> bool) -> CameraHealth {
        let mut last = self.health();
        let start = clock::monotonic();
        loop {
            if accept(&last) {
                return last;
            }
            assert!(clock::monotonic().since(start) < SOON, "no {what} within {SOON:?}: {last:?}");
            std::thread::park_timeout(Duration::from_millis(5));
            last = self.health();
        }
    }

    fn wait_state(&self, state: CameraState) -> CameraHealth {
        let start = clock::monotonic();
        let health = self.wait(&format!("{state:?}"), |health| health.state == state);
        println!("{}: {state:?} after {:.2?}: {}", self.id, clock::monotonic().since(start), health.detail);
        health
    }

    fn frame(&self) -> Frame {
        wait_for("frame", SOON, || self.slots.take(Batching::up_to(1), Duration::from_millis(100)).pop())
    }

    fn stop(self) {
        let start = clock::monotonic();
        self.handle.stop();
        let took = clock::monotonic().since(start);
        assert!(took < Duration::from_secs(2), "stopped after {took:?}");
    }
}

fn luma(frame: &Frame) -> Vec<u8> {
    let HostPlanes { data, planes, .. } = frame.pixels.host().unwrap();
    let (width, height, plane) = (frame.width as usize, frame.height as usize, planes[0]);
    (0..height).flat_map(|y| data[plane.offset + y * plane.stride..][..width].to_vec()).collect()
}

fn age(frame: &Frame) -> Duration {
    frame.arrived.since(frame.captured)
}

#[test]
fn h264_live_frames_are_the_clip_and_carry_its_time() {
    let server = serve(&dock());
    let camera = Camera::rtsp("dock", server.url());
    camera.wait_state(CameraState::Live);
    let frames: Vec<Frame> = (0..12).map(|_| camera.frame()).collect();
    let clip: Vec<Vec<u8>> = Clip::open(&data("dock-demo/video.mp4"), camera.id.clone())
        .unwrap()
        .take(80)
        .map(|frame| luma(&frame.unwrap()))
        .collect();
    for frame in &frames {
        assert_eq!((frame.width, frame.height), (640, 360));
        assert!(frame.captured <= frame.arrived);
        let picture = luma(frame);
        let number =
            clip.iter().position(|other| *other == picture).expect("bit for bit a frame of the clip");
        let shown = server.clip_time(frame.captured).unwrap().as_secs_f64();
        println!("frame {number}: clip time {shown:.3} s, age {:.1?}", age(frame));
        assert!((shown - number as f64 / 10.0).abs() < 0.5, "frame {number} at {shown} s");
    }
    assert!(frames.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].captured < pair[1].captured));
    assert_eq!(camera.health().connects, 1);
    camera.stop();
}

#[test]
fn h265_live() {
    let mut options = dock();
    options.clip = data("h265/dock-320x180.mp4");
    let server = serve(&options);
    let camera = Camera::rtsp("dock", server.url());
    camera.wait_state(CameraState::Live);
    let frame = camera.frame();
    assert_eq!((frame.width, frame.height), (320, 180));
    camera.stop();
}

#[test]
fn a_server_that_nobody_here_wrote() {
    let dir = tempfile::tempdir().unwrap();
    for (name, file) in [("dock.mp4", "dock-demo/video.mp4"), ("h265.mp4", "h265/dock-320x180.mp4")] {
        std::fs::copy(data(file), dir.path().join(name)).unwrap();
    }
    let Some(server) = AioServer::start(dir.path()) else { return };
    for name in ["dock.mp4", "h265.mp4"] {
        let camera = Camera::rtsp("dock", &server.url(name));
        camera.wait_state(CameraState::Live);
        let frame = camera.frame();
        println!("{name}: {} x {}", frame.width, frame.height);
        camera.stop();
    }
}

#[test]
fn passwords() {
    let mut options = dock();
    options.user = Some(("admin".to_owned(), Secret::new("pa/w#rd%1?")));
    let server = serve(&options);
    let host = server.url().trim_start_matches("rtsp://").to_owned();
    let camera = Camera::rtsp("dock", &format!("rtsp://admin:pa/w#rd%1?@{host}"));
    camera.wait_state(CameraState::Live);
    camera.stop();

    let camera = Camera::rtsp("dock", &format!("rtsp://admin:hunter2@{host}"));
    let health = camera.wait_state(CameraState::Refused);
    assert_eq!(health.reason, Some(Reason::AuthFailed));
    assert!(health.detail.contains("'dock'") && !health.detail.contains("hunter2"), "{}", health.detail);
    camera.stop();

    let camera = Camera::rtsp("dock", server.url());
    let health = camera.wait_state(CameraState::Refused);
    assert!(health.detail.contains("wants a user name"), "{}", health.detail);
    camera.stop();
}

#[test]
fn no_debug_level_prints_a_password() {
    // The test above in a process of its own, whose GStreamer is asked to tell everything.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["ingest::passwords", "--exact", "--nocapture"])
        .env("GST_DEBUG", "9,rtsp*:9")
        .env_remove("GST_DEBUG_FILE")
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    for secret in ["Authorization", "hunter2", "pa/w#rd%1?", "YWRtaW46"] {
        assert!(!text.contains(secret), "'{secret}' in: {text}");
    }
}

#[test]
fn no_such_path() {
    let server = serve(&dock());
    let camera = Camera::rtsp("dock", &format!("{}-2", server.url()));
    let health = camera.wait_state(CameraState::Refused);
    assert_eq!(health.reason, Some(Reason::NotFound));
    camera.stop();
}

#[test]
fn nobody_listens() {
    let camera = Camera::rtsp("dock", &format!("rtsp://127.0.0.1:{}/x", free_port()));
    let health = camera.wait_state(CameraState::Backoff);
    assert_eq!(health.reason, Some(Reason::Unreachable));
    assert!(health.detail.contains("refused"), "{}", health.detail);
    camera.stop();
    let camera = Camera::rtsp("dock", "rtsp://no-such-host.invalid/x");
    let health = camera.wait_state(CameraState::Backoff);
    assert!(health.detail.contains("name cannot be resolved"), "{}", health.detail);
    camera.stop();
}

#[test]
fn somebody_listens_but_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let camera =
        Camera::rtsp("dock", &format!("rtsp://127.0.0.1:{}/x", listener.local_addr().unwrap().port()));
    let health = camera.wait_state(CameraState::Backoff);
    assert_eq!(health.reason, Some(Reason::Unreachable));
    camera.wait("second attempt", |health| health.state == CameraState::Connecting);
    camera.stop();
}

#[test]
fn a_killed_server_is_noticed_and_found_again() {
    let mut options = dock();
    let server = serve(&options);
    options.port = server.port();
    let camera = Camera::rtsp("dock", server.url());
    camera.wait_state(CameraState::Live);
    let killed = clock::monotonic();
    server.stop();
    let health = camera.wait("loss", |health| health.state != CameraState::Live);
    println!("the loss was said after {:.2?}", clock::monotonic().since(killed));
    assert_eq!(health.reason, Some(Reason::ConnectionLost));
    // Its next attempts fail, and say so.
    camera.wait("refusal", |health| health.reason == Some(Reason::Unreachable));
    let server = serve(&options);
    let health = camera.wait_state(CameraState::Live);
    assert_eq!(health.connects, 2);
    let before = camera.frame().seq;
    assert!(camera.frame().seq > before, "frames are numbered on");
    camera.stop();
    drop(server);
}

#[test]
fn a_stalled_link_is_said_and_its_backlog_is_old() {
    let server = serve(&dock());
    let proxy = Proxy::to(server.port());
    let camera = Camera::rtsp("dock", &format!("rtsp://127.0.0.1:{}/camera", proxy.port()));
    camera.wait_state(CameraState::Live);
    for _ in 0..10 {
        let age = age(&camera.frame());
        assert!(age < Duration::from_secs(1), "{age:?}");
    }
    proxy.pause();
    let paused = clock::monotonic();
    let health = camera.wait_state(CameraState::Stalled);
    assert_eq!(health.reason, Some(Reason::Stalled));
    while camera.slots.take(Batching::up_to(1), Duration::ZERO).pop().is_some() {}
    wait_for("3 s of stall", SOON, || {
        (clock::monotonic().since(paused) > Duration::from_secs(3)).then_some(())
    });
    proxy.resume();
    let oldest = age(&camera.frame());
    println!("after a stall of 3 s the first picture is {oldest:.2?} old");
    assert!(oldest > Duration::from_millis(1_500) && oldest < Duration::from_millis(4_000), "{oldest:?}");
    let health = camera.wait_state(CameraState::Live);
    assert_eq!(health.connects, 1, "the same session went on");
    wait_for("young frame", SOON, || {
        Some(age(&camera.frame())).filter(|age| *age < Duration::from_millis(500))
    });
    camera.stop();
}

#[test]
fn a_stall_that_lasts_ends_the_session() {
    let server = serve(&dock());
    let proxy = Proxy::to(server.port());
    let camera = Camera::rtsp("dock", &format!("rtsp://127.0.0.1:{}/camera", proxy.port()));
    camera.wait_state(CameraState::Live);
    proxy.pause();
    camera.wait_state(CameraState::Stalled);
    let health = camera.wait_state(CameraState::Backoff);
    assert_eq!(health.reason, Some(Reason::Stalled));
    camera.wait("failing attempt", |health| health.reason == Some(Reason::Unreachable));
    proxy.resume();
    assert_eq!(camera.wait_state(CameraState::Live).connects, 2);
    camera.stop();
}

fn open_files_and_threads() -> [usize; 2] {
    ["/proc/self/fd", "/proc/self/task"].map(|dir| std::fs::read_dir(dir).unwrap().count())
}

/// Counts what the whole process holds, so it is run alone: `cargo test --test e2e -- --ignored`.
#[test]
#[ignore = "counts files and threads of the whole process: run it alone"]
fn reconnecting_leaks_nothing() {
    let server = serve(&dock());
    let proxy = Proxy::to(server.port());
    let camera = Camera::rtsp("dock", &format!("rtsp://127.0.0.1:{}/camera", proxy.port()));
    let mut counts = Vec::new();
    for round in 1..=12u64 {
        camera.wait("reconnect", |health| health.state == CameraState::Live && health.connects == round);
        counts.push(open_files_and_threads());
        proxy.cut();
    }
    println!("files and threads while live: {counts:?}");
    camera.stop();
    let (first, last) = (counts[1], counts[11]);
    assert!(last[0] <= first[0] + 4 && last[1] <= first[1] + 4, "{counts:?}");
}

#[test]
fn a_dying_camera_does_not_disturb_another() {
    let (first, second) = (serve(&dock()), serve(&dock()));
    let (a, b) = (Camera::rtsp("a", first.url()), Camera::rtsp("b", second.url()));
    a.wait_state(CameraState::Live);
    let steady = b.wait_state(CameraState::Live);
    first.stop();
    a.wait("loss", |health| health.state != CameraState::Live);
    a.wait("failing attempt", |health| health.reason == Some(Reason::Unreachable));
    let last = b.frame().seq;
    assert!(b.frame().seq > last);
    assert_eq!(b.health().connects, steady.connects, "its session went on");
    a.stop();
    b.stop();
}

#[test]
fn other_codecs_are_refused_by_name() {
    let line = "( videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=10/1 ! jpegenc ! rtpjpegpay \
                name=pay0 )";
    let Some(server) = LaunchServer::start(line, &["jpegenc", "rtpjpegpay"]) else { return };
    let camera = Camera::rtsp("dock", &server.url);
    let health = camera.wait_state(CameraState::Refused);
    assert_eq!(health.reason, Some(Reason::Unsupported));
    assert!(health.detail.contains("JPEG"), "{}", health.detail);
    camera.stop();
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    let line = "( videotestsrc is-live=true ! video/x-raw,width=4096,height=64,framerate=5/1 ! x264enc tune=zerolatency \
                threads=1 key-int-max=5 ! rtph264pay name=pay0 config-interval=-1 )";
    let Some(server) = LaunchServer::start(line, &["x264enc"]) else { return };
    let camera = Camera::rtsp("dock", &server.url);
    let health = camera.wait_state(CameraState::Refused);
    assert_eq!(health.reason, Some(Reason::Unsupported));
    assert!(health.detail.contains("4096 x 64"), "{}", health.detail);
    assert!(camera.slots.take(Batching::up_to(1), Duration::ZERO).is_empty());
    camera.stop();
}

#[test]
fn the_size_may_change_in_mid_stream_but_not_out_of_bounds() {
    let line = "( videotestsrc is-live=true ! capsfilter name=size caps=video/x-raw,width=320,height=240,framerate=10/1 ! \
                x264enc tune=zerolatency threads=1 key-int-max=5 ! rtph264pay name=pay0 config-interval=-1 )";
    let Some(server) = LaunchServer::start(line, &["x264enc"]) else { return };
    let camera = Camera::rtsp("dock", &server.url);
    camera.wait_state(CameraState::Live);
    assert_eq!(camera.frame().width, 320);
    server.switch_size(640, 480);
    let frame = wait_for("larger frame", SOON, || Some(camera.frame()).filter(|frame| frame.width != 320));
    assert_eq!((frame.width, frame.height), (640, 480));
    assert_eq!(camera.health().connects, 1);
    server.switch_size(4096, 64);
    let health = camera.wait_state(CameraState::Refused);
    assert!(health.detail.contains("4096 x 64"), "{}", health.detail);
    for frame in camera.slots.take(Batching::up_to(1), Duration::ZERO) {
        assert_eq!((frame.width, frame.height), (640, 480), "nothing of the new size was decoded");
    }
    camera.stop();
}

#[test]
fn a_certificate_needs_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        crate::rtsp::skip("openssl makes no certificate");
        return;
    }
    let both = dir.path().join("both.pem");
    std::fs::write(&both, [std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap()].concat()).unwrap();
    let mut options = dock();
    options.certificate = Some(both);
    let server = serve(&options);
    let camera = Camera::rtsp("dock", server.url());
    let health = camera.wait_state(CameraState::Refused);
    assert_eq!(health.reason, Some(Reason::TlsFailed));
    camera.stop();
    let mut source = RtspSource::new(StreamUrl::parse(server.url(), None, None).unwrap());
    source.ca_file = Some(cert);
    let camera = Camera::start("dock", CameraSource::Rtsp(source.clone()));
    camera.wait_state(CameraState::Live);
    camera.stop();
    source.ca_file = Some(dir.path().join("nothing.pem"));
    let camera = Camera::start("dock", CameraSource::Rtsp(source));
    assert!(camera.wait_state(CameraState::Refused).detail.contains("ca_file"));
    camera.stop();
}

#[test]
fn a_file_plays_as_if_live_and_ends() {
    let path = data("h265/dock-320x180.mp4");
    let camera = Camera::start("clip", CameraSource::File { path, loop_: false });
    camera.wait_state(CameraState::Live);
    let (first, second) = (camera.frame(), camera.frame());
    assert!(second.captured > first.captured && age(&second) < Duration::from_millis(500));
    let health = camera.wait_state(CameraState::Ended);
    assert_eq!(health.reason, Some(Reason::EndOfClip));
    camera.stop();
    let camera = Camera::start("gone", CameraSource::File { path: "/no/such.mp4".into(), loop_: true });
    let health = camera.wait_state(CameraState::Refused);
    assert_eq!(health.reason, Some(Reason::NotFound));
    assert!(health.detail.contains("/no/such.mp4"));
    camera.stop();
}

fn camera() -> CameraId {
    CameraId::new("clip").unwrap()
}

fn open(path: &Path) -> Result<Vec<Frame>, IngestError> {
    Clip::open(path, camera())?.collect()
}

#[test]
fn a_clip_gives_every_frame_in_order() {
    let clip = Clip::open(&data("dock-demo/video.mp4"), camera()).unwrap();
    assert_eq!(
        (clip.fps(), clip.frame_count(), clip.duration()),
        (Some(10.0), Some(300), Some(Duration::from_secs(30)))
    );
    let mut count = 0u64;
    for frame in clip {
        let frame = frame.unwrap();
        assert_eq!((frame.seq, frame.captured.as_nanos() / 1_000_000), (count, count * 100));
        count += 1;
    }
    assert_eq!(count, 300);
    assert_eq!(open(&data("h265/dock-320x180.mp4")).unwrap().len(), 40);
}

fn count_in_order(path: &Path) -> u64 {
    let clip = Clip::open(path, camera()).unwrap_or_else(|e| panic!("{e}"));
    let (expected, fps, size) = (clip.frame_count(), clip.fps(), path.metadata().unwrap().len());
    let mut last = None;
    for frame in clip {
        let frame = frame.unwrap_or_else(|e| panic!("{e}"));
        assert!(last.is_none_or(|(seq, time)| frame.seq == seq + 1 && frame.captured > time), "{frame:?}");
        last = Some((frame.seq, frame.captured));
    }
    let count = last.map_or(0, |(seq, _)| seq + 1);
    println!("{}: {count} frames of {expected:?}, {fps:?} fps, {size} bytes", path.display());
    count
}

#[test]
fn an_mkv_gives_the_same_frames() {
    standoff::ingest::gst_log::init().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dock.mkv");
    let line = format!(
        "filesrc location={} ! qtdemux ! h264parse ! matroskamux ! filesink location={}",
        data("dock-demo/video.mp4").display(),
        path.display()
    );
    let pipeline = gstreamer::parse::launch(&line).unwrap();
    pipeline.set_state(gstreamer::State::Playing).unwrap();
    let ends = [gstreamer::MessageType::Eos, gstreamer::MessageType::Error];
    let end =
        pipeline.bus().unwrap().timed_pop_filtered(gstreamer::ClockTime::from_seconds(15), &ends).unwrap();
    assert_eq!(end.type_(), gstreamer::MessageType::Eos);
    pipeline.set_state(gstreamer::State::Null).unwrap();
    assert_eq!(count_in_order(&path), 300);
}

#[test]
fn real_clips_are_read_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/clips");
    let Ok(entries) = std::fs::read_dir(folder) else {
        crate::rtsp::skip("no folder ../shared/data/clips");
        return;
    };
    for path in
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "mp4"))
    {
        assert!(count_in_order(&path) > 30);
    }
}

#[test]
fn broken_clips_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(data("dock-demo/video.mp4")).unwrap();
    let case = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path).unwrap_err();
        println!("{error}");
        assert!(error.to_string().contains(name) && error.to_string().lines().count() == 1, "{error}");
        error
    };
    assert!(matches!(case("half.mp4", &whole[..whole.len() / 2]), IngestError::Damaged { .. }));
    assert!(matches!(case("text.mp4", b"hello, this is a text"), IngestError::Unsupported { .. }));
    assert!(matches!(case("short.mp4", b"x"), IngestError::Unsupported { .. }));
    assert!(matches!(case("broken.jpg", b"\xff\xd8\xff nothing"), IngestError::Damaged { .. }));
    assert!(matches!(open(Path::new("/no/such.mkv")), Err(IngestError::NotFound { .. })));
    assert!(matches!(open(dir.path().join("x").as_path()), Err(IngestError::NotFound { .. })));
}

#[test]
fn pictures_are_clips_too() {
    let still = data("dock-demo/empty_scene.jpg");
    let frames = open(&still).unwrap();
    assert_eq!((frames.len(), frames[0].width, frames[0].height), (1, 640, 360));
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(open(dir.path()), Err(IngestError::Unsupported { .. })));
    for name in ["b.jpg", "a.jpg", "c.jpg"] {
        std::fs::copy(&still, dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("notes.txt"), "not a picture").unwrap();
    let clip = Clip::open_images(dir.path(), camera(), 4.0).unwrap();
    let times: Vec<u64> = clip.map(|frame| frame.unwrap().captured.as_nanos() / 1_000_000).collect();
    assert_eq!(times, [0, 250, 500]);
}

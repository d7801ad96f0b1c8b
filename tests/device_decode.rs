//! Pictures that a GPU decodes, from an RTSP server to the model's input, with GStreamer's own NVDEC elements on top of
//! test doubles of NVIDIA's driver (kernels/fake_cuda.cpp) and decoder (kernels/fake_nvcuvid.cpp). The tests that are
//! ignored run in processes of their own, started by the others.
#![cfg(all(feature = "cuda", feature = "demo"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "conformance/fake.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod fake;
#[path = "e2e/rtsp.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod rtsp;
#[path = "device_decode/uploader.rs"]
mod uploader;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use standoff::backend::cuda::{Gpu, Preprocessor};
use standoff::ingest::clip::Clip;
use standoff::ingest::{self, CameraHandle, CameraSource, Decode, Reader, RtspSource, StreamUrl, gst_log};
use standoff::slot::{Batching, HealthBoard, Slots};
use standoff::types::{CameraHealth, CameraId, CameraState, Frame, PixelFormat, Pixels};

use rtsp::{LaunchServer, data, dock, serve, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// Runs one of the ignored tests with the test doubles as its libraries; shows what it found.
fn run_with_fakes(test: &str, settings: &[(&str, &str)]) {
    let folders = [fake::driver(), fake::decoder()];
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap())
        // What GStreamer finds with the doubles must not be remembered by anybody else.
        .env("GST_REGISTRY", fake::decoder().join(format!("registry-{test}.bin")))
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    let shown = said.lines().filter(|line| ["SKIP", "decode:"].iter().any(|word| line.starts_with(word)));
    shown.for_each(|line| println!("{line}"));
}

#[test]
fn pictures_of_nvdec_stay_on_the_device() {
    run_with_fakes("nvdec_to_the_models_input", &[]);
}

#[test]
fn real_pictures_on_the_device_are_those_of_the_host_bit_for_bit() {
    run_with_fakes("uploaded_pictures_to_the_models_input", &[("FAKE_NVDEC_NONE", "1")]);
}

#[test]
fn pictures_of_nvdec_come_through_host_memory_for_a_model_on_the_cpu() {
    run_with_fakes("nvdec_for_the_cpu", &[]);
}

#[test]
fn a_gpu_with_too_many_streams_loses_no_camera() {
    run_with_fakes("two_cameras_and_one_session", &[("FAKE_NVDEC_SESSIONS", "1")]);
}

#[test]
fn a_decoder_that_breaks_is_left_for_the_cpu() {
    run_with_fakes("a_decoder_that_stops_giving_pictures", &[("FAKE_NVDEC_BREAKS", "25")]);
}

#[test]
fn nothing_that_was_predicted_from_a_lost_picture_is_shown() {
    run_with_fakes("a_stream_with_losses", &[("FAKE_NVDEC_NONE", "1")]);
}

/// A camera on its own thread.
struct Camera {
    id: CameraId,
    slots: Arc<Slots>,
    board: Arc<HealthBoard>,
    _handle: CameraHandle,
}

impl Camera {
    fn start(name: &str, url: &str, decode: Decode, reader: Reader) -> Self {
        let id = CameraId::new(name).unwrap();
        let (slots, board) = (Arc::new(Slots::default()), Arc::new(HealthBoard::default()));
        let url = StreamUrl::parse(url, None, None).unwrap();
        let source = CameraSource::Rtsp(RtspSource { decode, ..RtspSource::new(url) });
        let handle = ingest::spawn(id.clone(), source, Duration::ZERO, reader, slots.clone(), board.clone());
        Self { id, slots, board, _handle: handle.unwrap() }
    }

    fn frame(&self) -> Frame {
        wait_for("frame", SOON, || self.slots.take(Batching::up_to(1), Duration::from_millis(100)).pop())
    }

    fn wait(&self, what: &str, accept: impl Fn(&CameraHealth) -> bool) -> CameraHealth {
        wait_for(what, SOON, || self.board.get(&self.id).filter(|health| accept(health)))
    }
}

/// Whether GStreamer registered an element of its NVIDIA plugin; says a skip when not.
fn registered(element: &str) -> bool {
    gst_log::init().unwrap();
    let there = gstreamer::ElementFactory::find(element).is_some();
    if !there {
        let version = gstreamer::version_string();
        println!("SKIP: {version} does not register {element} with the test doubles of NVIDIA's libraries");
    }
    there
}

/// Where the pixels are, and how.
fn kind(frame: &Frame) -> (&'static str, PixelFormat) {
    match &frame.pixels {
        Pixels::Host { format, .. } => ("host", *format),
        Pixels::Cuda { format, .. } => ("GPU", *format),
    }
}

/// The same frame with its pixels in ordinary memory.
fn on_host(frame: &Frame) -> Frame {
    let host = frame.pixels.host().unwrap();
    let (data, planes) = (host.data.to_vec().into(), host.planes.to_vec());
    Frame { pixels: Pixels::Host { format: host.format, data, planes }, ..frame.clone() }
}

/// The samples of a frame, plane by plane, without what lies between rows.
fn samples(frame: &Frame) -> Vec<Vec<u8>> {
    let host = frame.pixels.host().unwrap();
    let sizes = host.format.plane_sizes(frame.width as usize, frame.height as usize);
    let plane = |(plane, [row, rows]): (&standoff::types::Plane, [usize; 2])| {
        (0..rows).flat_map(|y| host.data[plane.offset + y * plane.stride..][..row].to_vec()).collect()
    };
    host.planes.iter().zip(sizes).map(plane).collect()
}

/// What the test double of NVDEC paints as its picture `n`.
fn painted(width: usize, height: usize, n: usize) -> Vec<Vec<u8>> {
    let luma = (0..height).flat_map(|y| (0..width).map(move |x| (x + 3 * y + 7 * n) as u8)).collect();
    let chroma = (0..height.div_ceil(2))
        .flat_map(|y| (0..width.next_multiple_of(2)).map(move |x| (5 * x + y + 11 * n) as u8));
    vec![luma, chroma.collect()]
}

/// The number of the painted picture that a frame is; its bytes are compared.
fn number_of(frame: &Frame) -> usize {
    let found = samples(frame);
    let (width, height) = (frame.width as usize, frame.height as usize);
    (0..2000).find(|n| found == painted(width, height, *n)).expect("a picture that was painted")
}

fn preprocessed(gpu: &Gpu, frames: &[Frame], half: bool) -> Vec<u8> {
    let stream = gpu.context().new_stream().unwrap();
    let mut preprocessor = Preprocessor::new(gpu, stream.clone(), [392, 224], frames.len(), half).unwrap();
    let uploaded = preprocessor.upload(frames).unwrap();
    preprocessor.launch(&uploaded).unwrap();
    stream.synchronize().unwrap();
    preprocessor.download().unwrap()
}

/// Compares what the kernels make of pictures on the device and of the same pictures from the host; batches of 1, of
/// several, and of both kinds.
fn compare(what: &str, frames: &[Frame]) {
    let gpu = Gpu::open().unwrap();
    let (mut bytes, mut differing) = (0, 0);
    for half in [false, true] {
        for batch in [&frames[..1], &frames[1..5], frames] {
            let host: Vec<Frame> = batch.iter().map(on_host).collect();
            let mut mixed = batch.to_vec();
            mixed.iter_mut().zip(&host).step_by(2).for_each(|(frame, host)| *frame = host.clone());
            let expected = preprocessed(&gpu, &host, half);
            for batch in [batch, &mixed] {
                let found = preprocessed(&gpu, batch, half);
                assert_eq!(found.len(), expected.len());
                bytes += found.len();
                differing += found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            }
        }
    }
    println!("decode: {what}: {} frames, {differing} of {bytes} bytes of input differ", frames.len());
    assert_eq!(differing, 0);
}

#[test]
#[ignore = "needs the test doubles; `pictures_of_nvdec_stay_on_the_device` runs it with them"]
fn nvdec_to_the_models_input() {
    if !registered("nvh264sldec") {
        return;
    }
    let server = serve(&dock());
    let camera = Camera::start("dock", server.url(), Decode::Auto, Reader::Gpu);
    let frames: Vec<Frame> = (0..8).map(|_| camera.frame()).collect();
    for frame in &frames {
        assert_eq!(kind(frame), ("GPU", PixelFormat::Nv12));
        assert_eq!((frame.width, frame.height), (640, 360));
    }
    let numbers: Vec<usize> = frames.iter().map(number_of).collect();
    println!("decode: nvh264sldec gave pictures {numbers:?} where they lie");
    assert!(numbers.is_sorted_by(|a, b| a < b));
    compare("nvh264sldec", &frames);
    // Frames outlive their pipeline.
    drop(camera);
    assert_eq!(number_of(&frames[7]), numbers[7]);
}

#[test]
#[ignore = "needs the test doubles; `real_pictures_on_the_device_are_those_of_the_host_bit_for_bit` runs it with them"]
fn uploaded_pictures_to_the_models_input() {
    if !registered("cudaupload") {
        return;
    }
    uploader::register("nvh264dec", "avdec_h264");
    let server = serve(&dock());
    let camera = Camera::start("dock", server.url(), Decode::Auto, Reader::Gpu);
    let frames: Vec<Frame> = (0..8).map(|_| camera.frame()).collect();
    let clip: Vec<Frame> = Clip::open(&data("dock-demo/video.mp4"), camera.id.clone())
        .unwrap()
        .take(80)
        .map(Result::unwrap)
        .collect();
    let decoded_on_host: Vec<Vec<Vec<u8>>> = clip.iter().map(samples).collect();
    for frame in &frames {
        assert_eq!(kind(frame), ("GPU", PixelFormat::I420));
        let copied = samples(frame);
        let number = decoded_on_host.iter().position(|other| *other == copied).expect("a frame of the clip");
        let host = Frame { seq: frame.seq, ..clip[number].clone() };
        let colours = |frame: &Frame| (frame.matrix, frame.range, frame.siting);
        assert_eq!(colours(frame), colours(&host));
    }
    compare("avdec_h264 ! cudaupload", &frames);
}

#[test]
#[ignore = "needs the test doubles; `pictures_of_nvdec_come_through_host_memory_for_a_model_on_the_cpu` runs it"]
fn nvdec_for_the_cpu() {
    if !registered("nvh264sldec") {
        return;
    }
    let server = serve(&dock());
    let camera = Camera::start("dock", server.url(), Decode::Gpu, Reader::Cpu);
    let frame = camera.frame();
    assert_eq!(kind(&frame), ("host", PixelFormat::Nv12));
    println!("decode: nvh264sldec gave picture {} in ordinary memory", number_of(&frame));
    let camera = Camera::start("other", server.url(), Decode::Auto, Reader::Cpu);
    assert_eq!(kind(&camera.frame()), ("host", PixelFormat::I420));
}

#[test]
#[ignore = "needs the test doubles; `a_gpu_with_too_many_streams_loses_no_camera` runs it with them"]
fn two_cameras_and_one_session() {
    if !registered("nvh264sldec") {
        return;
    }
    let server = serve(&dock());
    let first = Camera::start("first", server.url(), Decode::Auto, Reader::Gpu);
    assert_eq!(kind(&first.frame()).0, "GPU");
    let second = Camera::start("second", server.url(), Decode::Auto, Reader::Gpu);
    let health = second.wait("fault", |health| health.state == CameraState::Backoff);
    println!("decode: {}", health.detail);
    assert!(health.detail.contains("nvh264sldec; from now on the CPU decodes it"), "{}", health.detail);
    assert_eq!(kind(&second.frame()), ("host", PixelFormat::I420));
    let health = second.wait("live", |health| health.state == CameraState::Live);
    assert_eq!(health.connects, 1);
    // The first one keeps its decoder.
    let health = first.wait("live", |health| health.state == CameraState::Live);
    assert_eq!((kind(&first.frame()).0, health.connects), ("GPU", 1));
}

#[test]
#[ignore = "needs the test doubles; `a_decoder_that_breaks_is_left_for_the_cpu` runs it with them"]
fn a_decoder_that_stops_giving_pictures() {
    if !registered("nvh264sldec") {
        return;
    }
    let server = serve(&dock());
    let camera = Camera::start("dock", server.url(), Decode::Auto, Reader::Gpu);
    assert_eq!(kind(&camera.frame()).0, "GPU");
    let health = camera.wait("fault", |health| health.state == CameraState::Backoff);
    println!("decode: {}", health.detail);
    assert!(health.detail.contains("nvh264sldec; from now on the CPU decodes it"), "{}", health.detail);
    camera.wait("live", |health| health.state == CameraState::Live && health.connects == 2);
    let frame = wait_for("frame of the CPU", SOON, || {
        camera
            .slots
            .take(Batching::up_to(1), Duration::from_millis(100))
            .pop()
            .filter(|frame| kind(frame) == ("host", PixelFormat::I420))
    });
    println!("decode: the CPU went on with frame {}", frame.seq);
}

#[test]
#[ignore = "needs the test doubles; `nothing_that_was_predicted_from_a_lost_picture_is_shown` runs it with them"]
fn a_stream_with_losses() {
    if !registered("cudaupload") {
        return;
    }
    uploader::register("nvh265dec", "avdec_h265");
    let file = data("h265/dock-320x180.mp4");
    // One RTP packet in twelve does not arrive.
    let line = format!(
        "( filesrc location={} ! qtdemux ! h265parse config-interval=-1 ! rtph265pay pt=96 ! \
         identity name=pay0 drop-probability=0.08 )",
        file.display()
    );
    let Some(server) = LaunchServer::start(&line, &["rtph265pay"]) else { return };
    let camera = Camera::start("dock", &server.url, Decode::Auto, Reader::Gpu);
    let clip: Vec<Vec<Vec<u8>>> =
        Clip::open(&file, camera.id.clone()).unwrap().map(|frame| samples(&frame.unwrap())).collect();
    let mut numbers: Vec<usize> = vec![];
    // The clip is played again for each connection.
    while numbers.len() < 40 {
        let frame = camera.frame();
        assert_eq!(kind(&frame).0, "GPU");
        let picture = samples(&frame);
        numbers.push(clip.iter().position(|other| *other == picture).expect("a whole frame of the clip"));
    }
    let lost = numbers.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
    println!("decode: {} frames, whole, beside {lost} gaps: {numbers:?}", numbers.len());
    assert!(lost > 0);
}

//! RTSP servers and links to test against.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gstreamer_rtsp_server::glib;
use gstreamer_rtsp_server::prelude::*;
use standoff::cli::demo_rtsp::{RtspServer, RtspServerOptions};
use standoff::clock;

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The dock clip (H.264, 640 x 360, 10 fps, 30 s), again and again.
pub fn dock() -> RtspServerOptions {
    RtspServerOptions::new(data("dock-demo/video.mp4"))
}

/// Starts a server.
pub fn serve(options: &RtspServerOptions) -> RtspServer {
    RtspServer::start(options).unwrap_or_else(|e| panic!("{e}"))
}

/// Asks `get` every 5 ms until it answers; panics with `what` at the deadline.
pub fn wait_for<T>(what: &str, deadline: Duration, mut get: impl FnMut() -> Option<T>) -> T {
    let start = clock::monotonic();
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(clock::monotonic().since(start) < deadline, "no {what} within {deadline:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Says why a test does nothing, in the form that CI counts.
pub fn skip(why: &str) {
    println!("SKIP: {why}");
}

/// Server of a GStreamer launch line (its payloader is `pay0`) at `/camera`, for streams that the demo's
/// server does not make.
pub struct LaunchServer {
    server: gstreamer_rtsp_server::RTSPServer,
    main_loop: glib::MainLoop,
    thread: Option<std::thread::JoinHandle<()>>,
    media: Arc<Mutex<Option<gstreamer::Bin>>>,
    pub url: String,
}

impl LaunchServer {
    /// Starts it; none when an element of the line is not installed.
    pub fn start(line: &str, elements: &[&str]) -> Option<Self> {
        standoff::ingest::gst_log::init().unwrap();
        for element in elements {
            if gstreamer::ElementFactory::find(element).is_none() {
                skip(&format!("GStreamer's {element} is not installed"));
                return None;
            }
        }
        let server = gstreamer_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service("0");
        let factory = gstreamer_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(line);
        factory.set_shared(true);
        let media = Arc::new(Mutex::new(None));
        factory.connect_media_configure({
            let media = media.clone();
            move |_, configured| {
                *media.lock().unwrap() = configured.element().downcast::<gstreamer::Bin>().ok()
            }
        });
        server.mount_points().unwrap().add_factory("/camera", factory);
        let context = glib::MainContext::new();
        server.attach(Some(&context)).unwrap();
        let url = format!("rtsp://127.0.0.1:{}/camera", server.bound_port());
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let thread = std::thread::spawn({
            let main_loop = main_loop.clone();
            move || context.with_thread_default(|| main_loop.run()).unwrap()
        });
        Some(Self { server, main_loop, thread: Some(thread), media, url })
    }

    /// Changes the size of the pictures in mid-stream: the line's capsfilter is named `size`.
    pub fn switch_size(&self, width: i32, height: i32) {
        let media = self.media.lock().unwrap().clone().expect("somebody watches");
        let caps = format!("video/x-raw,width={width},height={height},framerate=10/1");
        media.by_name("size").unwrap().set_property_from_str("caps", &caps);
    }
}

impl Drop for LaunchServer {
    fn drop(&mut self) {
        for client in self.server.client_filter(None) {
            client.close();
        }
        self.main_loop.quit();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[derive(Default)]
struct Link {
    /// To the client, to the server.
    paused: Mutex<[bool; 2]>,
    changed: Condvar,
    closed: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

/// A TCP link to a server on this machine that can stall (both peers alive, no data) and break.
pub struct Proxy {
    link: Arc<Link>,
    port: u16,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = Arc::new(Link::default());
        std::thread::spawn({
            let link = link.clone();
            move || {
                for client in listener.incoming() {
                    let Ok(client) = client else { return };
                    if link.closed.load(Ordering::SeqCst) {
                        return;
                    }
                    forward(&link, client, target);
                }
            }
        });
        Self { link, port }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops forwarding: peers stay connected, new connections are taken, nothing comes through.
    pub fn pause(&self) {
        *self.link.paused.lock().unwrap() = [true; 2];
    }

    /// Stops forwarding to the client only: it can talk, and hears nothing.
    pub fn stall(&self) {
        *self.link.paused.lock().unwrap() = [true, false];
    }

    /// Goes on; what piled up comes through at once.
    pub fn resume(&self) {
        *self.link.paused.lock().unwrap() = [false; 2];
        self.link.changed.notify_all();
    }

    /// Breaks all connections; new ones are taken.
    pub fn cut(&self) {
        for socket in self.link.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.closed.store(true, Ordering::SeqCst);
        self.resume();
        self.cut();
        // Wakes the listener, so that it sees that it is closed.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn forward(link: &Arc<Link>, client: TcpStream, target: u16) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let clone = |socket: &TcpStream| socket.try_clone().unwrap();
    link.sockets.lock().unwrap().extend([clone(&client), clone(&server)]);
    for (way, mut from, mut to) in [(1, clone(&client), clone(&server)), (0, server, client)] {
        let link = link.clone();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            loop {
                let count = from.read(&mut bytes).unwrap_or(0);
                let paused = link.paused.lock().unwrap();
                drop(link.changed.wait_while(paused, |paused| paused[way]).unwrap());
                if count == 0 || to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}

/// The RTSP server of `aio-rtsp-toolkit`: one that nobody here wrote. Killed when dropped.
pub struct AioServer {
    process: Child,
    port: u16,
}

impl AioServer {
    /// Publishes the files of a folder. None, with a skip, unless the variable `STANDOFF_AIO_RTSP_PYTHON` names a
    /// Python that has the packages `aio-rtsp-toolkit` and `av`.
    pub fn start(dir: &Path) -> Option<Self> {
        let Ok(python) = std::env::var("STANDOFF_AIO_RTSP_PYTHON") else {
            skip("STANDOFF_AIO_RTSP_PYTHON names no Python with aio-rtsp-toolkit and av");
            return None;
        };
        let port = free_port();
        let code = "import asyncio, sys, aio_rtsp_toolkit.server as s; \
                    asyncio.run(s.serve(sys.argv[1], '127.0.0.1', int(sys.argv[2]), control_port=int(sys.argv[3])))";
        let process = Command::new(python)
            .args(["-c", code])
            .arg(dir)
            .args([port.to_string(), free_port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { process, port })
    }

    /// The address of a file.
    pub fn url(&self, file: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{file}", self.port)
    }
}

impl Drop for AioServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

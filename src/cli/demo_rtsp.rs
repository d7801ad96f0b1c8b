//! A camera for the demo and the tests: an RTSP server on 127.0.0.1 that plays an mp4 as if it were live. The
//! video is passed through, not encoded again. One thread runs the server, one feeds each playing.
//! Nothing of the daemon may use this.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::gio;
use gstreamer_rtsp_server::glib;
use gstreamer_rtsp_server::prelude::*;

use crate::clock::{self, Timestamp};
use crate::ingest::flag::Flag;
use crate::ingest::gst_log;
use crate::types::Secret;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum RtspServerError {
    /// GStreamer does not start.
    #[error("GStreamer does not start: {0}")]
    Gstreamer(String),
    /// The clip cannot be played.
    #[error("'{}' cannot be played: {problem}", path.display())]
    Clip {
        /// The clip.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The port is taken.
    #[error("the RTSP server cannot listen on 127.0.0.1:{port}: {problem}")]
    Listen {
        /// The port that was asked for; 0 is any.
        port: u16,
        /// What is wrong.
        problem: String,
    },
    /// The certificate is not usable.
    #[error("the RTSP server's certificate is not usable: {0}")]
    Certificate(String),
}

/// What the server plays, and to whom.
#[derive(Debug, Clone)]
pub struct RtspServerOptions {
    /// An mp4 with H.264 or H.265.
    pub clip: PathBuf,
    /// The path of the address, with its slash.
    pub mount: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// User name and password that are asked for.
    pub user: Option<(String, Secret)>,
    /// Certificate and key (PEM, in one file): makes it rtsps.
    pub certificate: Option<PathBuf>,
    /// Begin again at the end; otherwise the stream ends there.
    pub repeat: bool,
    /// Play from the key frame at or before this time of the clip.
    pub from: Duration,
    /// Play only what is before this time of the clip.
    pub until: Option<Duration>,
}

impl RtspServerOptions {
    /// The whole clip, again and again, to anybody, at `/camera` on a free port.
    pub fn new(clip: impl Into<PathBuf>) -> Self {
        Self {
            clip: clip.into(),
            mount: "/camera".to_owned(),
            port: 0,
            user: None,
            certificate: None,
            repeat: true,
            from: Duration::ZERO,
            until: None,
        }
    }
}

/// The encoded pictures that are played.
#[derive(Debug)]
struct Reel {
    caps: gst::Caps,
    elements: &'static str,
    /// Buffers with their presentation and decoding time since the first one's presentation.
    units: Vec<(gst::Buffer, Duration, Duration)>,
    /// Time of the first unit in the clip.
    from: Duration,
    length: Duration,
}

/// When playings of the reel began: first pictures' times on the monotonic clock.
type Starts = Arc<Mutex<Vec<Timestamp>>>;

/// A running server. Stops when dropped.
#[derive(Debug)]
pub struct RtspServer {
    server: gst_rtsp_server::RTSPServer,
    context: glib::MainContext,
    main_loop: glib::MainLoop,
    source: glib::SourceId,
    thread: Option<JoinHandle<()>>,
    stop: Arc<Flag>,
    feeders: Arc<Mutex<Vec<JoinHandle<()>>>>,
    starts: Starts,
    reel: Arc<Reel>,
    repeat: bool,
    url: String,
    port: u16,
}

impl RtspServer {
    /// Reads the clip and listens. The clip begins with the first viewer.
    pub fn start(options: &RtspServerOptions) -> Result<Self, RtspServerError> {
        gst_log::init().map_err(RtspServerError::Gstreamer)?;
        let reel = Arc::new(Reel::read(&options.clip, options.from, options.until)?);
        let listen =
            |problem: &str| RtspServerError::Listen { port: options.port, problem: problem.to_owned() };
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service(&options.port.to_string());
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(reel.elements);
        factory.set_shared(true);
        factory.set_latency(0);
        authenticate(&server, &factory, options)?;
        let (stop, starts) = (Arc::new(Flag::default()), Starts::default());
        let feeders = Arc::new(Mutex::new(Vec::new()));
        factory.connect_media_configure({
            let (stop, starts, reel, feeders, repeat) =
                (stop.clone(), starts.clone(), reel.clone(), feeders.clone(), options.repeat);
            move |_, media| {
                let Some(source) =
                    media.element().downcast_ref::<gst::Bin>().and_then(|bin| bin.by_name("video"))
                else {
                    return;
                };
                let Ok(source) = source.downcast::<gst_app::AppSrc>() else { return };
                source.set_caps(Some(&reel.caps));
                let over = Arc::new(Flag::default());
                media.connect_unprepared({
                    let over = over.clone();
                    move |_| over.raise()
                });
                let (stop, starts, reel) = (stop.clone(), starts.clone(), reel.clone());
                let feeder = std::thread::Builder::new()
                    .name("demo-camera".to_owned())
                    .spawn(move || feed(&source, &reel, repeat, &stop, &over, &starts));
                if let Ok(feeder) = feeder {
                    feeders.lock().unwrap_or_else(PoisonError::into_inner).push(feeder);
                }
            }
        });
        let mounts = server.mount_points().ok_or_else(|| listen("no mount points"))?;
        mounts.add_factory(&options.mount, factory);
        let context = glib::MainContext::new();
        let source = server.attach(Some(&context)).map_err(|_| listen("is the port taken?"))?;
        let port = u16::try_from(server.bound_port()).map_err(|_| listen("it is not bound"))?;
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let thread = std::thread::Builder::new()
            .name("demo-rtsp".to_owned())
            .spawn({
                let (context, main_loop) = (context.clone(), main_loop.clone());
                move || {
                    // Only this thread runs the context, so it cannot fail to become its own.
                    let _ = context.with_thread_default(|| main_loop.run());
                }
            })
            .map_err(|e| listen(&e.to_string()))?;
        let scheme = if options.certificate.is_some() { "rtsps" } else { "rtsp" };
        let url = format!("{scheme}://127.0.0.1:{port}{}", options.mount);
        let repeat = options.repeat;
        let thread = Some(thread);
        Ok(Self {
            server,
            context,
            main_loop,
            source,
            thread,
            stop,
            feeders,
            starts,
            reel,
            repeat,
            url,
            port,
        })
    }

    /// The address, without user name and password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Which time of the clip a picture taken at `captured` shows; none before the first viewer came.
    pub fn clip_time(&self, captured: Timestamp) -> Option<Duration> {
        let starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let start = starts.iter().rev().find(|start| **start <= captured)?;
        let played = captured.since(*start);
        let within = match self.repeat {
            true => Duration::from_secs_f64(played.as_secs_f64() % self.reel.length.as_secs_f64()),
            false => played.min(self.reel.length),
        };
        Some(self.reel.from + within)
    }

    /// Closes all connections, as if the process was killed, and frees the port.
    pub fn stop(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.raise();
        if let Some(source) = self.context.find_source_by_id(&self.source) {
            source.destroy();
        }
        for client in self.server.client_filter(None) {
            client.close();
        }
        self.main_loop.quit();
        let feeders = std::mem::take(&mut *self.feeders.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in feeders.into_iter().chain([thread]) {
            if thread.join().is_err() {
                tracing::error!("a thread of the demo's RTSP server had panicked");
            }
        }
    }
}

impl Drop for RtspServer {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Reel {
    fn read(path: &Path, from: Duration, until: Option<Duration>) -> Result<Self, RtspServerError> {
        let fault = |problem: String| RtspServerError::Clip { path: path.to_owned(), problem };
        if !path.is_file() {
            return Err(fault("there is no such file".to_owned()));
        }
        let pipeline = gst::parse::launch("filesrc name=file ! qtdemux ! appsink name=out sync=false")
            .map_err(|e| fault(e.to_string()))?
            .downcast::<gst::Pipeline>()
            .map_err(|_| fault("no pipeline".to_owned()))?;
        let element = |name: &str| pipeline.by_name(name).ok_or_else(|| fault(format!("no element {name}")));
        element("file")?.set_property("location", path);
        let sink =
            element("out")?.downcast::<gst_app::AppSink>().map_err(|_| fault("no appsink".to_owned()))?;
        // An error shows as an early end.
        let _ = pipeline.set_state(gst::State::Playing);
        let mut caps = None;
        let mut units = Vec::new();
        while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(10)) {
            let (Some(buffer), Some(pts)) = (sample.buffer_owned(), sample.buffer().and_then(|b| b.pts()))
            else {
                continue;
            };
            let dts = buffer.dts().unwrap_or(pts);
            caps = sample.caps_owned().or(caps);
            units.push((buffer, Duration::from_nanos(pts.nseconds()), Duration::from_nanos(dts.nseconds())));
        }
        let _ = pipeline.set_state(gst::State::Null);
        let caps = caps.ok_or_else(|| fault("it holds no video".to_owned()))?;
        let elements = match caps.structure(0).map(|s| s.name().as_str()) {
            Some("video/x-h264") => {
                "( appsrc name=video is-live=true format=time max-bytes=0 ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
            }
            Some("video/x-h265") => {
                "( appsrc name=video is-live=true format=time max-bytes=0 ! h265parse ! rtph265pay name=pay0 pt=96 config-interval=-1 )"
            }
            _ => return Err(fault("its codec is neither H.264 nor H.265".to_owned())),
        };
        let is_key = |buffer: &gst::Buffer| !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let interval = match (units.first(), units.last()) {
            (Some(first), Some(last)) if units.len() > 1 => {
                (last.2 - first.2) / u32::try_from(units.len() - 1).unwrap_or(1)
            }
            _ => Duration::from_millis(100),
        };
        let zero = units.first().map_or(Duration::ZERO, |unit| unit.1);
        let begin =
            units.iter().rposition(|(buffer, pts, _)| is_key(buffer) && *pts - zero <= from).unwrap_or(0);
        units.drain(..begin);
        units.retain(|(_, pts, _)| until.is_none_or(|until| pts.saturating_sub(zero) < until));
        let first = units
            .first()
            .map(|unit| unit.1)
            .ok_or_else(|| fault("nothing of it is to be played".to_owned()))?;
        for (_, pts, dts) in &mut units {
            (*pts, *dts) = (pts.saturating_sub(first), dts.saturating_sub(first));
        }
        let length = units.iter().map(|unit| unit.1).max().unwrap_or_default() + interval;
        Ok(Self { caps, elements, units, from: first - zero, length })
    }
}

fn authenticate(
    server: &gst_rtsp_server::RTSPServer,
    factory: &gst_rtsp_server::RTSPMediaFactory,
    options: &RtspServerOptions,
) -> Result<(), RtspServerError> {
    if options.user.is_none() && options.certificate.is_none() {
        return Ok(());
    }
    let auth = gst_rtsp_server::RTSPAuth::new();
    if let Some(file) = &options.certificate {
        let certificate = gio::TlsCertificate::from_file(file)
            .map_err(|e| RtspServerError::Certificate(e.message().to_owned()))?;
        auth.set_tls_certificate(Some(&certificate));
    }
    let role = gst::Structure::builder("viewer")
        .field(gst_rtsp_server::RTSP_PERM_MEDIA_FACTORY_ACCESS, true)
        .field(gst_rtsp_server::RTSP_PERM_MEDIA_FACTORY_CONSTRUCT, true)
        .build();
    factory.add_role_from_structure(&role);
    let mut token = gst_rtsp_server::RTSPToken::builder()
        .field(gst_rtsp_server::RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
        .build();
    match &options.user {
        Some((user, password)) => {
            let basic = gst_rtsp_server::RTSPAuth::make_basic(user, password.reveal());
            auth.add_basic(&basic, &token);
        }
        None => auth.set_default_token(Some(&mut token)),
    }
    server.set_auth(Some(&auth));
    Ok(())
}

/// Pushes the pictures at their own pace until the server or the playing ends.
fn feed(source: &gst_app::AppSrc, reel: &Reel, repeat: bool, stop: &Flag, over: &Flag, starts: &Starts) {
    // The time of the pipeline runs once it plays.
    let running_time = loop {
        if let Some(time) =
            source.current_running_time().filter(|_| source.current_state() == gst::State::Playing)
        {
            break time;
        }
        if over.is_raised() || stop.wait(Duration::from_millis(2)) {
            return;
        }
    };
    let mut start = clock::monotonic();
    let mut stream_start = Duration::from_nanos(running_time.nseconds());
    starts.lock().unwrap_or_else(PoisonError::into_inner).push(start);
    loop {
        for (unit, pts, dts) in &reel.units {
            if stop.wait((start + *dts).since(clock::monotonic())) || over.is_raised() {
                return;
            }
            let mut buffer = unit.copy();
            let Some(timed) = buffer.get_mut() else { return };
            timed.set_pts(clock_time(stream_start + *pts));
            timed.set_dts(clock_time(stream_start + *dts));
            if source.push_buffer(buffer).is_err() {
                return;
            }
        }
        if !repeat {
            if !stop.wait((start + reel.length).since(clock::monotonic())) {
                // Fails only when nobody is there any more.
                let _ = source.end_of_stream();
            }
            return;
        }
        start = start + reel.length;
        stream_start += reel.length;
    }
}

fn clock_time(duration: Duration) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1))
}

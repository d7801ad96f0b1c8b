//! The inference thread: owns the backend and assembles its batches. It holds no lock while it infers, and
//! when the analysis is slow it waits: the slots go on taking the newest frames.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::{Backend, BackendError};
use crate::clock::{self, Timestamp};
use crate::heads::{self, Head, HeadError, closer};
use crate::heartbeat::Pulse;
use crate::slot::{Batching, Slots};
use crate::types::{Batch, CameraId, ClassName, Features, Part, Reason, Scene, Seen};

/// How long the thread waits for a frame before it looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often a failing backend is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Closer looks at the frame, and at what these leave open.
const ROUNDS: usize = 2;

/// Takes closer looks at what is small in the pictures: parts of them go through the backbone again, larger.
pub struct Closer {
    scouts: Vec<Box<dyn Head>>,
    most: usize,
}

impl Closer {
    /// At most `most` looks a frame.
    ///
    /// # Errors
    /// As [`heads::shipped::heads`].
    pub fn new(most: usize) -> Result<Self, HeadError> {
        let classes = ["forklift", "person"].map(ClassName::new).into_iter().flatten().collect::<Vec<_>>();
        Ok(Self { scouts: heads::shipped::scouts(&classes)?, most })
    }

    /// Looks closer at each frame's things, `looks` times a frame and never more often than [`Closer::new`] allows.
    ///
    /// # Errors
    /// As the backend. The features stay as they were.
    pub fn look(
        &mut self,
        backend: &mut dyn Backend,
        features: &mut [Features],
        looks: usize,
    ) -> Result<(), BackendError> {
        let most = self.most.min(looks);
        if most == 0 {
            return Ok(());
        }
        // What is suspected in a closer look is looked at once more, closer still: half hidden persons.
        let mut looked: Vec<Vec<Part>> = vec![vec![]; features.len()];
        for _ in 0..ROUNDS {
            let mut wanted = vec![];
            for (owner, features) in features.iter().enumerate() {
                let left = most - looked[owner].len();
                let Some(scene) = self.scout(features).filter(|_| left > 0) else { continue };
                let parts = closer::parts(&scene, &looked[owner], left).into_iter();
                wanted.extend(parts.filter_map(|part| Some((owner, part, features.frame.part(part)?))));
            }
            if wanted.is_empty() {
                break;
            }
            for wanted in wanted.chunks(backend.spec().max_batch.max(1)) {
                let frames = wanted.iter().map(|(_, _, frame)| frame.clone()).collect();
                let seen = backend.infer(&Batch { frames })?;
                for ((owner, part, _), mut seen) in wanted.iter().zip(seen) {
                    let whole = &mut features[*owner];
                    seen.transform = seen.transform.within(*part, [whole.frame.width, whole.frame.height]);
                    seen.layers.clear();
                    whole.times.preprocess += seen.times.preprocess;
                    whole.times.backbone += seen.times.backbone;
                    whole.closer.push(seen);
                    looked[*owner].push(*part);
                }
            }
        }
        Ok(())
    }

    /// What may be in a frame: in all of it, or, once there are closer looks, in these. `None` when a head fails, which
    /// does so in the analysis too and is said there.
    fn scout(&mut self, features: &Features) -> Option<Scene> {
        let mut scene = heads::empty_scene(features);
        let seen = if features.closer.is_empty() { std::slice::from_ref(features) } else { &features.closer };
        for features in seen {
            let mut part = heads::empty_scene(features);
            self.scouts.iter_mut().try_for_each(|head| head.apply(features, &mut part)).ok()?;
            scene.things.append(&mut part.things);
        }
        Some(scene)
    }
}

/// Keeps closer looks from costing what is worth more: a fresh answer on every camera.
#[derive(Debug)]
struct Pace {
    /// How long a round over all cameras may take.
    patience: Duration,
    /// How long a picture takes, smoothed.
    cost: Option<Duration>,
    /// When each camera was last seen.
    cameras: BTreeMap<CameraId, Timestamp>,
}

/// A camera that was not seen for so long does not count.
const AWAY_AFTER: Duration = Duration::from_secs(5);

impl Pace {
    fn new(patience: Duration) -> Self {
        Self { patience, cost: None, cameras: BTreeMap::new() }
    }

    /// Notes that these pictures took `took`, and says how many closer looks each may have.
    fn looks(&mut self, features: &[Features], now: Timestamp, took: Duration) -> usize {
        for features in features {
            self.cameras.insert(features.frame.camera.clone(), now);
        }
        self.cameras.retain(|_, seen| now.since(*seen) < AWAY_AFTER);
        let each = took / u32::try_from(features.len().max(1)).unwrap_or(u32::MAX);
        // Quick to notice that the box has become slow, slow to believe that it is fast again.
        let cost = self.cost.map_or(each, |cost| cost.mul_f64(0.9) + each.mul_f64(0.1)).max(each);
        self.cost = Some(cost);
        let round = cost.as_secs_f64() * self.cameras.len().max(1) as f64;
        (self.patience.as_secs_f64() / round.max(1e-6)).floor().max(1.0) as usize - 1
    }
}

/// Starts the thread. It ends when `stop` is set, the receiver is gone or the backend is broken for good, and beats on
/// every wake-up. A frame waits up to `wait` for those of other cameras that are due, and closer looks are taken while a
/// round over all cameras stays within `patience`.
pub fn spawn(
    mut backend: Box<dyn Backend>,
    mut closer: Closer,
    slots: Arc<Slots>,
    [wait, patience]: [Duration; 2],
    seen: SyncSender<Vec<Seen>>,
    stop: Arc<AtomicBool>,
    pulse: Pulse,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("infer".into()).spawn(move || {
        let mut failures = Failures::default();
        let mut pace = Pace::new(patience);
        let batching = Batching { max: backend.spec().max_batch, wait };
        while !stop.load(Ordering::Relaxed) {
            pulse.beat(clock::monotonic());
            let frames = slots.take(batching, PATIENCE);
            if frames.is_empty() {
                continue;
            }
            let (answers, goes_on) =
                run_batch(backend.as_mut(), &mut closer, &mut pace, Batch { frames }, &mut failures);
            if seen.send(answers).is_err() || !goes_on {
                return;
            }
        }
    })
}

/// What became of each frame, and whether the backend can go on.
fn run_batch(
    backend: &mut dyn Backend,
    closer: &mut Closer,
    pace: &mut Pace,
    batch: Batch,
    failures: &mut Failures,
) -> (Vec<Seen>, bool) {
    let taken = clock::monotonic();
    let inferred = backend.infer(&batch).and_then(|mut features| {
        let now = clock::monotonic();
        let looks = pace.looks(&features, now, now.since(taken));
        // The frame counts without them, unless nothing works any more.
        match closer.look(backend, &mut features, looks) {
            Err(error @ BackendError::Broken(_)) => return Err(error),
            Err(error) => failures.report(taken, &error),
            Ok(()) => {}
        }
        Ok(features)
    });
    match inferred {
        Ok(features) => (seen(features, taken), true),
        Err(error) => {
            // The supervisor ends the process when this thread has ended; systemd starts a clean one.
            let broken = matches!(error, BackendError::Broken(_));
            if broken {
                tracing::error!(%error, "the backend is broken for good; only a new process helps");
            } else {
                failures.report(taken, &error);
            }
            let failed = |frame: crate::types::Frame| Seen::Failed {
                camera: frame.camera,
                captured: frame.captured,
                reason: Reason::BackendFailed,
            };
            (batch.frames.into_iter().map(failed).collect(), !broken)
        }
    }
}

fn seen(features: Vec<Features>, taken: Timestamp) -> Vec<Seen> {
    let seen = |mut features: Features| {
        let frame = &features.frame;
        tracing::trace!(camera = %frame.camera, seq = frame.seq, "inferred");
        features.times.ingest = frame.arrived.since(frame.captured);
        features.times.queue = taken.since(frame.arrived);
        Seen::Frame(Box::new(features))
    };
    features.into_iter().map(seen).collect()
}

/// Counts failures, so that a broken backend does not fill the log.
#[derive(Debug, Default)]
struct Failures {
    since_report: u64,
    reported: Option<Timestamp>,
}

impl Failures {
    fn report(&mut self, now: Timestamp, error: &dyn std::error::Error) {
        self.since_report += 1;
        if self.reported.is_none_or(|last| now.since(last) >= REPORT_EVERY) {
            tracing::error!(failures = self.since_report, %error, "the backend failed; what needs it is unknown, or less exact without a closer look");
            self.reported = Some(now);
            self.since_report = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};

    use super::*;
    use crate::backend::BackendSpec;
    use crate::clock::UtcMillis;
    use crate::heartbeat::{Heart, Part, Trouble};
    use crate::types::{CameraId, ChromaSiting, ColorMatrix, ColorRange, Frame, Grid, PixelFormat, Pixels};

    /// Fails with what it is told.
    struct Failing(BackendSpec, fn() -> BackendError);

    impl Backend for Failing {
        fn spec(&self) -> &BackendSpec {
            &self.0
        }

        fn infer(&mut self, _: &Batch) -> Result<Vec<Features>, BackendError> {
            Err(self.1())
        }
    }

    fn failing(error: fn() -> BackendError) -> Box<dyn Backend> {
        let grid = Grid { rows: 1, cols: 1, patch_px: 14 };
        let (name, heads) = ("failing".into(), vec![]);
        let (input_width, input_height) = (14, 14);
        let (dim, max_batch, reads_gpu) = (1, 4, false);
        let spec = BackendSpec { name, input_width, input_height, grid, dim, max_batch, heads, reads_gpu };
        Box::new(Failing(spec, error))
    }

    fn frame() -> Frame {
        Frame {
            camera: CameraId::new("a").unwrap(),
            seq: 7,
            captured: Timestamp::from_nanos(5),
            captured_utc: UtcMillis(0),
            arrived: Timestamp::from_nanos(6),
            width: 2,
            height: 2,
            pixels: Pixels::Host { format: PixelFormat::I420, data: bytes::Bytes::new(), planes: vec![] },
            matrix: ColorMatrix::Bt709,
            range: ColorRange::Limited,
            siting: ChromaSiting::MPEG2,
        }
    }

    #[test]
    fn a_failing_backend_is_said_frame_by_frame_and_the_thread_stops() {
        let slots = Arc::new(Slots::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(1);
        let heart = Arc::new(Heart::default());
        let pulse = heart.pulse(Part::Infer, Timestamp::from_nanos(1));
        let backend = failing(|| BackendError::Infer("out of memory".into()));
        let thread = spawn(
            backend,
            Closer::new(0).unwrap(),
            slots.clone(),
            [Duration::ZERO; 2],
            sender,
            stop.clone(),
            pulse,
        )
        .unwrap();
        slots.put(frame());
        let seen = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(
            matches!(&seen[..], [Seen::Failed { reason: Reason::BackendFailed, captured, .. }] if captured.as_nanos() == 5)
        );
        assert!(
            heart.silence(Part::Infer, clock::monotonic()).unwrap() < Duration::from_secs(60),
            "it beats"
        );
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn a_broken_backend_is_said_and_ends_the_thread() {
        let slots = Arc::new(Slots::default());
        let (sender, receiver) = sync_channel(1);
        let heart = Arc::new(Heart::default());
        let pulse = heart.pulse(Part::Infer, clock::monotonic());
        let backend = failing(|| BackendError::Broken("CUDA error 719".into()));
        let thread = spawn(
            backend,
            Closer::new(0).unwrap(),
            slots.clone(),
            [Duration::ZERO; 2],
            sender,
            Arc::default(),
            pulse,
        )
        .unwrap();
        slots.put(frame());
        let seen = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(&seen[..], [Seen::Failed { reason: Reason::BackendFailed, .. }]));
        let end = receiver.recv_timeout(Duration::from_secs(10)).unwrap_err();
        assert_eq!(end, RecvTimeoutError::Disconnected, "the analysis is told");
        thread.join().unwrap();
        let now = clock::monotonic();
        assert_eq!(heart.troubles(now, now), [Trouble::Ended(Part::Infer)], "and the supervisor");
    }
}

//! Newest-wins cells between threads: the latest frame and the latest health of each camera, and the
//! latest value of each outside topic. Writers never wait; what is overwritten unread is counted.

mod waiting;

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::waiting::Batching;

use self::waiting::Waiting;
use crate::clock;
use crate::metrics::METRICS;
use crate::types::{CameraHealth, CameraId, Frame};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here can panic while it holds a lock; were it to, the newest value is still the newest.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest frame of each camera, until the backend takes it.
#[derive(Debug, Default)]
pub struct Slots {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Slots {
    /// Puts a frame in its camera's place. A frame that was still there is dropped and counted.
    pub fn put(&self, frame: Frame) {
        let camera = frame.camera.clone();
        let replaced = lock(&self.waiting).put(frame);
        self.filled.notify_one();
        if replaced {
            METRICS.frames_dropped.of(&[&camera, &"replaced"]).inc();
        }
    }

    /// Takes a batch: at most one frame a camera, of the cameras that have waited longest, in the order of their
    /// capture. Waits up to `patience` for the first frame, then as [`Batching`] says for more; an empty answer means
    /// that none came.
    pub fn take(&self, batching: Batching, patience: Duration) -> Vec<Frame> {
        let waiting = lock(&self.waiting);
        let (mut waiting, _) = self
            .filled
            .wait_timeout_while(waiting, patience, |waiting| waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let start = clock::monotonic();
        let mut now = start;
        while let Some(until) = waiting.hold_until(now, batching) {
            (waiting, _) =
                self.filled.wait_timeout(waiting, until.since(now)).unwrap_or_else(PoisonError::into_inner);
            now = clock::monotonic();
        }
        let frames = waiting.take(batching.max);
        drop(waiting);
        if !frames.is_empty() {
            METRICS.batch_frames.observe(frames.len() as f64);
            METRICS.batch_wait.observe(now.since(start).as_secs_f64());
        }
        frames
    }

    /// How many of the camera's frames were replaced before the backend took them.
    pub fn dropped(&self, camera: &CameraId) -> u64 {
        lock(&self.waiting).dropped(camera)
    }

    /// Forgets a camera that was taken away.
    pub fn remove(&self, camera: &CameraId) {
        lock(&self.waiting).remove(camera);
    }
}

/// The newest health of each camera.
#[derive(Debug, Default)]
pub struct HealthBoard {
    cameras: Mutex<BTreeMap<CameraId, CameraHealth>>,
}

impl HealthBoard {
    /// Says how a camera is.
    pub fn set(&self, camera: &CameraId, health: CameraHealth) {
        lock(&self.cameras).insert(camera.clone(), health);
    }

    /// How the camera is, once it was said.
    pub fn get(&self, camera: &CameraId) -> Option<CameraHealth> {
        lock(&self.cameras).get(camera).cloned()
    }

    /// Forgets a camera that was taken away.
    pub fn remove(&self, camera: &CameraId) {
        lock(&self.cameras).remove(camera);
    }
}

/// The newest value of each outside topic that a `when:` condition reads.
#[derive(Debug, Default)]
pub struct InputBoard {
    values: Mutex<BTreeMap<String, String>>,
}

impl InputBoard {
    /// Notes what came on a topic.
    pub fn set(&self, topic: &str, value: &str) {
        lock(&self.values).insert(topic.to_owned(), value.to_owned());
    }

    /// Forgets all but the values of these topics.
    pub fn retain(&self, topics: &[String]) {
        lock(&self.values).retain(|topic, _| topics.contains(topic));
    }

    /// Forgets everything, when the source of the values is lost.
    pub fn clear(&self) {
        lock(&self.values).clear();
    }

    /// All values now.
    pub fn snapshot(&self) -> BTreeMap<String, String> {
        lock(&self.values).clone()
    }
}

/// One value that a writer replaces and one reader takes. Others can wait until the reader has dealt with it.
#[derive(Debug)]
pub struct Latest<T> {
    cell: Mutex<Value<T>>,
    filled: Condvar,
    settled: Condvar,
}

#[derive(Debug)]
struct Value<T> {
    value: Option<T>,
    /// How many values were put; the number of the last that was taken, and of the last that was dealt with.
    put: u64,
    taken: u64,
    settled: u64,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        let cell = Value { value: None, put: 0, taken: 0, settled: 0 };
        Self { cell: Mutex::new(cell), filled: Condvar::new(), settled: Condvar::new() }
    }
}

impl<T> Latest<T> {
    /// Puts a value. One that was not taken yet is overwritten.
    pub fn put(&self, value: T) {
        let mut cell = lock(&self.cell);
        cell.value = Some(value);
        cell.put += 1;
        self.filled.notify_one();
    }

    /// Takes the value; waits up to `patience` for one.
    pub fn take(&self, patience: Duration) -> Option<T> {
        let cell = lock(&self.cell);
        let (mut cell, _) = self
            .filled
            .wait_timeout_while(cell, patience, |cell| cell.value.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        cell.taken = cell.put;
        cell.value.take()
    }

    /// The reader has dealt with what it took last.
    pub fn settle(&self) {
        let mut cell = lock(&self.cell);
        cell.settled = cell.taken;
        self.settled.notify_all();
    }

    /// Waits up to `patience` until all that was put before this call has been dealt with; whether it was.
    pub fn wait_settled(&self, patience: Duration) -> bool {
        let cell = lock(&self.cell);
        let put = cell.put;
        let waited = self.settled.wait_timeout_while(cell, patience, |cell| cell.settled < put);
        waited.unwrap_or_else(PoisonError::into_inner).0.settled >= put
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Timestamp, UtcMillis};
    use crate::types::{ChromaSiting, ColorMatrix, ColorRange, PixelFormat, Pixels};

    pub(super) fn frame(camera: &str, seq: u64, captured: u64) -> Frame {
        Frame {
            camera: CameraId::new(camera).unwrap(),
            seq,
            captured: Timestamp::from_nanos(captured),
            captured_utc: UtcMillis(0),
            arrived: Timestamp::from_nanos(captured),
            width: 0,
            height: 0,
            pixels: Pixels::Host { format: PixelFormat::I420, data: bytes::Bytes::new(), planes: vec![] },
            matrix: ColorMatrix::Bt709,
            range: ColorRange::Limited,
            siting: ChromaSiting::MPEG2,
        }
    }

    #[test]
    fn a_value_is_settled_when_its_reader_says_so() {
        let latest = Latest::default();
        assert!(latest.wait_settled(Duration::ZERO), "there was none");
        latest.put(1);
        assert_eq!(latest.take(Duration::ZERO), Some(1));
        assert!(!latest.wait_settled(Duration::ZERO), "taken is not done");
        latest.put(2);
        latest.settle();
        assert!(!latest.wait_settled(Duration::ZERO), "only the first is done");
        assert_eq!(latest.take(Duration::ZERO), Some(2));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| latest.wait_settled(Duration::from_secs(20)));
            latest.settle();
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn newest_replaces_oldest_and_is_counted() {
        let slots = Slots::default();
        slots.put(frame("a", 0, 10));
        slots.put(frame("a", 1, 20));
        let taken = slots.take(Batching::up_to(4), Duration::ZERO);
        assert_eq!(taken.iter().map(|f| f.seq).collect::<Vec<_>>(), [1]);
        assert_eq!(slots.dropped(&CameraId::new("a").unwrap()), 1);
        assert!(slots.take(Batching::up_to(4), Duration::ZERO).is_empty());
    }

    #[test]
    fn who_waited_longest_goes_first_and_the_rest_stays() {
        let slots = Slots::default();
        slots.put(frame("a", 0, 30));
        slots.put(frame("b", 0, 10));
        slots.put(frame("c", 0, 20));
        slots.put(frame("a", 1, 40));
        let names = |frames: Vec<Frame>| frames.iter().map(|f| f.camera.to_string()).collect::<Vec<_>>();
        assert_eq!(
            names(slots.take(Batching::up_to(2), Duration::ZERO)),
            ["b", "a"],
            "in the order of capture"
        );
        assert_eq!(names(slots.take(Batching::up_to(2), Duration::ZERO)), ["c"]);
    }

    /// The second camera is due within the wait and comes: both go together, well before the wait is over.
    #[test]
    fn a_batch_starts_when_all_that_are_due_have_come() {
        let slots = std::sync::Arc::new(Slots::default());
        let now = clock::monotonic();
        let at = |camera, seq, ago_ms| {
            let arrived = now.minus(Duration::from_millis(ago_ms));
            Frame { arrived, ..frame(camera, seq, arrived.as_nanos()) }
        };
        let long = Batching { max: 4, wait: Duration::from_secs(20) };
        for (seq, ago_ms) in [(0, 30_000), (1, 15_000)] {
            slots.put(at("a", seq, ago_ms));
            slots.put(at("b", seq, ago_ms));
            assert_eq!(slots.take(long, Duration::ZERO).len(), 2);
        }
        slots.put(at("a", 2, 0));
        let reader = std::thread::spawn({
            let slots = slots.clone();
            move || slots.take(long, Duration::from_secs(10)).len()
        });
        slots.put(at("b", 2, 0));
        assert_eq!(reader.join().unwrap(), 2);
        assert!(clock::monotonic().since(now) < Duration::from_secs(10));
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let slots = std::sync::Arc::new(Slots::default());
        let reader = std::thread::spawn({
            let slots = slots.clone();
            move || slots.take(Batching::up_to(1), Duration::from_secs(10)).len()
        });
        slots.put(frame("a", 0, 1));
        assert_eq!(reader.join().unwrap(), 1);
    }
}

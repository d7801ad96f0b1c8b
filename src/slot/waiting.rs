//! Which frames wait, whose turn it is, and whether a batch should start now. Plain: time is an argument.
//!
//! While the model is busy frames gather by themselves, so a batch that is worth having comes without holding anything
//! back; holding back is for machines that would rather save power than a few milliseconds.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::types::{CameraId, Frame};

/// How batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Frames that the backend takes at most.
    pub max: usize,
    /// How long a frame may wait for those of other cameras.
    pub wait: Duration,
}

impl Batching {
    /// Up to `max` frames; nothing is held back.
    pub fn up_to(max: usize) -> Self {
        Self { max, wait: Duration::ZERO }
    }
}

/// A camera's place.
#[derive(Debug, Default)]
struct Place {
    frame: Option<Frame>,
    /// Since when a frame waits here, by number and by time. Frames that replace each other inherit it: a fast
    /// camera, whose newest frame is always young, would never be the oldest.
    turn: u64,
    since: Timestamp,
    /// When the last frame came, and how long after the one before.
    last: Option<Timestamp>,
    interval: Option<Duration>,
    dropped: u64,
}

impl Place {
    /// Whether a frame may be expected until `until`. A camera that has missed a whole interval is not waited for.
    fn is_due(&self, now: Timestamp, until: Timestamp) -> bool {
        let (None, Some(last), Some(interval)) = (&self.frame, self.last, self.interval) else {
            return false;
        };
        let due = last + interval;
        due <= until && now < due + interval
    }
}

/// The newest frame of each camera.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    places: BTreeMap<CameraId, Place>,
    turns: u64,
}

impl Waiting {
    /// Puts a frame, which came when it says. True when one was replaced.
    pub(super) fn put(&mut self, frame: Frame) -> bool {
        let place = self.places.entry(frame.camera.clone()).or_default();
        let came = frame.arrived;
        place.interval = place.last.map(|last| came.since(last)).or(place.interval);
        place.last = Some(came);
        let replaced = place.frame.replace(frame).is_some();
        if replaced {
            place.dropped += 1;
        } else {
            self.turns += 1;
            (place.turn, place.since) = (self.turns, came);
        }
        replaced
    }

    /// Whether no frame waits.
    pub(super) fn is_empty(&self) -> bool {
        self.places.values().all(|place| place.frame.is_none())
    }

    /// Until when the batch should be held back, unless more comes; none when it should start now: it is full, no
    /// other camera is due, or a frame has waited as long as it may.
    pub(super) fn hold_until(&self, now: Timestamp, batching: Batching) -> Option<Timestamp> {
        let waiting = || self.places.values().filter(|place| place.frame.is_some());
        let until = waiting().map(|place| place.since).min()? + batching.wait;
        let full = waiting().count() >= batching.max;
        let due = || self.places.values().any(|place| place.is_due(now, until));
        (!full && now < until && due()).then_some(until)
    }

    /// Takes up to `max` frames, of the cameras that have waited longest, in the order of their capture.
    pub(super) fn take(&mut self, max: usize) -> Vec<Frame> {
        let mut order: Vec<(u64, &mut Place)> = self
            .places
            .values_mut()
            .filter(|place| place.frame.is_some())
            .map(|place| (place.turn, place))
            .collect();
        order.sort_by_key(|(turn, _)| *turn);
        let mut frames: Vec<Frame> =
            order.into_iter().take(max).filter_map(|(_, place)| place.frame.take()).collect();
        frames.sort_by_key(|frame| frame.captured);
        frames
    }

    /// How many of the camera's frames were replaced.
    pub(super) fn dropped(&self, camera: &CameraId) -> u64 {
        self.places.get(camera).map_or(0, |place| place.dropped)
    }

    /// Forgets a camera.
    pub(super) fn remove(&mut self, camera: &CameraId) {
        self.places.remove(camera);
    }
}

#[cfg(test)]
mod tests;

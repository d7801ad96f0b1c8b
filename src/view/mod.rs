//! Whether a camera's picture can be believed: frozen, dark, washed out, blurred, covered, camera moved. Lost and stalled are
//! seen by `ingest`. Pure: no clock, no I/O; the analysis thread owns one [`View`] a camera and shows it every
//! analysed frame, about a millisecond of work whatever the picture's size (measured by tests/view_faults.rs).
//!
//! `cells` reduces the picture, `measure` says what it is like, `normal` what the view is like otherwise, `judge`
//! what is wrong with one picture, `drift` whether it is of another place, `vote` what is said. `profile` is what
//! commissioning measured.

mod cells;
mod drift;
mod judge;
mod measure;
mod normal;
mod profile;
#[cfg(test)]
mod test;
mod vote;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::types::{Frame, Monitor, Reason, Trust, ViewStatus};

use cells::Cells;
use drift::Lookout;
pub use drift::{Drift, MOVED_DEG, ROLLED_DEG, Turned, ZOOMED_PERCENT};
use measure::Measured;
use normal::Normal;
pub use profile::{Commission, Profile, ProfileError, Refusal};
use vote::{Look, Vote};

/// What of a frozen picture lives (its clock) is at most this share of the tiles.
const OVERLAY: f32 = 0.1;
/// A camera that is never stiller than this share of living tiles can be told from a frozen one.
const TELLS: f32 = 0.2;
/// However lively the camera is, more living tiles than this share are no frozen picture.
const LIVELY: f32 = 0.2;
/// Without commissioning the first good pictures are the view's normal: so many, and over so long.
const FIRST_PICTURES: (usize, Duration) = (10, Duration::from_secs(5));
/// Nothing is learned from a picture that has lost this share of its detail.
const LEARNS_BELOW: f32 = 0.3;

/// How a camera's view is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewSettings {
    /// False believes every picture.
    pub enabled: bool,
    /// How long a fault must be seen before it is said, and be gone before that is said.
    pub after: Duration,
}

impl Default for ViewSettings {
    fn default() -> Self {
        // So that `unknown` is said within 3 s also at three pictures a second with a key picture among them.
        Self { enabled: true, after: Duration::from_millis(1800) }
    }
}

/// Watches the view of one camera.
#[derive(Debug)]
pub struct View {
    settings: ViewSettings,
    profile: Option<Arc<Profile>>,
    /// Width and height that everything below belongs to.
    size: (u32, u32),
    newest: Option<Timestamp>,
    before: Option<Cells>,
    normal: Option<Normal>,
    /// Good pictures, until there is a normal.
    first: Vec<(Timestamp, Measured)>,
    /// Focal length of the lens in widths of the picture, when it is known.
    focal: Option<f32>,
    lookout: Lookout,
    /// How the camera was moved, as it was when that was said.
    drift: Option<Drift>,
    vote: Vote,
}

impl View {
    /// Of a camera, with what commissioning measured, if it did.
    pub fn new(settings: ViewSettings, profile: Option<Arc<Profile>>) -> Self {
        let vote = Vote::new(settings.after);
        Self {
            settings,
            profile,
            size: (0, 0),
            newest: None,
            before: None,
            normal: None,
            first: vec![],
            focal: None,
            lookout: Lookout::new(None, None),
            drift: None,
            vote,
        }
    }

    /// The same with a lens that is known: focal length in widths of the picture. By it a shift of the picture is
    /// told in degrees; without it a lens of 62 degrees is assumed.
    pub fn with_focal(mut self, focal: Option<f64>) -> Self {
        self.focal = focal.map(|focal| focal as f32);
        self
    }

    /// How the camera was moved, while that is what is wrong.
    pub fn drift(&self) -> Option<Drift> {
        self.drift
    }

    /// Takes a frame; what is not newer than the last one is ignored. Says whether the view counts as evidence.
    pub fn look(&mut self, frame: &Frame) -> Trust {
        if self.settings.enabled && self.newest.is_none_or(|newest| frame.captured > newest) {
            self.take(frame);
        }
        self.trust()
    }

    /// Whether the view counts as evidence.
    pub fn trust(&self) -> Trust {
        self.fault().map_or(Trust::Trusted, Trust::Untrusted)
    }

    /// What is wrong with the view.
    pub fn fault(&self) -> Option<Reason> {
        self.vote.fault()
    }

    /// What is watched, and what was found.
    pub fn status(&self) -> ViewStatus {
        let monitor = |on: bool| if on { Monitor::On } else { Monitor::NotMonitored };
        let detail = match &self.normal {
            _ if !self.settings.enabled => Monitor::NotMonitored,
            Some(normal) => monitor(normal.strong_tiles() >= normal::FEWEST),
            None => Monitor::Learning,
        };
        let moved = if self.settings.enabled { self.lookout.monitor() } else { Monitor::NotMonitored };
        ViewStatus { fault: self.fault(), frozen: monitor(self.frozen_below().is_some()), detail, moved }
    }

    fn take(&mut self, frame: &Frame) {
        let Some(cells) = Cells::of(frame) else { return };
        let step = self.newest.map_or(Duration::ZERO, |newest| frame.captured.since(newest));
        self.newest = Some(frame.captured);
        let size = (frame.width, frame.height);
        if self.size != size {
            self.size = size;
            self.first.clear();
            let profile = self.profile.as_ref().filter(|profile| profile.size() == size);
            self.normal = profile.map(|profile| profile.normal());
            self.lookout = Lookout::new(self.focal, profile.and_then(|profile| profile.scene()));
        }
        let measured = measure::measure(&cells, self.before.as_ref());
        let difference = self.normal.as_ref().and_then(|normal| normal.compare(&measured));
        let fault = judge::fault(&measured, difference.as_ref());
        // A camera that looks elsewhere may look at something with less detail: what is found again says more than
        // what is missing.
        let drift = self.lookout.look(frame.captured, &cells, fault.is_none());
        let drift = drift.filter(|drift| fault.is_none() || drift.turned.is_some());
        let fault = drift.map(|_| Reason::CameraMoved).or(fault);
        // What is uniform is dead too, but frozen is a word for pictures that show something.
        let dead = fault.is_none()
            && self.frozen_below().zip(measured.alive).is_some_and(|(below, alive)| alive < below);
        self.vote.add(Look { captured: frame.captured, fault, dead });
        if self.vote.fault() == Some(Reason::CameraMoved) {
            self.drift = self.drift.or(drift);
        } else {
            self.drift = None;
        }
        self.before = Some(cells);
        if self.vote.fault().is_none() && fault.is_none() {
            let lost = difference.map_or(0.0, |difference| difference.lost);
            self.learn(frame.captured, measured, step, lost);
        }
    }

    fn learn(&mut self, captured: Timestamp, measured: Measured, step: Duration, lost: f32) {
        if let Some(normal) = &mut self.normal {
            if lost < LEARNS_BELOW {
                normal.learn(&measured, step);
            }
            return;
        }
        // At a high rate not every picture: they are few, and spread over the time.
        let (count, time) = FIRST_PICTURES;
        let apart = time / u32::try_from(2 * count).unwrap_or(1);
        if self.first.last().is_some_and(|(last, _)| captured.since(*last) < apart) {
            return;
        }
        self.first.push((captured, measured));
        let long = self.first.first().is_some_and(|(first, _)| captured.since(*first) >= time);
        if long && self.first.len() >= count {
            let pictures: Vec<Measured> = self.first.drain(..).map(|(_, measured)| measured).collect();
            self.normal = normal::typical(&pictures);
        }
    }

    fn frozen_below(&self) -> Option<f32> {
        let profile = self.profile.as_ref().filter(|profile| profile.size() == self.size)?;
        profile.frozen_below().filter(|_| self.settings.enabled)
    }
}

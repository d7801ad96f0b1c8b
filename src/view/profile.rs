//! What commissioning measures of a camera: how still it gets while it lives, and what its view is like.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cells::Cells;
use super::drift::{self, Thumb};
use super::measure::{Measured, Tile, measure};
use super::normal::{self, Normal, typical};
use super::{LIVELY, OVERLAY, TELLS, judge};
use crate::clock::Timestamp;
use crate::types::{Frame, Reason};

/// Version of the file; another one is not read.
const VERSION: u32 = 1;
/// Pictures of which the typical one is made; more are thinned out.
const MOST_PICTURES: usize = 600;
/// Pictures of which the empty scene is made.
const MOST_THUMBS: usize = 32;
/// Stillness is remembered of so many pictures: ten minutes at 30 a second.
const MOST_LOOKS: usize = 18_000;
/// Commissioning needs so many pictures, over so long.
const FEWEST: (usize, Duration) = (30, Duration::from_secs(8));
/// Share of pictures that may be unusable.
const UNUSABLE: f32 = 0.1;
/// The share of tiles that live in four of five pictures of a window must stay below the limit for a frozen view.
const OF_WINDOW: f32 = 0.8;

/// What was measured of a camera's view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    v: u32,
    width: u32,
    height: u32,
    /// Pictures measured.
    pub pictures: usize,
    /// Over how long, seconds.
    pub seconds: f64,
    /// Share of tiles that live when the camera is at its stillest.
    pub stillest: f32,
    /// Brightness that 5, 50 and 95 % of the picture stay below, 0 to 1.
    pub brightness: [f32; 3],
    spread: f32,
    mean: Vec<f32>,
    contrast: Vec<f32>,
    detail: Vec<f32>,
    /// The scene without what passed, small: points across and down, and their brightness. Not in old files.
    #[serde(default)]
    scene: Option<(usize, usize, String)>,
}

/// Why a stored profile is not used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not such a file.
    #[error("it is not a view profile: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version, or its numbers do not fit together.
    #[error("it is of another version or damaged")]
    Damaged,
}

/// Why a view was not commissioned.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Not enough came.
    #[error(
        "only {pictures} pictures came, over {seconds:.0} s; at least 30 over 8 s are needed: is the camera live?"
    )]
    TooFew {
        /// Pictures that came.
        pictures: usize,
        /// Over how long, seconds.
        seconds: f64,
    },
    /// The pictures show a fault.
    #[error("the picture is {reason} ({share:.0} % of the time): commission it when it can be seen")]
    Unusable {
        /// The commonest fault.
        reason: Reason,
        /// Share of pictures, percent.
        share: f32,
    },
    /// Not one cell changed.
    #[error(
        "nothing at all moves in the picture, not even its noise: a frozen one could not be told from a still one. \
         Is it frozen now?"
    )]
    Frozen,
    /// The picture changed its size.
    #[error("the picture changes its size: set the stream to one size")]
    Sizes,
}

impl Profile {
    /// Reads what [`Profile::json`] wrote.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = serde_json::from_str(text)?;
        let tiles = profile.mean.len();
        let numbers = profile.mean.iter().chain(&profile.contrast).chain(&profile.detail);
        let sound = profile.v == VERSION
            && (1..=144).contains(&tiles)
            && (profile.contrast.len(), profile.detail.len()) == (tiles, tiles)
            && (0.0..=1.0).contains(&profile.stillest)
            && numbers.chain([&profile.spread]).all(|number| number.is_finite());
        if sound { Ok(profile) } else { Err(ProfileError::Damaged) }
    }

    /// As it is stored.
    pub fn json(&self) -> Result<String, ProfileError> {
        Ok(serde_json::to_string(self)?)
    }

    /// Width and height of the pictures that were measured. A stream of another size is another view.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Below which share of living tiles a picture counts as the one before; none where a frozen picture
    /// cannot be told from a still one. A third of the stillest: something large and smooth may park in the view.
    pub fn frozen_below(&self) -> Option<f32> {
        (self.stillest >= TELLS).then(|| (self.stillest / 3.0).clamp(OVERLAY, LIVELY))
    }

    /// Tiles with enough detail to be missed, and how many there must be for a covered or blurred view to be noticed.
    pub fn detail_tiles(&self) -> (usize, usize) {
        (self.normal().strong_tiles(), normal::FEWEST)
    }

    /// Whether a camera that is moved would be noticed.
    pub fn is_moved_noticed(&self) -> bool {
        self.scene().is_some_and(|scene| drift::is_watchable(&scene))
    }

    pub(super) fn scene(&self) -> Option<Thumb> {
        let (cols, rows, hex) = self.scene.as_ref()?;
        Thumb::from_hex(*cols, *rows, hex)
    }

    pub(super) fn normal(&self) -> Normal {
        let tiles = self.mean.iter().zip(&self.contrast).zip(&self.detail);
        let tile = |((mean, contrast), detail): ((&f32, &f32), &f32)| Tile {
            mean: *mean,
            contrast: *contrast,
            detail: *detail,
        };
        Normal::new(tiles.map(tile).collect(), self.spread)
    }
}

/// Measures a camera's view while it is known to be good.
#[derive(Debug)]
pub struct Commission {
    after: Duration,
    size: Option<(u32, u32)>,
    sizes: bool,
    count: usize,
    first: Option<Timestamp>,
    newest: Timestamp,
    before: Option<Cells>,
    /// Every `every`th picture.
    pictures: Vec<Measured>,
    every: usize,
    /// Every `thumb_every`th picture, small.
    thumbs: Vec<Thumb>,
    thumb_every: usize,
    alive: Vec<(Timestamp, f32)>,
    faults: Vec<Reason>,
}

impl Commission {
    /// `after`: the setting of the view that will be watched.
    pub fn new(after: Duration) -> Self {
        Self {
            after,
            size: None,
            sizes: false,
            count: 0,
            first: None,
            newest: Timestamp::default(),
            before: None,
            pictures: vec![],
            every: 1,
            thumbs: vec![],
            thumb_every: 1,
            alive: vec![],
            faults: vec![],
        }
    }

    /// Takes a frame, newer than all before.
    pub fn look(&mut self, frame: &Frame) {
        let Some(cells) = Cells::of(frame) else { return };
        self.sizes |= self.size.is_some_and(|size| size != (frame.width, frame.height));
        self.size = Some((frame.width, frame.height));
        self.first = self.first.or(Some(frame.captured));
        self.newest = frame.captured;
        let measured = measure(&cells, self.before.as_ref());
        if self.count.is_multiple_of(self.thumb_every) {
            if self.thumbs.len() >= MOST_THUMBS {
                thin_out(&mut self.thumbs);
                self.thumb_every *= 2;
            }
            self.thumbs.push(Thumb::of(&cells));
        }
        self.before = Some(cells);
        if let Some(alive) = measured.alive.filter(|_| self.alive.len() < MOST_LOOKS) {
            self.alive.push((frame.captured, alive));
        }
        if let Some(reason) = judge::fault(&measured, None).filter(|_| self.faults.len() < MOST_LOOKS) {
            self.faults.push(reason);
        }
        if self.count.is_multiple_of(self.every) {
            if self.pictures.len() >= MOST_PICTURES {
                thin_out(&mut self.pictures);
                self.every *= 2;
            }
            self.pictures.push(measured);
        }
        self.count += 1;
    }

    /// Pictures so far.
    pub fn pictures(&self) -> usize {
        self.count
    }

    /// What was measured, or why it is of no use.
    pub fn finish(self) -> Result<Profile, Refusal> {
        let seconds = self.first.map_or(Duration::ZERO, |first| self.newest.since(first));
        let too_few = Refusal::TooFew { pictures: self.count, seconds: seconds.as_secs_f64() };
        if self.count < FEWEST.0 || seconds < FEWEST.1 {
            return Err(too_few);
        }
        if self.sizes {
            return Err(Refusal::Sizes);
        }
        let share = self.faults.len() as f32 / self.count as f32;
        if share > UNUSABLE {
            let commonest = |reason: &&Reason| self.faults.iter().filter(|other| other == reason).count();
            let reason = self.faults.iter().max_by_key(commonest).copied().unwrap_or(Reason::Dark);
            return Err(Refusal::Unusable { reason, share: share * 100.0 });
        }
        if self.alive.iter().all(|(_, alive)| *alive == 0.0) {
            return Err(Refusal::Frozen);
        }
        let (Some((width, height)), Some(normal)) = (self.size, typical(&self.pictures)) else {
            return Err(too_few);
        };
        let (tiles, spread) = normal.parts();
        let of = |value: fn(&Tile) -> f32| tiles.iter().map(value).collect();
        let typical_of =
            |value: fn(&Measured) -> f32| normal::median(self.pictures.iter().map(value).collect());
        Ok(Profile {
            v: VERSION,
            width,
            height,
            pictures: self.count,
            seconds: seconds.as_secs_f64(),
            stillest: self.stillest(),
            brightness: [typical_of(|p| p.p5), typical_of(|p| p.p50), typical_of(|p| p.p95)],
            spread,
            mean: of(|tile| tile.mean),
            contrast: of(|tile| tile.contrast),
            detail: of(|tile| tile.detail),
            scene: Thumb::median(&self.thumbs).map(|thumb| (thumb.cols, thumb.rows, thumb.to_hex())),
        })
    }

    /// The least share of living tiles that four of five pictures of any window stayed below.
    fn stillest(&self) -> f32 {
        let mut stillest = 1.0f32;
        let mut begin = 0;
        for (end, (captured, _)) in self.alive.iter().enumerate() {
            while self.alive.get(begin + 1).is_some_and(|(next, _)| captured.since(*next) >= self.after) {
                begin += 1;
            }
            let window = self.alive.get(begin..=end).unwrap_or_default();
            let whole = window.first().is_some_and(|(first, _)| captured.since(*first) >= self.after);
            if whole && window.len() >= 3 {
                let mut shares: Vec<f32> = window.iter().map(|(_, alive)| *alive).collect();
                shares.sort_by(f32::total_cmp);
                let index = (shares.len() as f32 * OF_WINDOW).ceil() as usize;
                stillest = stillest.min(shares.get(index.saturating_sub(1)).copied().unwrap_or(0.0));
            }
        }
        stillest
    }
}

/// Keeps every second one.
fn thin_out<T>(list: &mut Vec<T>) {
    let mut keep = false;
    list.retain(|_| {
        keep = !keep;
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::super::test::{Noise, frame, grey};
    use super::super::{View, ViewSettings};
    use super::*;
    use crate::types::{Monitor, Trust};

    const AFTER: Duration = Duration::from_secs(2);

    fn texture(x: u32, y: u32) -> u8 {
        60 + ((x / 4 * 37 + y / 4 * 91) % 100) as u8
    }

    fn at(mut picture: Frame, ms: u64) -> Frame {
        picture.captured = Timestamp::from_nanos(ms * 1_000_000);
        picture
    }

    fn commissioned(make: impl Fn(u64) -> Frame) -> Result<Profile, Refusal> {
        let mut commission = Commission::new(AFTER);
        for ms in (0..10_000).step_by(100) {
            commission.look(&at(make(ms), ms));
        }
        commission.finish()
    }

    fn noisy(ms: u64) -> Frame {
        let mut picture = frame(160, 90, texture);
        Noise::new(ms + 1).add(&mut picture, 1.5);
        picture
    }

    #[test]
    fn what_cannot_be_commissioned_says_why() {
        assert!(matches!(Commission::new(AFTER).finish(), Err(Refusal::TooFew { pictures: 0, .. })));
        assert_eq!(commissioned(|_| frame(160, 90, texture)).unwrap_err(), Refusal::Frozen);
        let dark = commissioned(|_| grey(160, 90, 18)).unwrap_err();
        assert!(matches!(dark, Refusal::Unusable { reason: Reason::Dark, .. }), "{dark}");
        let sizes = commissioned(|ms| if ms < 5000 { noisy(ms) } else { frame(320, 180, texture) });
        assert_eq!(sizes.unwrap_err(), Refusal::Sizes);
    }

    #[test]
    fn a_profile_survives_its_file_and_a_damaged_one_is_refused() {
        let profile = commissioned(noisy).unwrap();
        assert!(profile.frozen_below().is_some() && profile.detail_tiles().0 > 6, "{profile:?}");
        let json = profile.json().unwrap();
        let again = Profile::parse(&json).unwrap();
        assert_eq!((again.size(), again.stillest), (profile.size(), profile.stillest));
        for damaged in
            [json.replace("\"v\":1", "\"v\":2"), json.replace("\"mean\":[", "\"mean\":[0.5,"), "{}".into()]
        {
            assert!(Profile::parse(&damaged).is_err());
        }
    }

    #[test]
    fn a_still_camera_is_commissioned_but_not_watched_for_freezing() {
        let blinks = |ms: u64| {
            frame(160, 90, |x, y| if x < 20 && y < 10 { (ms / 100 % 200) as u8 + 20 } else { texture(x, y) })
        };
        let profile = commissioned(blinks).unwrap();
        assert_eq!(profile.frozen_below(), None, "{}", profile.stillest);
    }

    #[test]
    fn only_a_commissioned_view_of_the_same_size_is_watched_for_freezing() {
        let profile = std::sync::Arc::new(commissioned(noisy).unwrap());
        for (profile, watched) in [(Some(profile), true), (None, false)] {
            let mut view = View::new(ViewSettings::default(), profile);
            for ms in (0..6000).step_by(100) {
                assert_eq!(view.look(&at(noisy(ms), ms)), Trust::Trusted, "{ms}");
            }
            assert_eq!(view.status().frozen == Monitor::On, watched);
            assert_eq!(view.status().detail, Monitor::On);
            for ms in (6000..9000).step_by(100) {
                view.look(&at(noisy(6000), ms));
            }
            assert_eq!(view.fault(), watched.then_some(Reason::Frozen));
            for ms in (9000..14_000).step_by(100) {
                view.look(&at(noisy(ms), ms));
            }
            assert_eq!(view.fault(), None);
            view.look(&at(frame(320, 180, texture), 15_000));
            assert_eq!(
                (view.status().frozen, view.status().detail),
                (Monitor::NotMonitored, Monitor::Learning)
            );
        }
    }
}

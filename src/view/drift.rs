//! Whether the camera still looks where it looked when its view was learned: landmarks of the empty scene are looked
//! for, and the turn and zoom that displaces them is fitted.
//!
//! Things that move hide landmarks, and agree on no turn with the rest; light does not move them. A quarter of the sure
//! landmarks where they were is enough to say that the camera was not moved. What slides along a long edge, or is
//! written into the picture, is in its place wherever the camera looks, so such landmarks are not sure.

mod landmarks;
mod thumb;
mod turn;

use std::time::Duration;

use super::cells::Cells;
use crate::clock::Timestamp;
use crate::types::Monitor;
use landmarks::{Found, Landmarks};
pub(super) use thumb::Thumb;
use turn::Turn;

/// A camera has moved when it is turned up, down or aside by more than this, degrees. Poles in the wind stay below: that of
/// a real parking lot sways for seconds by 0.9, if its lens is one of 70 degrees.
pub const MOVED_DEG: f32 = 1.2;
/// Or about its axis by more than this, degrees: the picture's sides move by a third of what the angle is.
pub const ROLLED_DEG: f32 = 1.5;
/// Or when it zooms by more than this, percent.
pub const ZOOMED_PERCENT: f32 = 3.0;
/// A view with fewer landmarks is not watched, and one with fewer sure ones does not count as monitored: a turn of a few
/// degrees would still be seen, one of many would not.
const FEWEST: usize = 8;
/// Of the sure ones so many must show anything at all, for what they show to be another scene.
const FEWEST_SEEN: usize = 4;
/// Share of the visible landmarks that must have moved by a turn.
const AGREE: f32 = 0.2;
/// And at least so many: two make a turn, the others bear it out.
const FEWEST_MOVED: f32 = 5.0;
/// And they must lie so far apart, as a share of the picture's width or height: what moves in one place is a thing.
const WIDE: f32 = 0.5;
/// Landmarks that are not in their place in this share of the pictures that they were learned from are none: they are
/// of something that passed.
const STEADY: f32 = 0.8;
/// For each sure landmark that is in its place and not where the turn would put it, so many must be the other way
/// round.
const OUTVOTED: usize = 2;
/// With less than this share of the sure ones in its place and no turn that explains it, the camera sees something else.
/// Of five real views turned by 12 degrees and more it was at most 0.17, and once 0.23; unturned at least 0.36.
const ELSEWHERE: f32 = 0.25;
/// Unless one half of the picture has this share in its place, of so many: a thing that parks hides one side.
const ASIDE: (f32, usize) = (0.3, 6);
/// And for so long: a lorry that passes close shows corners of its own for two seconds.
const ELSEWHERE_FOR: Duration = Duration::from_millis(1500);
/// Focal length in widths of the picture while the lens is not known: 62 degrees. Angles are then only about right.
const UNKNOWN_FOCAL: f32 = 0.83;
/// How often it is looked for. In between the last answer holds.
const EVERY: Duration = Duration::from_millis(300);
/// Without commissioning the scene is the median of so many good pictures, over so long.
const FIRST_PICTURES: (u32, Duration) = (10, Duration::from_secs(5));

/// A camera that was moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// By how much; none when what it sees now has nothing in common with what it saw.
    pub turned: Option<Turned>,
}

/// By how much, as the camera's own movement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turned {
    /// To the right, degrees.
    pub pan_deg: f32,
    /// Down, degrees.
    pub tilt_deg: f32,
    /// About its axis, clockwise as seen from behind it, degrees.
    pub roll_deg: f32,
    /// Things look larger by this much, percent.
    pub zoom_percent: f32,
}

impl Turned {
    fn is_much(&self) -> bool {
        self.pan_deg.hypot(self.tilt_deg) > MOVED_DEG
            || self.roll_deg.abs() > ROLLED_DEG
            || self.zoom_percent.abs() > ZOOMED_PERCENT
    }
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(Turned { pan_deg, tilt_deg, roll_deg, zoom_percent }) = self.turned else {
            return f.write_str("the camera sees another scene than when its view was learned");
        };
        write!(
            f,
            "the camera was moved: pan {pan_deg:+.1}, tilt {tilt_deg:+.1}, roll {roll_deg:+.1} degrees, zoom {zoom_percent:+.0} %"
        )
    }
}

/// Watches one camera for it.
#[derive(Debug)]
pub(super) struct Lookout {
    /// In widths of the picture.
    focal: f32,
    scene: Scene,
    searched: Option<Timestamp>,
    /// Since when it looks as if it saw another scene.
    elsewhere: Option<Timestamp>,
    drift: Option<Drift>,
}

#[derive(Debug)]
enum Scene {
    /// The first good pictures, until there are enough.
    Learning(Vec<(Timestamp, Thumb)>),
    Watched(Watch),
    /// It has too little in it that could be found again.
    Bare,
}

impl Scene {
    fn of(scene: &Thumb, pictures: &[Thumb]) -> Self {
        Watch::of(scene, pictures).map_or(Self::Bare, Self::Watched)
    }
}

impl Lookout {
    /// `focal`: focal length in widths of the picture, if the lens is known. `scene`: as it was commissioned.
    pub fn new(focal: Option<f32>, scene: Option<Thumb>) -> Self {
        let scene = scene.map_or(Scene::Learning(vec![]), |scene| Scene::of(&scene, &[]));
        Self { focal: focal.unwrap_or(UNKNOWN_FOCAL), scene, searched: None, elsewhere: None, drift: None }
    }

    /// Takes a picture. Nothing is learned from one that is not good.
    pub fn look(&mut self, captured: Timestamp, cells: &Cells, good: bool) -> Option<Drift> {
        match &mut self.scene {
            Scene::Bare => {}
            Scene::Learning(_) if !good => {}
            Scene::Learning(first) => {
                let (count, time) = FIRST_PICTURES;
                if first.last().is_none_or(|(last, _)| captured.since(*last) >= time / (2 * count)) {
                    first.push((captured, Thumb::of(cells)));
                }
                let long = first.first().is_some_and(|(begin, _)| captured.since(*begin) >= time);
                if long && first.len() >= count as usize {
                    let thumbs: Vec<Thumb> = first.drain(..).map(|(_, thumb)| thumb).collect();
                    self.scene =
                        Thumb::median(&thumbs).map_or(Scene::Bare, |scene| Scene::of(&scene, &thumbs));
                }
            }
            Scene::Watched(watch) => {
                if self.searched.is_none_or(|last| captured.since(last) >= EVERY) {
                    self.searched = Some(captured);
                    let drift = watch.look(&Thumb::of(cells), self.focal);
                    let elsewhere = drift.filter(|drift| drift.turned.is_none());
                    self.elsewhere = elsewhere.and(self.elsewhere.or(Some(captured)));
                    let lasts = |since: Timestamp| captured.since(since) >= ELSEWHERE_FOR;
                    self.drift = drift.filter(|_| self.elsewhere.is_none_or(lasts));
                }
            }
        }
        self.drift
    }

    /// Whether a camera that is moved would be noticed.
    pub fn monitor(&self) -> Monitor {
        match self.scene {
            Scene::Learning(_) => Monitor::Learning,
            Scene::Watched(ref watch) if watch.is_sure() => Monitor::On,
            Scene::Watched(_) | Scene::Bare => Monitor::NotMonitored,
        }
    }
}

/// Compares with one scene.
#[derive(Debug, Clone, PartialEq)]
struct Watch(Landmarks);

impl Watch {
    /// Of the empty scene, and pictures of it if there are some. None when it has too few landmarks.
    fn of(scene: &Thumb, pictures: &[Thumb]) -> Option<Self> {
        let mut landmarks = Landmarks::of(scene);
        landmarks.keep_steady(pictures, STEADY);
        (landmarks.len() >= FEWEST).then_some(Self(landmarks))
    }

    /// Whether a turn by any angle would be noticed.
    fn is_sure(&self) -> bool {
        self.0.sure() >= FEWEST
    }

    /// Whether the camera has moved. `focal`: focal length in widths of the picture.
    fn look(&self, picture: &Thumb, focal: f32) -> Option<Drift> {
        let Self(landmarks) = self;
        if (picture.cols, picture.rows) != (landmarks.cols, landmarks.rows) {
            return None;
        }
        let search = landmarks.search(picture);
        if search.visible < FEWEST {
            return None;
        }
        let focal = focal * landmarks.cols as f32;
        let still = Turn::default();
        if let Some(turn) = turn::best(&search.found, focal, |_| true) {
            let only = |found: &Found, one: &Turn, other: &Turn| {
                turn::agrees(found, one, focal) && !turn::agrees(found, other, focal)
            };
            let moved = search.found.iter().filter(|found| only(found, &turn, &still)).count();
            let stayed = search.found.iter().filter(|found| found.sure && only(found, &still, &turn)).count();
            let apart =
                [0, 1].map(|axis| extent(&search.found, axis, |found| turn::agrees(found, &turn, focal)));
            let is_wide =
                apart[0] >= WIDE * landmarks.cols as f32 || apart[1] >= WIDE * landmarks.rows as f32;
            let enough = (AGREE * search.visible as f32).max(FEWEST_MOVED);
            if moved as f32 >= enough && moved >= OUTVOTED * stayed && is_wide {
                return Some(turned(&turn))
                    .filter(Turned::is_much)
                    .map(|turned| Drift { turned: Some(turned) });
            }
        }
        let near = turn::best(&search.found, focal, |turn| !turned(turn).is_much()).unwrap_or(still);
        let is_in_place =
            |found: &Found| turn::agrees(found, &still, focal) || turn::agrees(found, &near, focal);
        let stays = |share: f32, fewest: usize, side: fn([f32; 2]) -> bool| {
            let visible = search.sure.iter().filter(|at| side(**at)).count();
            let found = search.found.iter().filter(|found| found.sure && side(found.at));
            let in_place = found.filter(|found| is_in_place(found)).count();
            visible >= fewest && in_place as f32 >= share * visible as f32
        };
        let halves: [fn([f32; 2]) -> bool; 4] =
            [|[x, _]| x < 0.0, |[x, _]| x >= 0.0, |[_, y]| y < 0.0, |[_, y]| y >= 0.0];
        let half_stays = || halves.into_iter().any(|half| stays(ASIDE.0, ASIDE.1, half));
        let elsewhere = self.is_sure()
            && search.sure.len() >= FEWEST_SEEN
            && !stays(ELSEWHERE, FEWEST_SEEN, |_| true)
            && !half_stays();
        elsewhere.then_some(Drift { turned: None })
    }
}

/// How far apart those landmarks lie that are asked for, along an axis.
fn extent(found: &[Found], axis: usize, is: impl Fn(&Found) -> bool) -> f32 {
    let places = || found.iter().filter(|found| is(found)).map(|found| found.at[axis]);
    places().fold(f32::MIN, f32::max) - places().fold(f32::MAX, f32::min)
}

/// What is seen goes the other way than the camera.
fn turned(turn: &Turn) -> Turned {
    let [pan, tilt, roll, zoom] = turn.parts;
    Turned {
        pan_deg: -pan.to_degrees(),
        tilt_deg: -tilt.to_degrees(),
        roll_deg: -roll.to_degrees(),
        zoom_percent: zoom * 100.0,
    }
}

/// Whether a scene has enough in it for a moved camera to be noticed.
pub(super) fn is_watchable(scene: &Thumb) -> bool {
    Watch::of(scene, &[]).is_some_and(|watch| watch.is_sure())
}

#[cfg(test)]
mod tests {
    use super::super::test::{Noise, frame};
    use super::super::{View, ViewSettings};
    use super::*;
    use crate::types::{Frame, HostPlanes, Reason};

    /// Blocks of many brightnesses, displaced, in another light.
    fn blocks(dx: i64, dy: i64, gain: f32) -> Frame {
        frame(320, 180, |x, y| {
            let (col, row) = ((i64::from(x) + 1000 - dx) / 17, (i64::from(y) + 1000 - dy) / 13);
            let code = 60 + (col * 7919 + row * 104_729 + col * row * 31).rem_euclid(120);
            (16.0 + (code as f32 - 16.0) * gain) as u8
        })
    }

    fn shown(view: &mut View, from_ms: u64, to_ms: u64, make: impl Fn() -> Frame) -> Option<u64> {
        for ms in (from_ms..to_ms).step_by(100) {
            let mut picture = make();
            Noise::new(ms).add(&mut picture, 1.5);
            picture.captured = Timestamp::from_nanos(ms * 1_000_000);
            view.look(&picture);
            if view.fault().is_some() {
                return Some(ms);
            }
        }
        None
    }

    #[test]
    fn a_picture_that_is_displaced_is_a_moved_camera() {
        // 320 pixels across with a lens of 62 degrees: one degree is 4.6 pixels in the middle.
        for (dx, dy, pan_deg, tilt_deg) in [(14, 0, -3.0, 0.0), (0, -14, 0.0, 3.0), (9, 9, -1.9, -1.9)] {
            let mut view = View::new(ViewSettings::default(), None);
            assert_eq!(view.status().moved, Monitor::Learning);
            assert_eq!(shown(&mut view, 0, 8000, || blocks(0, 0, 1.0)), None);
            assert_eq!(view.status().moved, Monitor::On);
            let said = shown(&mut view, 8000, 12_000, || blocks(dx, dy, 1.0)).unwrap();
            assert_eq!((view.fault(), said <= 10_300), (Some(Reason::CameraMoved), true), "{said}");
            let turned = view.drift().unwrap().turned.unwrap();
            assert!((turned.pan_deg - pan_deg).abs() < 0.4, "{turned:?}");
            assert!((turned.tilt_deg - tilt_deg).abs() < 0.4, "{turned:?}");
            // Back in its place it is believed again.
            for ms in (said..said + 5000).step_by(100) {
                let mut picture = blocks(0, 0, 1.0);
                picture.captured = Timestamp::from_nanos((ms + 100) * 1_000_000);
                view.look(&picture);
            }
            assert_eq!((view.fault(), view.drift()), (None, None));
        }
    }

    #[test]
    fn less_light_and_a_little_sway_are_none() {
        let mut view = View::new(ViewSettings::default(), None);
        assert_eq!(shown(&mut view, 0, 8000, || blocks(0, 0, 1.0)), None);
        assert_eq!(shown(&mut view, 8000, 12_000, || blocks(0, 0, 0.4)), None);
        assert_eq!(shown(&mut view, 12_000, 16_000, || blocks(1, -1, 1.0)), None);
    }

    #[test]
    fn another_scene_is_a_moved_camera_without_angles() {
        let mut view = View::new(ViewSettings::default(), None);
        assert_eq!(shown(&mut view, 0, 8000, || blocks(0, 0, 1.0)), None);
        let other = || {
            frame(320, 180, |x, y| 60 + ((x / 11 * 523 + y / 19 * 811 + x / 11 * (y / 19) * 97) % 110) as u8)
        };
        assert!(shown(&mut view, 8000, 12_000, other).is_some());
        assert_eq!(view.drift(), Some(Drift { turned: None }));
        assert!(Drift { turned: None }.to_string().contains("another scene"));
    }

    #[test]
    fn what_is_written_into_the_picture_hides_no_turn() {
        // Two lines of signs over three quarters of the width, which stay where they are.
        let written = |dx: i64| {
            let scene = blocks(dx, 0, 1.0);
            let HostPlanes { data, .. } = scene.pixels.host().unwrap();
            frame(320, 180, |x, y| {
                let sign = (x / 3 * 7 + y / 3 * 13 + (x / 3) * (y / 3)) % 5 < 2;
                match (16..164).contains(&y) || x >= 240 {
                    true => data[(y * 320 + x) as usize],
                    false if sign => 235,
                    false => 16,
                }
            })
        };
        for dx in [14, 25, 60, 110, 190] {
            let mut view = View::new(ViewSettings::default(), None);
            assert_eq!(shown(&mut view, 0, 8000, || written(0)), None);
            assert_eq!(view.status().moved, Monitor::On);
            assert!(shown(&mut view, 8000, 12_000, || written(dx)).is_some(), "{dx}");
            assert_eq!(view.fault(), Some(Reason::CameraMoved));
        }
    }

    #[test]
    fn a_plain_view_is_not_watched() {
        let mut view = View::new(ViewSettings::default(), None);
        shown(&mut view, 0, 8000, || frame(320, 180, |x, _| 60 + (x / 4) as u8));
        assert_eq!(view.status().moved, Monitor::NotMonitored);
    }
}

//! Things followed on the floor from frame to frame: the same id while a thing is seen and through a short occlusion,
//! a place that rests on several frames, a velocity, and where it must be while something hides it.
//!
//! One [`Tracks`] a camera, kept by the analysis. Time is that of the frames. Nothing waits for a track: what is seen
//! for the first time counts at once, as it is seen.

pub mod filter;
mod heading;

use super::standing::{Doubt, Motion, Standing};
use super::vector::norm2;
use crate::clock::Timestamp;
use filter::{Covariance, Filter};
use heading::Belief;

/// A thing farther from where a track expects it than this (squared standard deviations) is another one: 1 of 2000
/// would be refused wrongly.
const GATE: f64 = 15.2;
/// What it costs in the same unit when it does not look at all like before.
const UNLIKE: f64 = 12.0;
/// How much of a new look is taken over.
const LOOK_SHARE: f32 = 0.3;
/// Sightings after which a track is remembered when it is not seen.
const CONFIRMED: u32 = 3;
/// How long a thing counts as being there while it is hidden, seconds: a person behind a forklift that drives past.
const HIDDEN_S: f64 = 2.0;
/// The same where the floor on which it should stand is seen: a frame or two in which it was missed.
const MISSED_S: f64 = 0.4;
/// How long its id is kept, seconds.
const REMEMBERED_S: f64 = 5.0;
/// After a gap of this many seconds nothing is known of what was before.
const GAP_S: f64 = 5.0;
/// The middle of what is seen of a thing that is cut off is off the thing's own by this, metres (standard deviation).
const PART_SIGMA_M: f64 = 0.6;
/// A velocity is known when its standard deviation along each axis is below this, metres a second.
const KNOWN_SPEED_MPS: f64 = 0.8;

/// What the picture shows at a place on the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    /// Nothing: it lies outside of the picture.
    Outside,
    /// The floor.
    Open,
    /// Something that may hide a thing.
    Hidden,
}

#[derive(Debug, Clone)]
struct Track {
    id: u64,
    filter: Filter,
    heading: Belief,
    /// What it looks like: of length 1, or empty.
    look: Vec<f32>,
    sightings: u32,
    seen: Timestamp,
    /// As it was seen last.
    last: Standing,
}

/// All things that are followed in one camera's pictures.
#[derive(Debug, Clone, Default)]
pub struct Tracks {
    tracks: Vec<Track>,
    next: u64,
    newest: Option<Timestamp>,
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).as_secs_f64()
}

fn sum(a: Covariance, b: Covariance) -> Covariance {
    std::array::from_fn(|i| std::array::from_fn(|j| a[i][j] + b[i][j]))
}

/// Place and covariance that a sighting gives to the filter; none when it gives no place.
fn sighting(standing: &Standing) -> Option<([f64; 2], Covariance)> {
    let best = standing.footprint.hypotheses.first()?;
    let part = if standing.whole { 0.0 } else { PART_SIGMA_M * PART_SIGMA_M };
    let covariance = sum(best.covariance_m2, [[part, 0.0], [0.0, part]]);
    let sound = best.middle_m.iter().chain(covariance.iter().flatten()).all(|v| v.is_finite());
    sound.then_some((best.middle_m, covariance))
}

impl Track {
    fn new(id: u64, standing: &Standing, look: &[f32], at: Timestamp) -> Option<Self> {
        let (place_m, covariance) = sighting(standing)?;
        let mut last = standing.clone();
        last.track = Some(id);
        let mut heading = Belief::default();
        heading.weigh(&mut last.footprint.hypotheses);
        let filter = Filter::new(place_m, covariance);
        Some(Self { id, filter, heading, look: look.to_vec(), sightings: 1, seen: at, last })
    }

    fn predict(&mut self, dt_s: f64) {
        // What may be noise says nothing of the heading, nor does the part that is seen of a thing that is cut off: it
        // grows along the picture's side.
        let (velocity, covariance) = (self.filter.velocity_mps(), self.filter.velocity_covariance());
        let sure =
            !self.last.cut.any() && norm2(velocity) > 2.0 * covariance[0][0].max(covariance[1][1]).sqrt();
        self.heading.predict(dt_s, if sure { velocity } else { [0.0; 2] });
        self.filter.predict(dt_s);
    }

    /// What it costs to take a sighting for this thing; none when it is another one.
    fn cost(&self, standing: &Standing, look: &[f32]) -> Option<f64> {
        if standing.class != self.last.class {
            return None;
        }
        let (place_m, covariance) = sighting(standing)?;
        let (surprise, spread) = self.filter.surprise(place_m, covariance);
        let unlike = if look.is_empty() || self.look.len() != look.len() {
            0.5
        } else {
            1.0 - dot(look, &self.look).max(0.0)
        };
        (surprise < GATE).then_some(surprise + spread + UNLIKE * unlike)
    }

    fn motion(&self) -> Option<Motion> {
        let covariance = self.filter.velocity_covariance();
        let known = covariance[0][0].max(covariance[1][1]).sqrt() < KNOWN_SPEED_MPS;
        (self.sightings >= CONFIRMED && known)
            .then(|| Motion { velocity_mps: self.filter.velocity_mps(), covariance })
    }

    /// Takes the sighting, and puts into it what was known before.
    fn update(&mut self, standing: &mut Standing, look: &[f32], at: Timestamp) {
        if standing.whole {
            self.heading.weigh(&mut standing.footprint.hypotheses);
        }
        if let Some((place_m, covariance)) = sighting(standing) {
            if standing.whole && !self.last.whole {
                // Where its part was, and how that moved, says little of where all of it is.
                self.filter = Filter::new(place_m, covariance);
            } else {
                self.filter.update(place_m, covariance);
            }
        }
        self.sightings = self.sightings.saturating_add(1);
        self.seen = at;
        standing.track = Some(self.id);
        // The middle of what is seen of a thing that slides into the picture moves at half of its speed.
        standing.motion = self.motion().filter(|_| !standing.cut.any());
        if standing.whole {
            self.put(standing);
        }
        if self.look.len() == look.len() {
            self.look.iter_mut().zip(look).for_each(|(old, new)| *old += LOOK_SHARE * (new - *old));
            let length = dot(&self.look, &self.look).sqrt().max(1e-6) as f32;
            self.look.iter_mut().for_each(|v| *v /= length);
        } else {
            self.look = look.to_vec();
        }
        self.last = standing.clone();
    }

    /// Moves a thing to where the filter has it.
    fn put(&self, standing: &mut Standing) {
        let (place, from) = (self.filter.place_m(), standing.middle_m());
        let by = [place[0] - from[0], place[1] - from[1]];
        for hypothesis in &mut standing.footprint.hypotheses {
            hypothesis.outline_m.iter_mut().for_each(|p| *p = [p[0] + by[0], p[1] + by[1]]);
            hypothesis.middle_m = [hypothesis.middle_m[0] + by[0], hypothesis.middle_m[1] + by[1]];
            hypothesis.covariance_m2 = self.filter.place_covariance_m2();
        }
    }

    /// Where it must be though it is not seen.
    fn remembered(&self) -> Standing {
        let mut standing = Standing {
            index: None,
            motion: self.motion().filter(|_| !self.last.cut.any()),
            ..self.last.clone()
        };
        self.put(&mut standing);
        standing
    }
}

impl Tracks {
    /// Forgets every thing, but gives no id twice.
    pub fn forget(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }

    /// Takes what stands on the floor in the frame that was captured at `at`, and gives it back with ids, motion and
    /// places that rest on the frames before; behind it come the things that are only remembered. `looks` are the
    /// appearances of the scene's things (length 1, or empty), `spot` says what is seen at a place.
    ///
    /// What is in doubt is left out as [`Doubt`] says. A frame that is not newer than the newest is given back
    /// as it is, without what is in strong doubt.
    pub fn follow(
        &mut self,
        at: Timestamp,
        mut standing: Vec<Standing>,
        looks: &[Vec<f32>],
        spot: impl Fn([f64; 2]) -> Spot,
    ) -> Vec<Standing> {
        let dt_s = match self.newest {
            Some(newest) if at <= newest => {
                standing.retain(|seen| seen.doubt != Doubt::Strong);
                return standing;
            }
            Some(newest) => seconds(newest, at),
            None => 0.0,
        };
        if dt_s > GAP_S {
            self.tracks.clear();
        }
        let first = self.newest.is_none();
        self.newest = Some(at);
        self.tracks.iter_mut().for_each(|track| track.predict(dt_s));

        let look = |standing: &Standing| {
            standing.index.and_then(|index| looks.get(index)).map_or(&[][..], Vec::as_slice)
        };
        let mut costs = vec![];
        for (t, track) in self.tracks.iter().enumerate() {
            for (s, seen) in standing.iter().enumerate() {
                costs.extend(track.cost(seen, look(seen)).map(|cost| (cost, t, s)));
            }
        }
        // The surest first. With a handful of things in a picture that is as good as the best of all assignments.
        costs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut owner: Vec<Option<usize>> = vec![None; standing.len()];
        let mut found = vec![false; self.tracks.len()];
        for (_, t, s) in costs {
            if !found[t] && owner[s].is_none() {
                (found[t], owner[s]) = (true, Some(t));
            }
        }
        for (seen, owner) in standing.iter_mut().zip(&owner) {
            let appearance = look(seen).to_vec();
            if let Some(track) = owner.and_then(|t| self.tracks.get_mut(t)) {
                track.update(seen, &appearance, at);
            } else if seen.doubt == Doubt::Strong {
                continue;
            } else if let Some(track) = Track::new(self.next, seen, &appearance, at) {
                seen.track = Some(self.next);
                self.next += 1;
                self.tracks.push(track);
            }
        }

        let mut owners = owner.iter();
        standing.retain(|seen| {
            let expected = owners.next().is_some_and(Option::is_some);
            match seen.doubt {
                Doubt::None => true,
                Doubt::Some => expected || first,
                Doubt::Strong => expected,
            }
        });
        // What has left the picture is gone, and so is what was seen too seldom to be sure of.
        self.tracks.retain(|track| {
            track.seen == at
                || (track.sightings >= CONFIRMED
                    && seconds(track.seen, at) <= REMEMBERED_S
                    // Of a thing that the picture's edge cuts, the middle may lie outside all the time.
                    && (track.last.cut.any() || spot(track.filter.place_m()) != Spot::Outside))
        });
        let missing = self.tracks.iter().filter(|track| {
            let limit_s = if spot(track.filter.place_m()) == Spot::Open { MISSED_S } else { HIDDEN_S };
            track.seen != at && seconds(track.seen, at) <= limit_s
        });
        standing.extend(missing.map(Track::remembered));
        standing
    }
}

#[cfg(test)]
mod tests;

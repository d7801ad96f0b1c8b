use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::geometry::footprint::{Footprint, Hypothesis};
use crate::types::{ClassName, Cut};

const SIGMA_M: f64 = 0.15;

fn person(index: usize, [x, y]: [f64; 2]) -> Standing {
    let hypothesis = Hypothesis {
        outline_m: vec![[x - 0.3, y - 0.3], [x + 0.3, y - 0.3], [x, y + 0.3]],
        middle_m: [x, y],
        heading_rad: None,
        weight: 1.0,
        covariance_m2: [[SIGMA_M * SIGMA_M, 0.0], [0.0, SIGMA_M * SIGMA_M]],
    };
    Standing {
        class: ClassName::new("person").unwrap(),
        index: Some(index),
        footprint: Footprint { hypotheses: vec![hypothesis], shape_sigma_m: 0.1 },
        calibration_m2: [[0.0; 2]; 2],
        cut: Cut::default(),
        largest_m: 1.3,
        whole: true,
        doubt: Doubt::None,
        track: None,
        motion: None,
    }
}

fn at(ms: u64) -> Timestamp {
    Timestamp::default() + Duration::from_millis(ms)
}

fn hidden(_: [f64; 2]) -> Spot {
    Spot::Hidden
}

#[test]
fn an_id_lasts_through_a_short_occlusion_and_the_thing_counts_meanwhile() {
    let mut tracks = Tracks::default();
    let place = |ms: u64| [1.2 * ms as f64 / 1000.0, 5.0];
    let mut id = None;
    for ms in (0..2000).step_by(100) {
        let out = tracks.follow(at(ms), vec![person(0, place(ms))], &[], hidden);
        assert_eq!(out.len(), 1);
        id = id.or(out[0].track);
        assert_eq!((out[0].track, out[0].index), (id, Some(0)));
    }
    let before = tracks.follow(at(2000), vec![person(0, place(2000))], &[], hidden).remove(0);
    let speed = before.motion.unwrap();
    assert!((speed.velocity_mps[0] - 1.2).abs() < 0.1, "{speed:?}");
    for ms in (2100..=3500).step_by(100) {
        let out = tracks.follow(at(ms), vec![], &[], hidden);
        let [x, y] = out[0].middle_m();
        assert!((x - place(ms)[0]).abs() < 0.35 && (y - 5.0).abs() < 0.2, "{ms} {x} {y}");
        assert_eq!((out[0].track, out[0].index), (id, None));
        let wider = out[0].footprint.hypotheses[0].covariance_m2[0][0];
        assert!(wider > before.footprint.hypotheses[0].covariance_m2[0][0]);
    }
    let again = tracks.follow(at(3600), vec![person(0, place(3600))], &[], hidden);
    assert_eq!(again.iter().map(|s| s.track).collect::<Vec<_>>(), [id]);
}

#[test]
fn where_the_floor_is_seen_a_thing_is_soon_gone_and_outside_at_once() {
    let seen = |tracks: &mut Tracks| {
        for ms in (0..500).step_by(100) {
            tracks.follow(at(ms), vec![person(0, [0.0, 5.0])], &[], hidden);
        }
    };
    let counts = |spot: Spot, ms: u64| {
        let mut tracks = Tracks::default();
        seen(&mut tracks);
        tracks.follow(at(400 + ms), vec![], &[], |_| spot).len()
    };
    assert_eq!((counts(Spot::Open, 400), counts(Spot::Open, 500)), (1, 0));
    assert_eq!((counts(Spot::Hidden, 2000), counts(Spot::Hidden, 2100)), (1, 0));
    assert_eq!(counts(Spot::Outside, 100), 0);
}

#[test]
fn two_that_cross_keep_their_ids_by_their_looks() {
    let looks = [vec![1.0, 0.0], vec![0.0, 1.0]];
    let mut tracks = Tracks::default();
    let mut ids = [None; 2];
    for i in 0..40 {
        let x = -2.0 + 0.1 * f64::from(i);
        // They meet at (0, 5) and turn back: only their looks tell that they did not pass.
        let a = -x.abs();
        let both = vec![person(0, [a, 5.0]), person(1, [-a, 5.05])];
        let out = tracks.follow(at(i as u64 * 100), both, &looks, hidden);
        for s in out.iter().filter(|s| s.index.is_some()) {
            let id = &mut ids[s.index.unwrap()];
            assert_eq!(*id.get_or_insert(s.track), s.track, "frame {i}");
        }
    }
}

#[test]
fn what_comes_late_or_after_a_gap_is_as_it_is() {
    let mut tracks = Tracks::default();
    let first = tracks.follow(at(1000), vec![person(0, [0.0, 5.0])], &[], hidden)[0].track;
    let late = tracks.follow(at(900), vec![person(0, [0.0, 5.0])], &[], hidden);
    assert_eq!((late[0].track, late.len()), (None, 1));
    let after = tracks.follow(at(7000), vec![person(0, [0.0, 5.0])], &[], hidden);
    assert_ne!(after[0].track, first);
    assert!(after[0].motion.is_none());
}

#[test]
fn who_looks_like_a_driver_counts_when_seen_again_or_before() {
    let seated = || Standing { doubt: Doubt::Some, ..person(0, [0.0, 5.0]) };
    let counts = |frames: &[Vec<Standing>]| -> Vec<usize> {
        let mut tracks = Tracks::default();
        let each = frames.iter().enumerate();
        each.map(|(i, seen)| tracks.follow(at(i as u64 * 100), seen.clone(), &[], hidden).len()).collect()
    };
    assert_eq!(counts(&[vec![], vec![seated()], vec![], vec![]]), [0, 0, 0, 0], "once");
    assert_eq!(counts(&[vec![], vec![seated()], vec![seated()]]), [0, 0, 1], "twice");
    assert_eq!(counts(&[vec![person(0, [0.0, 5.0])], vec![seated()]]), [1, 1], "went there");
    assert_eq!(counts(&[vec![seated()]]), [1], "nothing is known of before");
    let doubted = || Standing { doubt: Doubt::Strong, ..person(0, [0.0, 5.0]) };
    assert_eq!(counts(&[vec![doubted()], vec![doubted()], vec![doubted()]]), [0, 0, 0]);
    assert_eq!(counts(&[vec![person(0, [0.0, 5.0])], vec![doubted()], vec![doubted()]]), [1, 1, 1]);
}

#[test]
fn how_the_part_of_a_thing_that_comes_in_moves_says_nothing_of_the_whole() {
    // Of a forklift that drives along +y into the picture, the part that is seen grows towards +x.
    let forklift = |middle: [f64; 2], whole: bool, headings: &[f64]| {
        let mut standing = person(0, middle);
        standing.class = ClassName::new("forklift").unwrap();
        standing.whole = whole;
        standing.cut = Cut { right: !whole, ..Cut::default() };
        let of = |heading: &f64| Hypothesis {
            heading_rad: Some(*heading),
            weight: 1.0 / headings.len() as f64,
            ..standing.footprint.hypotheses[0].clone()
        };
        if whole {
            standing.footprint.hypotheses = headings.iter().map(of).collect();
        }
        standing
    };
    let mut tracks = Tracks::default();
    for ms in (0..2000).step_by(100) {
        tracks.follow(at(ms), vec![forklift([1.5 * ms as f64 / 1000.0, 8.0], false, &[])], &[], hidden);
    }
    let ahead = std::f64::consts::FRAC_PI_2;
    let seen =
        tracks.follow(at(2000), vec![forklift([3.6, 8.4], true, &[0.0, ahead])], &[], hidden).remove(0);
    let [first, second] = &seen.footprint.hypotheses[..] else { panic!("{seen:?}") };
    assert!((first.weight - second.weight).abs() < 0.1, "either may be: {seen:?}");
    assert_eq!(seen.middle_m(), [3.6, 8.4], "where all of it was seen, and not between that and its part");
}

#[test]
fn a_hidden_neighbour_does_not_take_who_is_seen() {
    let mut tracks = Tracks::default();
    let mut ids = None;
    for ms in (0..500).step_by(100) {
        let out = tracks.follow(at(ms), vec![person(0, [0.0, 5.0]), person(1, [1.2, 5.0])], &[], hidden);
        ids = Some((out[0].track, out[1].track));
    }
    // The second is hidden; the first steps aside, to where the second may be by now.
    for (i, x) in [0.05, 0.15, 0.3, 0.45, 0.6].into_iter().enumerate() {
        let out = tracks.follow(at(900 + 200 * i as u64), vec![person(0, [x, 5.0])], &[], hidden);
        assert_eq!((out[0].track, out[1].track), ids.unwrap(), "{x}");
    }
}

proptest! {
    /// Everything that is seen comes back once, first and in its order, and no id is given twice in a frame.
    #[test]
    fn nothing_that_is_seen_gets_lost(
        frames in proptest::collection::vec(
            (1u64..800, proptest::collection::vec((-6.0..6.0f64, 2.0..9.0f64), 0..5)), 1..25),
    ) {
        let mut tracks = Tracks::default();
        let mut ms = 0;
        for (step, places) in frames {
            ms += step;
            let seen: Vec<_> = places.iter().enumerate().map(|(i, (x, y))| person(i, [*x, *y])).collect();
            let out = tracks.follow(at(ms), seen, &[], hidden);
            let order: Vec<_> = out.iter().take(places.len()).map(|s| s.index).collect();
            prop_assert_eq!(order, (0..places.len()).map(Some).collect::<Vec<_>>());
            prop_assert!(out.iter().skip(places.len()).all(|s| s.index.is_none()));
            let mut ids: Vec<_> = out.iter().filter_map(|s| s.track).collect();
            prop_assert_eq!(ids.len(), out.len());
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), out.len());
            for (s, (x, y)) in out.iter().zip(&places) {
                let [a, b] = s.middle_m();
                prop_assert!((a - x).hypot(b - y) < 4.0 * SIGMA_M, "a place leaves what is seen: {a} {b}");
            }
        }
    }
}

//! Points, segments and convex polygons on the floor.

use super::vector::{dot2, norm2, sub2};

/// A point with its distance: the shortest connection of two shapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortest {
    /// Its length, metres; 0 when the shapes meet.
    pub distance_m: f64,
    /// Its end on the first shape.
    pub from_m: [f64; 2],
    /// Its end on the second shape.
    pub to_m: [f64; 2],
}

/// The point of the segment `a`-`b` that is nearest to `p`.
pub fn nearest_on_segment(p: [f64; 2], a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    let ab = sub2(b, a);
    let length2 = dot2(ab, ab);
    let t = if length2 > 0.0 { (dot2(sub2(p, a), ab) / length2).clamp(0.0, 1.0) } else { 0.0 };
    [a[0] + t * ab[0], a[1] + t * ab[1]]
}

fn crossing(a: [f64; 2], b: [f64; 2], c: [f64; 2], d: [f64; 2]) -> Option<[f64; 2]> {
    let (r, s) = (sub2(b, a), sub2(d, c));
    let denominator = r[0] * s[1] - r[1] * s[0];
    if denominator == 0.0 {
        return None;
    }
    let ac = sub2(c, a);
    let t = (ac[0] * s[1] - ac[1] * s[0]) / denominator;
    let u = (ac[0] * r[1] - ac[1] * r[0]) / denominator;
    ((0.0..=1.0).contains(&t) && (0.0..=1.0).contains(&u)).then(|| [a[0] + t * r[0], a[1] + t * r[1]])
}

/// Shortest connection of the segments `a`-`b` and `c`-`d`.
pub fn between_segments(a: [f64; 2], b: [f64; 2], c: [f64; 2], d: [f64; 2]) -> Shortest {
    if let Some(p) = crossing(a, b, c, d) {
        return Shortest { distance_m: 0.0, from_m: p, to_m: p };
    }
    let ends = [
        (a, nearest_on_segment(a, c, d)),
        (b, nearest_on_segment(b, c, d)),
        (nearest_on_segment(c, a, b), c),
        (nearest_on_segment(d, a, b), d),
    ];
    let mut best = Shortest { distance_m: f64::INFINITY, from_m: a, to_m: c };
    for (from_m, to_m) in ends {
        let distance_m = norm2(sub2(to_m, from_m));
        if distance_m < best.distance_m {
            best = Shortest { distance_m, from_m, to_m };
        }
    }
    best
}

/// True when the point is inside the polygon (even-odd rule). Points of the border may fall either way.
pub fn contains(polygon: &[[f64; 2]], p: [f64; 2]) -> bool {
    let mut inside = false;
    for (a, b) in sides(polygon) {
        if (a[1] > p[1]) != (b[1] > p[1]) && p[0] < a[0] + (p[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) {
            inside = !inside;
        }
    }
    inside
}

/// The sides of a closed polygon whose first point is not repeated.
pub fn sides(polygon: &[[f64; 2]]) -> impl Iterator<Item = ([f64; 2], [f64; 2])> + '_ {
    (0..polygon.len()).map(move |i| (polygon[i], polygon[(i + 1) % polygon.len()]))
}

/// Shortest connection of a polygon (closed, filled, at least one point) and a polyline (at least one point).
/// `None` when either is empty.
pub fn polygon_to_line(polygon: &[[f64; 2]], line: &[[f64; 2]]) -> Option<Shortest> {
    let first = *line.first()?;
    if contains(polygon, first) {
        return Some(Shortest { distance_m: 0.0, from_m: first, to_m: first });
    }
    let segments: Vec<_> =
        if line.len() == 1 { vec![(first, first)] } else { line.windows(2).map(|w| (w[0], w[1])).collect() };
    shortest(
        sides(polygon).flat_map(|(a, b)| segments.iter().map(move |&(c, d)| between_segments(a, b, c, d))),
    )
}

/// Shortest connection of two filled polygons. `None` when either is empty.
pub fn polygon_to_polygon(a: &[[f64; 2]], b: &[[f64; 2]]) -> Option<Shortest> {
    let (first_a, first_b) = (*a.first()?, *b.first()?);
    if contains(b, first_a) {
        return Some(Shortest { distance_m: 0.0, from_m: first_a, to_m: first_a });
    }
    if contains(a, first_b) {
        return Some(Shortest { distance_m: 0.0, from_m: first_b, to_m: first_b });
    }
    shortest(sides(a).flat_map(|(p, q)| sides(b).map(move |(r, s)| between_segments(p, q, r, s))))
}

fn shortest(candidates: impl Iterator<Item = Shortest>) -> Option<Shortest> {
    candidates.min_by(|a, b| a.distance_m.total_cmp(&b.distance_m))
}

/// The convex hull, counter-clockwise (Andrew's monotone chain). Fewer than three points come back as they are.
pub fn convex_hull(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    sorted.dedup();
    if sorted.len() < 3 {
        return sorted;
    }
    let turn =
        |o: [f64; 2], a: [f64; 2], b: [f64; 2]| (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
    let half = |points: &mut dyn Iterator<Item = [f64; 2]>| {
        let mut chain: Vec<[f64; 2]> = Vec::new();
        for p in points {
            while chain.len() >= 2 && turn(chain[chain.len() - 2], chain[chain.len() - 1], p) <= 0.0 {
                chain.pop();
            }
            chain.push(p);
        }
        chain.pop();
        chain
    };
    let mut hull = half(&mut sorted.iter().copied());
    hull.extend(half(&mut sorted.iter().rev().copied()));
    hull
}

/// Area of a polygon in the square of its points' unit, whichever way round they go (shoelace formula).
pub fn area(polygon: &[[f64; 2]]) -> f64 {
    let twice: f64 = sides(polygon).map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum();
    0.5 * twice.abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: [[f64; 2]; 4] = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];

    #[test]
    fn known_distances() {
        let line = [[-5.0, -2.0], [5.0, -2.0]];
        let got = polygon_to_line(&UNIT, &line).unwrap();
        assert_eq!(got.distance_m, 2.0);
        assert_eq!(got.to_m[1], -2.0);
        assert_eq!(polygon_to_line(&UNIT, &[[0.5, -1.0], [0.5, 3.0]]).unwrap().distance_m, 0.0);
        assert_eq!(polygon_to_line(&UNIT, &[[0.4, 0.4], [0.6, 0.6]]).unwrap().distance_m, 0.0);
        let far: Vec<_> = UNIT.iter().map(|p| [p[0] + 4.0, p[1] + 5.0]).collect();
        assert_eq!(polygon_to_polygon(&UNIT, &far).unwrap().distance_m, 5.0);
        let inner: Vec<_> = UNIT.iter().map(|p| [0.4 + 0.1 * p[0], 0.4 + 0.1 * p[1]]).collect();
        assert_eq!(polygon_to_polygon(&UNIT, &inner).unwrap().distance_m, 0.0);
        assert!(polygon_to_line(&[], &line).is_none());
    }

    #[test]
    fn hull_of_a_square_with_points_inside() {
        let mut points = UNIT.to_vec();
        points.extend([[0.5, 0.5], [0.2, 0.9], [0.5, 0.0]]);
        assert_eq!(convex_hull(&points), UNIT.to_vec());
    }

    proptest! {
        #[test]
        fn segment_distance_is_that_of_dense_samples(c in proptest::array::uniform8(-3.0..3.0f64)) {
            let (p, q, r, s) = ([c[0], c[1]], [c[2], c[3]], [c[4], c[5]], [c[6], c[7]]);
            let got = between_segments(p, q, r, s).distance_m;
            let at = |a: [f64; 2], b: [f64; 2], t: f64| [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])];
            let mut sampled = f64::INFINITY;
            for i in 0..=60 {
                let x = at(p, q, f64::from(i) / 60.0);
                sampled = sampled.min(norm2(sub2(nearest_on_segment(x, r, s), x)));
            }
            prop_assert!(got <= sampled + 1e-9 && sampled <= got + 0.15, "{} {}", got, sampled);
        }

        #[test]
        fn hull_contains_its_points(points in proptest::collection::vec(proptest::array::uniform2(-3.0..3.0f64), 3..30)) {
            let hull = convex_hull(&points);
            for p in &points {
                let outside = polygon_to_line(&hull, &[*p]).unwrap().distance_m;
                prop_assert!(outside < 1e-9, "{}", outside);
            }
        }
    }
}

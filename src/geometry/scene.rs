//! A whole scene put on the floor: every thing's outline, and one reading for every configured pair.

use crate::types::{
    ClassName, Cut, Distance, DistanceKind, MetricScene, MetricThing, PairReading, Reading, Reason, Scene,
    Thing, Trust,
};

use super::calibration::Calibration;
use super::camera::{Camera, FloorPlane};
use super::distance::{Estimate, between, to_line};
use super::footprint::{Footprint, Hypothesis, View, locate};
use super::metric::DepthTie;
use super::polygon::{contains, convex_hull};
use super::sight::{Ray, Sight, patch_ray};
use super::sizes;
use super::vector::sub2;
use super::{Pair, PairEnd, Site};

/// A site with its calibration for pictures of one size.
struct Room<'a> {
    calibration: &'a Calibration,
    planes: &'a [FloorPlane],
    site: &'a Site,
}

/// A thing on the floor, with all that its distances need.
struct Standing {
    index: usize,
    footprint: Footprint,
    /// Covariance of its place by the calibration alone.
    calibration_m2: [[f64; 2]; 2],
    cut: Cut,
    largest_m: f64,
}

/// A class without a known size: the largest extent that a part outside of the picture is thought to have, metres.
const UNKNOWN_LARGEST_M: f64 = 4.0;
/// Least relative standard deviation of a depth that is tied to the floor.
const LEAST_DEPTH_SHARE: f64 = 0.1;

/// Puts a scene on the floor: every thing that stands there, and a reading for every pair of the site. Never fails:
/// what cannot be told is a reading's reason.
pub fn measure(scene: &Scene, site: &Site) -> MetricScene {
    let Some(calibration) = &site.calibration else {
        let reading = |pair: &Pair| PairReading {
            pair: pair.id.clone(),
            reading: Reading::Unavailable(Reason::NotCalibrated),
        };
        return MetricScene {
            camera: scene.camera.clone(),
            seq: scene.seq,
            captured: scene.captured,
            captured_utc: scene.captured_utc,
            things: Vec::new(),
            pairs: site.pairs.iter().map(reading).collect(),
        };
    };
    let everywhere = [FloorPlane::ground()];
    let planes = if site.planes.is_empty() { &everywhere } else { site.planes.as_slice() };
    // The lens is for the size that was calibrated; a substream has another.
    let (width, height) = (f64::from(scene.transform.source_width), f64::from(scene.transform.source_height));
    let lens = &calibration.camera.lens;
    if (lens.width_px - width).abs() > 0.5 || (lens.height_px - height).abs() > 0.5 {
        let scaled = calibration.scaled_to(width, height);
        return Room { calibration: &scaled, planes, site }.measure(scene);
    }
    Room { calibration, planes, site }.measure(scene)
}

impl Room<'_> {
    fn measure(&self, scene: &Scene) -> MetricScene {
        let ties: Vec<Option<DepthTie>> = self.planes.iter().map(|plane| self.tie(scene, plane)).collect();
        let mut standing = Vec::new();
        let mut lost: Vec<&ClassName> = Vec::new();
        for (index, thing) in scene.things.iter().enumerate() {
            match self.stand(scene, thing, &ties) {
                Some((footprint, calibration_m2, largest_m)) => {
                    standing.push(Standing { index, footprint, calibration_m2, cut: thing.cut, largest_m });
                }
                None => lost.push(&thing.class),
            }
        }
        let pairs = self
            .site
            .pairs
            .iter()
            .map(|pair| PairReading {
                pair: pair.id.clone(),
                reading: self.read(scene, pair, &standing, &lost),
            })
            .collect();
        let things = standing
            .iter()
            .filter_map(|s| {
                let best = s.footprint.hypotheses.first()?;
                let [[a, _], [_, c]] = best.covariance_m2;
                let [[p, _], [_, q]] = s.calibration_m2;
                let thing = &scene.things[s.index];
                Some(MetricThing {
                    index: s.index,
                    class: thing.class.clone(),
                    outline_ground_m: best.outline_m.clone(),
                    sigma_m: (0.5 * (a + c + p + q) + s.footprint.shape_sigma_m.powi(2)).sqrt(),
                    cut: s.cut,
                    track: thing.track,
                    velocity_mps: None,
                })
            })
            .collect();
        MetricScene {
            camera: scene.camera.clone(),
            seq: scene.seq,
            captured: scene.captured,
            captured_utc: scene.captured_utc,
            things,
            pairs,
        }
    }

    fn tie(&self, scene: &Scene, plane: &FloorPlane) -> Option<DepthTie> {
        let depth = scene.depth.as_ref()?;
        DepthTie::fit(depth, &scene.floor, scene.grid, &self.calibration.camera, &scene.transform, plane)
    }

    fn stand(
        &self,
        scene: &Scene,
        thing: &Thing,
        ties: &[Option<DepthTie>],
    ) -> Option<(Footprint, [[f64; 2]; 2], f64)> {
        let camera = &self.calibration.camera;
        let size = sizes::of(&thing.class);
        let largest_m = size.map_or(UNKNOWN_LARGEST_M, |(_, largest_m)| largest_m);
        for (plane, tie) in self.planes.iter().zip(ties) {
            let view = View {
                camera,
                transform: &scene.transform,
                grid: scene.grid,
                height_m: camera.pose.position_m[2] - plane.height_m,
                depth: match (&scene.depth, tie) {
                    (Some(depth), Some(tie)) => Some((depth.metres.as_slice(), tie)),
                    _ => None,
                },
            };
            if view.height_m <= 0.0 {
                continue;
            }
            // A thing that is cut at a side or at its feet shows too little for its class's size to be put on it:
            // what is seen is measured, what is not is a bound.
            let footprint = if is_bound(thing.cut) {
                seen_part(thing, &view)
            } else {
                size.and_then(|(plan, _)| locate(thing, plan, &view)).or_else(|| seen_part(thing, &view))
            };
            let Some(footprint) = footprint else { continue };
            let Some(middle) = footprint.hypotheses.first().map(|h| h.middle_m) else { continue };
            if plane.area_m.is_empty() || contains(&plane.area_m, middle) {
                let calibration_m2 = self.calibration_covariance(middle, plane);
                return Some((footprint, calibration_m2, largest_m));
            }
        }
        None
    }

    /// Covariance of a place on a plane by the calibration alone, square metres.
    fn calibration_covariance(&self, place_m: [f64; 2], plane: &FloorPlane) -> [[f64; 2]; 2] {
        let mut out = [[0.0; 2]; 2];
        let Some(pixel) = self.calibration.camera.pixel_from_world([place_m[0], place_m[1], plane.height_m])
        else {
            return out;
        };
        for camera in &self.calibration.one_sigma_cameras {
            if let Some(moved) = camera.ground_from_pixel(pixel, plane) {
                let d = sub2(moved, place_m);
                for i in 0..2 {
                    for j in 0..2 {
                        out[i][j] += d[i] * d[j];
                    }
                }
            }
        }
        out
    }

    fn read(&self, scene: &Scene, pair: &Pair, standing: &[Standing], lost: &[&ClassName]) -> Reading {
        if let Trust::Untrusted(reason) = scene.trust {
            return Reading::Unavailable(reason);
        }
        let is_lost = |class: &ClassName| lost.contains(&class);
        let of = |class: &ClassName| -> Vec<&Standing> {
            standing.iter().filter(|s| scene.things[s.index].class == *class).collect()
        };
        let firsts = of(&pair.from);
        let mut found: Vec<(Estimate, &Standing, Option<&Standing>)> = Vec::new();
        let lost_any = match &pair.to {
            PairEnd::Edge(id) => {
                let Some(edge) = self.site.edges.iter().find(|e| e.id == *id) else { return Reading::Absent };
                for a in &firsts {
                    if let Some(estimate) = to_line(&a.footprint, &edge.line_m, &a.calibration_m2) {
                        found.push((estimate, a, None));
                    }
                }
                is_lost(&pair.from)
            }
            PairEnd::Class(class) => {
                let seconds = of(class);
                for a in &firsts {
                    for b in seconds.iter().filter(|b| b.index != a.index) {
                        let estimate =
                            between(&a.footprint, &b.footprint, &a.calibration_m2, &b.calibration_m2);
                        if let Some(estimate) = estimate {
                            found.push((estimate, a, Some(b)));
                        }
                    }
                }
                let there = |class: &ClassName| scene.things.iter().any(|t| t.class == *class);
                there(&pair.from) && there(class) && (is_lost(&pair.from) || is_lost(class))
            }
        };
        // By the near end, as the rules do: of two things the one that may be nearer counts.
        let nearest = found.iter().min_by(|a, b| {
            a.0.lower_m
                .total_cmp(&b.0.lower_m)
                .then(a.0.shortest.distance_m.total_cmp(&b.0.shortest.distance_m))
        });
        let Some((estimate, a, b)) = nearest else {
            return if lost_any { Reading::Unavailable(Reason::NotLocated) } else { Reading::Absent };
        };
        // How near the unseen part of any cut thing can be.
        let floor_m = found
            .iter()
            .filter(|(_, a, b)| is_bound(a.cut) || b.is_some_and(|b| is_bound(b.cut)))
            .map(|(e, a, b)| {
                let beyond = |s: &Standing| if is_bound(s.cut) { s.largest_m } else { 0.0 };
                (e.lower_m - beyond(a) - b.map_or(0.0, beyond)).max(0.0)
            })
            .min_by(f64::total_cmp)
            .filter(|floor_m| {
                *floor_m < estimate.lower_m || is_bound(a.cut) || b.is_some_and(|b| is_bound(b.cut))
            });
        let kind = floor_m.map_or(DistanceKind::Value, |floor_m| DistanceKind::AtMost { floor_m });
        Reading::Measured(Distance {
            nearest_m: estimate.shortest.distance_m,
            lower_m: estimate.lower_m,
            upper_m: estimate.upper_m,
            kind,
            from_ground: estimate.shortest.from_m,
            to_ground: estimate.shortest.to_m,
            from: pair.from.clone(),
            from_index: a.index,
            to_index: b.map(|b| b.index),
            to_edge: match &pair.to {
                PairEnd::Edge(id) => Some(id.clone()),
                PairEnd::Class(_) => None,
            },
            approach_mps: None,
            captured: scene.captured,
        })
    }
}

/// A thing that is cut above still shows where it stands; one that is cut elsewhere does not show all of its outline.
fn is_bound(cut: Cut) -> bool {
    cut.left || cut.right || cut.bottom
}

/// The part of a thing that is seen, put on the floor: hull of where its lower outline touches floor and of where its
/// patches lie by the surface head's height, else by the tied depth.
fn seen_part(thing: &Thing, view: &View) -> Option<Footprint> {
    let foot = view.camera.pose.position_m;
    let at = |ray: &Ray, range: f64| [foot[0] + ray.along[0] * range, foot[1] + ray.along[1] * range];
    let mut points = Vec::new();
    let mut sigma2 = Vec::new();
    for f in Sight::of(thing, view.camera, view.transform).feet {
        if f.ray.fall > 0.05 {
            points.push(at(&f.ray, view.height_m / f.ray.fall));
            sigma2.push((0.15 / f.ray.fall).powi(2));
        }
    }
    for v in thing.votes.iter().filter(|v| v.cover > 0.25) {
        let ray = patch_ray(view.camera, view.transform, view.grid, v.col, v.row);
        let range = (view.height_m - f64::from(v.height_m)) / ray.fall;
        if ray.fall > 0.05 && range > 0.0 {
            points.push(at(&ray, range));
            sigma2.push((0.3 / ray.fall).powi(2));
        }
    }
    if thing.votes.is_empty()
        && let Some((depth, tie)) = view.depth
    {
        let side = view.grid.patch_px as f64;
        let mask = &thing.mask;
        for row in 0..mask.height {
            for col in 0..mask.width {
                if !mask.cells[row * mask.width + col] {
                    continue;
                }
                let x = (mask.left + col) as f64 * mask.cell_px + 0.5 * mask.cell_px;
                let y = (mask.top + row) as f64 * mask.cell_px + 0.5 * mask.cell_px;
                let (c, r) = ((x / side) as usize, (y / side) as usize);
                let Some(head) = depth.get(r * view.grid.cols + c) else { continue };
                let ray = Ray::through(view.camera, view.transform, [x, y]);
                let range = tie.apply(f64::from(*head)) * ray.reach;
                // A surface cannot lie below the floor.
                let range = if ray.fall > 0.0 { range.min(view.height_m / ray.fall) } else { range };
                points.push(at(&ray, range));
                sigma2.push((tie.spread.max(LEAST_DEPTH_SHARE) * range).powi(2));
            }
        }
    }
    if points.is_empty() {
        return None;
    }
    let n = points.len() as f64;
    let middle_m = points.iter().fold([0.0, 0.0], |m, p| [m[0] + p[0] / n, m[1] + p[1] / n]);
    sigma2.sort_by(f64::total_cmp);
    let variance = sigma2[sigma2.len() / 2];
    Some(Footprint {
        hypotheses: vec![Hypothesis {
            outline_m: convex_hull(&points),
            middle_m,
            weight: 1.0,
            covariance_m2: [[variance, 0.0], [0.0, variance]],
        }],
        shape_sigma_m: 0.2,
    })
}

/// For drawing: where an outline on a plane is seen, in pixels of the picture; points behind the camera are left out.
pub fn outline_px(camera: &Camera, outline_m: &[[f64; 2]], height_m: f64) -> Vec<[f64; 2]> {
    outline_m.iter().filter_map(|p| camera.pixel_from_world([p[0], p[1], height_m])).collect()
}

//! What a view teaches the decoder: the class of every cell, the depth of every patch, and what the patches of things
//! say of where the thing stands.

use super::dataset::{Labels, Object};
use super::view::View;
use crate::geometry::Camera;
use crate::geometry::vector::dot2;
use crate::heads::decoder::FOOT_UNIT_PX;
use crate::heads::upsample::CELLS_PER_PATCH;
use crate::types::Grid;

/// The classes of things, each with the share of a patch that a thing must cover to be taught by it: persons are narrow.
pub const THINGS: [(&str, f32); 2] = [("forklift", 0.25), ("person", 0.15)];
/// A patch tells the height and the rest only where the thing's own class is seen on more of it: a load does not tell.
const LEAST_OWN: f32 = 0.15;
/// A thing whose middle is nearer to the camera's plane than this teaches nothing.
const LEAST_DEPTH_M: f64 = 1.0;
/// Crops count less: they are blurred, and each frame is there twice already.
const CROP_SHARE: f32 = 0.7;

/// What one patch of one thing teaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesson {
    /// The patch.
    pub patch: usize,
    /// Index in [`THINGS`].
    pub class: usize,
    /// How much it counts.
    pub weight: f32,
    /// Where the floor below the middle is seen, from the patch's centre, in units of [`FOOT_UNIT_PX`]: right, down.
    pub foot: [f32; 2],
    /// Cosine and sine of the heading against the direction from the camera to the middle, and of twice that.
    pub heading: [f32; 4],
    /// Height, behind, aside and ahead in metres, where the thing's own class is seen.
    pub surface: Option<[f32; 4]>,
}

/// All that a view teaches.
pub struct Target {
    /// Class of each cell: patches row by row, each with its cells row by row.
    pub cells: Vec<u8>,
    /// As [`super::depth::Target`].
    pub depth: super::depth::Target,
    /// At most one a patch.
    pub lessons: Vec<Lesson>,
}

impl Target {
    /// From the labels of the view's frame; `counted` are the classes whose depth weighs double.
    pub fn of(view: &View, labels: &Labels, grid: Grid, counted: &[u8]) -> Self {
        let (seen, from) = view.labels(labels);
        let sight = Sight { view, labels, camera: labels.truth.camera(), seen, from, grid };
        let cells = cells(&sight.seen, grid);
        let depth = super::depth::Target::of(&sight.seen.raster, grid, counted);
        Self { cells, depth, lessons: sight.lessons() }
    }
}

/// The class at the middle of each cell.
fn cells(seen: &Labels, grid: Grid) -> Vec<u8> {
    let side = grid.patch_px as f64 / CELLS_PER_PATCH as f64;
    let within: Vec<usize> = (0..CELLS_PER_PATCH).map(|i| ((i as f64 + 0.5) * side) as usize).collect();
    let mut out = Vec::with_capacity(grid.len() * within.len() * within.len());
    for patch in 0..grid.len() {
        let (top, left) = (patch / grid.cols * grid.patch_px, patch % grid.cols * grid.patch_px);
        for y in &within {
            out.extend(within.iter().map(|x| seen.raster.class[(top + y) * seen.raster.width + left + x]));
        }
    }
    out
}

/// A view with all that is known of it.
struct Sight<'a> {
    view: &'a View,
    labels: &'a Labels,
    camera: Camera,
    /// The labels as the view shows them.
    seen: Labels,
    /// The pixel of the picture that each of these came from.
    from: Vec<usize>,
    grid: Grid,
}

impl Sight<'_> {
    fn lessons(&self) -> Vec<Lesson> {
        let mut of_patch: Vec<Option<Lesson>> = vec![None; self.grid.len()];
        let share = if self.view.is_crop(self.labels) { CROP_SHARE } else { 1.0 };
        for object in &self.labels.truth.objects {
            let Some(class) = THINGS.iter().position(|(name, _)| *name == object.cls) else { continue };
            let Some(stand) = Stand::of(object, &self.camera, self.view) else { continue };
            let covers: Vec<(usize, f32)> = (0..self.grid.len())
                .map(|patch| (patch, self.cover(object, patch)))
                .filter(|(_, cover)| *cover > THINGS[class].1)
                .collect();
            // Large things have many patches that say nearly the same.
            let scale = share / covers.iter().map(|c| c.1).sum::<f32>().max(1e-3).sqrt();
            for (patch, cover) in covers {
                let centre = self.centre_px(patch);
                of_patch[patch] = Some(Lesson {
                    patch,
                    class,
                    weight: cover * scale,
                    foot: [0, 1].map(|k| ((stand.foot_px[k] - centre[k]) / FOOT_UNIT_PX) as f32),
                    heading: stand.heading,
                    surface: self.surface(object, &stand, patch),
                });
            }
        }
        of_patch.into_iter().flatten().collect()
    }

    /// Middle of a patch, pixels of the input.
    fn centre_px(&self, patch: usize) -> [f64; 2] {
        let side = self.grid.patch_px as f64;
        [patch % self.grid.cols, patch / self.grid.cols].map(|i| (i as f64 + 0.5) * side)
    }

    /// Share of a patch that an object covers, with its load.
    fn cover(&self, object: &Object, patch: usize) -> f32 {
        let pixels = self.seen.raster.pixels_of(self.grid, patch);
        let covered = pixels.filter(|i| self.seen.instance[*i] == object.inst).count();
        covered as f32 / self.grid.patch_px.pow(2) as f32
    }

    /// Height, behind, aside and ahead of a patch: the middle of what is seen of the thing in it, against the ray
    /// through the patch's centre.
    fn surface(&self, object: &Object, stand: &Stand, patch: usize) -> Option<[f32; 4]> {
        let own = self.labels.truth.classes.iter().position(|c| *c == object.cls)?;
        let foot = self.camera.pose.position_m;
        let (mut sum, mut count, mut all) = ([0.0; 3], 0.0, 0.0f64);
        for i in self.seen.raster.pixels_of(self.grid, patch) {
            all += 1.0;
            let is_own =
                self.seen.instance[i] == object.inst && usize::from(self.seen.raster.class[i]) == own;
            if is_own && self.seen.raster.depth_m[i] > 0.0 {
                let [x, y] =
                    [self.from[i] % self.labels.raster.width, self.from[i] / self.labels.raster.width];
                let ray = self.camera.ray_from_pixel([x as f64 + 0.5, y as f64 + 0.5]);
                let z = f64::from(self.seen.raster.depth_m[i]);
                for k in 0..3 {
                    sum[k] += foot[k] + z * ray[k];
                }
                count += 1.0;
            }
        }
        if count < f64::from(LEAST_OWN) * all {
            return None;
        }
        let surface = sum.map(|s| s / count);
        let [x, y, z] = self.camera.ray_from_pixel(self.view.picture_from_input(self.centre_px(patch)));
        let reach = x.hypot(y).max(1e-9);
        let (along, fall) = ([x / reach, y / reach], -z / reach);
        let seen = [surface[0] - foot[0], surface[1] - foot[1]];
        let range = dot2(seen, along);
        let aside = dot2(stand.middle, [-along[1], along[0]]);
        let values = [
            // The height at which the ray through the patch's centre reaches the surface's range.
            foot[2] - range * fall,
            dot2(stand.middle, along) - range,
            if self.view.mirrored { -aside } else { aside },
            dot2([seen[0] - stand.middle[0], seen[1] - stand.middle[1]], stand.travel),
        ];
        Some(values.map(|v| v as f32))
    }
}

/// Where a thing stands.
struct Stand {
    /// Where the floor below its middle is seen, pixels of the input.
    foot_px: [f64; 2],
    /// As [`Lesson::heading`].
    heading: [f32; 4],
    /// From the camera's foot to the middle, metres.
    middle: [f64; 2],
    /// Its direction of travel.
    travel: [f64; 2],
}

impl Stand {
    /// `None` when its middle is beside or behind the camera.
    fn of(object: &Object, camera: &Camera, view: &View) -> Option<Self> {
        let [x, y, _] = object.box3d.center;
        if camera.depth_m([x, y, 0.0]) < LEAST_DEPTH_M {
            return None;
        }
        let seen = camera.pixel_from_world([x, y, 0.0])?;
        let foot = camera.pose.position_m;
        let middle = [x - foot[0], y - foot[1]];
        let yaw = object.box3d.yaw_deg.to_radians();
        let mut turn = yaw - middle[1].atan2(middle[0]);
        if view.mirrored {
            turn = -turn;
        }
        let heading = [turn.cos(), turn.sin(), (2.0 * turn).cos(), (2.0 * turn).sin()].map(|v| v as f32);
        let travel = [yaw.cos(), yaw.sin()];
        Some(Self { foot_px: view.input_from_picture(seen), heading, middle, travel })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::train::dataset::tests::labels;

    const GRID: Grid = Grid { rows: 16, cols: 28, patch_px: 14 };

    /// The frame with the forklift painted into its box, its upper half a load; all of it 7 m away.
    fn painted() -> Labels {
        let mut labels = labels(392, 224);
        for y in 100..140 {
            for x in 200..260 {
                labels.instance[y * 392 + x] = 1;
                labels.raster.class[y * 392 + x] = if y < 120 { 4 } else { 5 };
            }
        }
        labels
    }

    #[test]
    fn a_patch_tells_where_its_thing_stands() {
        let labels = painted();
        let target = Target::of(&View::whole(0, &labels, false, GRID), &labels, GRID, &[]);
        // Patch (9, 16): pixels 224 to 238, 126 to 140: all forklift.
        let lesson = target.lessons.iter().find(|l| l.patch == 9 * 28 + 16).unwrap();
        // The middle at (1, 6, 0): 2 right of nothing but x, y 6 and z -4 from the camera turn into depth 7.196 along
        // the axis and 0.464 below it.
        let (u, v) = (196.0 + 300.0 / 7.196_15, 112.0 + 300.0 * 0.464_1 / 7.196_15);
        assert!((lesson.foot[0] - (u - 231.0) / 56.0).abs() < 1e-3, "{lesson:?}");
        assert!((lesson.foot[1] - (v - 133.0) / 56.0).abs() < 1e-3, "{lesson:?}");
        // It drives along +y and is seen at a bearing of atan(6 / 1).
        let turn = 90f32.to_radians() - 6f32.atan2(1.0);
        assert!(
            (lesson.heading[0] - turn.cos()).abs() < 1e-5
                && (lesson.heading[3] - (2.0 * turn).sin()).abs() < 1e-5
        );
        let [height, behind, aside, ahead] = lesson.surface.unwrap();
        // The surface is 7 m along the axis: its y is 7 (0.866 - 0.5 * 21 / 300) and its height 4 - 7 (0.5 + 0.866 * 21 / 300).
        assert!((ahead - (7.0 * (0.866_03 - 0.5 * 0.07) - 6.0)).abs() < 0.02, "{ahead}");
        assert!((height - (4.0 - 7.0 * (0.5 + 0.866_03 * 0.07))).abs() < 0.05, "{height}");
        // Behind and aside lead from the surface to the middle: the surface is at bearing 35 px right of the axis.
        let across = 7.0 * 35.0 / 300.0f32;
        let (x, y) = (across, 7.0 * (0.866_03 - 0.5 * 0.07f32));
        let range = x.hypot(y);
        let along = [x / range, y / range];
        assert!((behind - (along[0] + 6.0 * along[1] - range)).abs() < 0.03, "{behind}");
        assert!((aside - (-along[1] + 6.0 * along[0])).abs() < 0.03, "{aside}");
    }

    #[test]
    fn the_load_covers_but_does_not_tell() {
        let labels = painted();
        let target = Target::of(&View::whole(0, &labels, false, GRID), &labels, GRID, &[]);
        // Row 7 is pixels 98 to 112: load only.
        let load = target.lessons.iter().find(|l| l.patch == 7 * 28 + 16).unwrap();
        assert_eq!((load.class, load.surface), (0, None));
        assert!(load.weight > 0.0);
        // Weights of a thing: cover over the root of all cover.
        let total: f32 = target.lessons.iter().map(|l| l.weight).sum();
        assert!((total - (60.0 * 40.0 / 196.0f32).sqrt()).abs() < 0.3, "{total}");
        // Cells: the middle of the cells of row 36 is pixel 127.
        assert_eq!(target.cells[(9 * 28 + 16) * 16], 5);
        assert_eq!(target.cells[(7 * 28 + 16) * 16 + 15], 4);
        assert_eq!(target.cells[0], 1);
        assert!((target.depth.log_depth[0] - 7f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn mirror_and_crop_say_the_same_of_the_world() {
        let labels = painted();
        let at = |view: &View, patch: usize| {
            let target = Target::of(view, &labels, GRID, &[]);
            target.lessons.into_iter().find(|l| l.patch == patch).unwrap()
        };
        let straight = at(&View::whole(0, &labels, false, GRID), 9 * 28 + 16);
        let mirrored = at(&View::whole(0, &labels, true, GRID), 9 * 28 + 27 - 16);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        let [u, v] = straight.foot;
        assert!(close(&mirrored.foot, &[-u, v]), "{mirrored:?}");
        let [c, s, c2, s2] = straight.heading;
        assert!(close(&mirrored.heading, &[c, -s, c2, -s2]));
        let [height, behind, aside, ahead] = straight.surface.unwrap();
        assert!(close(&mirrored.surface.unwrap(), &[height, behind, -aside, ahead]));
        // Twice as large, from (126, 70): the same patch's middle, pixel (231, 133), becomes (210, 126).
        let mut crop = crate::cli::train::view::crops(0, &labels, GRID, None).remove(0);
        crop.origin = [126, 70];
        let zoom = crop.transform.scale_x;
        let [x, y] = crop.input_from_picture([231.0, 133.0]);
        let patch = (y / 14.0) as usize * 28 + (x / 14.0) as usize;
        let near = at(&crop, patch);
        let centre = [(patch % 28) as f64 * 14.0 + 7.0, (patch / 28) as f64 * 14.0 + 7.0];
        // The foot is as many pixels of the picture away as before, up to the shift of the patch's middle.
        for (k, to) in [x, y].into_iter().enumerate() {
            let apart = f64::from(near.foot[k]) * 56.0 + centre[k] - to;
            assert!((apart / zoom - f64::from(straight.foot[k]) * 56.0).abs() < 0.6, "{k}: {apart}");
        }
        assert!(close(&near.heading, &straight.heading));
        let [h, ..] = near.surface.unwrap();
        assert!((h - height).abs() < 0.2 && near.weight < straight.weight, "{near:?}");
    }
}

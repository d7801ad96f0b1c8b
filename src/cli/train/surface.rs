//! Fits the surface head: for patches of forklifts and persons, ridge regression of height above the floor and of
//! where the middle of the footprint lies. Closed form: the normal equations are solved once a class.

use indicatif::ProgressBar;

use super::dataset::{Labels, Object};
use super::matrix::{As, Matrix, multiply, solve_spd};
use super::segment::{Example, finish};
use crate::geometry::Camera;
use crate::geometry::sight::Ray;
use crate::heads::file::HeadFile;
use crate::heads::taught::Standard;
use crate::model::graph::HeadTail;
use crate::types::{Grid, PixelTransform};

/// The classes, in the order of the outputs, each with how strongly its weights are held to zero (chosen on a sixth of
/// train that was held out).
pub const CLASSES: [(&str, f64); 2] = [("forklift", 6000.0), ("person", 15000.0)];
/// Outputs a class: height above the floor, behind, aside, ahead, cosine of the heading against the ray.
pub const OUTPUTS: usize = 5;
/// A patch teaches when a thing covers more of it than this.
const LEAST_COVER: f32 = 0.25;
/// Things of which fewer pixels are seen do not teach.
const LEAST_VISIBLE_PX: u32 = 60;
/// A row counts with one over the fall of its ray (its error in metres on the floor), at most this.
const LEAST_FALL: f64 = 0.1;
const ROWS_A_CHUNK: usize = 1024;

/// What one patch of one thing teaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesson {
    /// The patch.
    pub patch: usize,
    /// Index in [`CLASSES`].
    pub class: usize,
    /// Height, behind, aside, ahead, cosine of the heading.
    pub values: [f32; OUTPUTS],
    /// How much it counts.
    pub weight: f32,
}

/// All lessons of a frame.
pub fn lessons(labels: &Labels, grid: Grid) -> Vec<Lesson> {
    let camera = labels.truth.camera();
    let transform = identity(labels.raster.width, labels.raster.height);
    let mut out = Vec::new();
    for object in labels.truth.objects.iter().filter(|o| o.visible_px >= LEAST_VISIBLE_PX) {
        let Some(class) = CLASSES.iter().position(|(name, _)| *name == object.cls) else { continue };
        let Some(value) = labels.truth.classes.iter().position(|c| *c == object.cls) else { continue };
        let first = out.len();
        for patch in 0..grid.len() {
            if let Some(values) = lesson(labels, grid, &camera, &transform, object, value as u8, patch) {
                out.push(Lesson { patch, class, values: values.0, weight: values.1 });
            }
        }
        // Large things have many patches that say nearly the same.
        let share = 1.0 / ((out.len() - first).max(1) as f32).sqrt();
        out[first..].iter_mut().for_each(|l| l.weight *= share);
    }
    out
}

fn identity(width: usize, height: usize) -> PixelTransform {
    let (w, h) = (width as u32, height as u32);
    PixelTransform {
        source_width: w,
        source_height: h,
        input_width: w,
        input_height: h,
        scale_x: 1.0,
        scale_y: 1.0,
        offset_x: 0.0,
        offset_y: 0.0,
    }
}

/// Values and weight of one patch, when the object covers enough of it.
fn lesson(
    labels: &Labels,
    grid: Grid,
    camera: &Camera,
    transform: &PixelTransform,
    object: &Object,
    class_value: u8,
    patch: usize,
) -> Option<([f32; OUTPUTS], f32)> {
    let foot = camera.pose.position_m;
    let (mut sum, mut count, mut all) = ([0.0; 3], 0.0, 0.0f32);
    let raster = &labels.raster;
    for i in raster.pixels_of(grid, patch) {
        all += 1.0;
        // The load has the forklift's instance and another class: it does not tell where the forklift is.
        if labels.instance[i] == object.inst && raster.class[i] == class_value && raster.depth_m[i] > 0.0 {
            let pixel = [(i % raster.width) as f64 + 0.5, (i / raster.width) as f64 + 0.5];
            let ray = camera.ray_from_pixel(pixel);
            let z = f64::from(raster.depth_m[i]);
            for k in 0..3 {
                sum[k] += foot[k] + z * ray[k];
            }
            count += 1.0;
        }
    }
    if count as f32 <= LEAST_COVER * all {
        return None;
    }
    let surface = sum.map(|s| s / count);
    let side = grid.patch_px as f64;
    let centre = [((patch % grid.cols) as f64 + 0.5) * side, ((patch / grid.cols) as f64 + 0.5) * side];
    let ray = Ray::through(camera, transform, centre);
    let (along, aside) = (ray.along, ray.aside());
    let dot = |a: [f64; 2], b: [f64; 2]| a[0] * b[0] + a[1] * b[1];
    let middle = [object.box3d.center[0] - foot[0], object.box3d.center[1] - foot[1]];
    let seen = [surface[0] - foot[0], surface[1] - foot[1]];
    let heading = object.box3d.yaw_deg.to_radians();
    let travel = [heading.cos(), heading.sin()];
    let range = dot(seen, along);
    let values = [
        // The height at which the ray through the patch's centre reaches the surface's range.
        foot[2] - range * ray.fall,
        dot(middle, along) - range,
        dot(middle, aside),
        dot([seen[0] - middle[0], seen[1] - middle[1]], travel),
        dot(travel, along),
    ];
    Some((values.map(|v| v as f32), (1.0 / ray.fall.max(LEAST_FALL)) as f32))
}

/// The same lesson for the mirrored picture.
fn mirrored(lesson: &Lesson, grid: Grid) -> Lesson {
    let (row, col) = (lesson.patch / grid.cols, lesson.patch % grid.cols);
    let mut out = lesson.clone();
    out.patch = row * grid.cols + grid.cols - 1 - col;
    out.values[2] = -out.values[2];
    out
}

/// Fits.
pub fn train(
    examples: &[Example<'_>],
    lessons: &[Vec<Lesson>],
    standard: &Standard,
    progress: &ProgressBar,
) -> anyhow::Result<HeadFile> {
    let Some(first) = examples.first() else { anyhow::bail!("there is nothing to train on") };
    let (grid, inputs) = (first.tokens.grid, first.tokens.inputs);
    let outputs = OUTPUTS * CLASSES.len();
    let mut weight = Matrix::zeros(inputs, outputs);
    let mut bias = vec![0.0f32; outputs];
    for (class, (name, hold)) in CLASSES.iter().enumerate() {
        let mut sums = Sums::new(inputs + 1);
        for example in examples {
            for lesson in lessons[example.labels].iter().filter(|l| l.class == class) {
                let lesson = if example.mirrored { mirrored(lesson, grid) } else { lesson.clone() };
                standard.push(example.tokens.row(example.frame, lesson.patch), &mut sums.rows);
                sums.rows.push(1.0);
                sums.values.extend(lesson.values);
                sums.weights.push(lesson.weight);
                sums.flush_when(ROWS_A_CHUNK);
            }
            progress.inc(1);
        }
        sums.flush_when(1);
        let Some(x) = sums.solve(*hold) else {
            anyhow::bail!(
                "the regression of '{name}' has no solution: there are {} patches of it",
                sums.count
            );
        };
        for i in 0..inputs {
            for k in 0..OUTPUTS {
                weight.data[i * outputs + class * OUTPUTS + k] = x[i * OUTPUTS + k] as f32;
            }
        }
        for k in 0..OUTPUTS {
            bias[class * OUTPUTS + k] = x[inputs * OUTPUTS + k] as f32;
        }
    }
    let classes = CLASSES.iter().map(|(name, _)| (*name).to_owned()).collect();
    Ok(finish("surface", &weight, &bias, standard, HeadTail::Logits, classes))
}

/// Normal equations, collected in chunks.
struct Sums {
    n: usize,
    rows: Vec<f32>,
    values: Vec<f32>,
    weights: Vec<f32>,
    a: Vec<f64>,
    b: Vec<f64>,
    weight: f64,
    count: usize,
}

impl Sums {
    fn new(n: usize) -> Self {
        Self {
            n,
            rows: Vec::new(),
            values: Vec::new(),
            weights: Vec::new(),
            a: vec![0.0; n * n],
            b: vec![0.0; n * OUTPUTS],
            weight: 0.0,
            count: 0,
        }
    }

    fn flush_when(&mut self, rows: usize) {
        let count = self.weights.len();
        if count < rows {
            return;
        }
        for (i, w) in self.weights.iter().enumerate() {
            let root = w.sqrt();
            self.rows[i * self.n..(i + 1) * self.n].iter_mut().for_each(|v| *v *= root);
            self.values[i * OUTPUTS..(i + 1) * OUTPUTS].iter_mut().for_each(|v| *v *= root);
            self.weight += f64::from(*w);
        }
        self.count += count;
        let x = Matrix { rows: count, cols: self.n, data: std::mem::take(&mut self.rows) };
        let y = Matrix { rows: count, cols: OUTPUTS, data: std::mem::take(&mut self.values) };
        let mut a = Matrix::zeros(self.n, self.n);
        let mut b = Matrix::zeros(self.n, OUTPUTS);
        multiply(&x, As::Transposed, &x, As::Is, 0.0, &mut a);
        multiply(&x, As::Transposed, &y, As::Is, 0.0, &mut b);
        self.a.iter_mut().zip(&a.data).for_each(|(s, v)| *s += f64::from(*v));
        self.b.iter_mut().zip(&b.data).for_each(|(s, v)| *s += f64::from(*v));
        self.weights.clear();
    }

    /// Weights are scaled to a mean of one, so that `hold` means the same whatever they are; the bias is free.
    fn solve(&self, hold: f64) -> Option<Vec<f64>> {
        let scale = self.count as f64 / self.weight;
        let mut a: Vec<f64> = self.a.iter().map(|v| v * scale).collect();
        let mut b: Vec<f64> = self.b.iter().map(|v| v * scale).collect();
        for i in 0..self.n - 1 {
            a[i * self.n + i] += hold;
        }
        (self.count > 0 && solve_spd(&mut a, self.n, &mut b, OUTPUTS)).then_some(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ridge_finds_a_linear_map() {
        let mut sums = Sums::new(3);
        for i in 0..200 {
            let (x, y) = ((i % 17) as f32 / 8.0 - 1.0, (i % 23) as f32 / 11.0 - 1.0);
            sums.rows.extend([x, y, 1.0]);
            sums.values.extend([2.0 * x - y + 0.5, x, y, 1.0, 0.0]);
            sums.weights.push(1.0 + (i % 3) as f32);
            sums.flush_when(64);
        }
        sums.flush_when(1);
        let x = sums.solve(1e-6).unwrap();
        for (got, want) in [(x[0], 2.0), (x[OUTPUTS], -1.0), (x[2 * OUTPUTS], 0.5), (x[2 * OUTPUTS + 3], 1.0)]
        {
            assert!((got - want).abs() < 1e-3, "{got} {want}");
        }
        assert!(Sums::new(3).solve(1.0).is_none());
    }

    #[test]
    fn mirroring_turns_the_side_and_keeps_the_rest() {
        let grid = Grid { rows: 2, cols: 5, patch_px: 14 };
        let lesson = Lesson { patch: 6, class: 0, values: [1.0, 2.0, 3.0, 4.0, 0.5], weight: 1.0 };
        let m = mirrored(&lesson, grid);
        assert_eq!((m.patch, m.values), (8, [1.0, 2.0, -3.0, 4.0, 0.5]));
        assert_eq!(mirrored(&m, grid), lesson);
    }
}

//! What the decoder reaches on views that it was not trained on, from the file as it will be shipped.

use super::dataset::{Labels, Tokens};
use super::lesson::{Lesson, THINGS, Target};
use super::score::{Depths, Segments, best, outputs};
use super::view::View;
use crate::heads::HeadFile;
use crate::heads::decoder::{
    CHANNELS, CLASSES, DEPTH, FOOT_UNIT_PX, FORKLIFT, Forklift, PERSON, Person, cells, likeliest_class,
};

/// Scores views: `tokens` and `targets` are theirs, in their order. Every name is preceded by `prefix`.
pub fn decoder(
    prefix: &str,
    head: &HeadFile,
    tokens: &Tokens,
    views: &[(usize, &View, &Target)],
    labels: &[Labels],
) -> Vec<(String, String)> {
    let mut segments = Segments::new(head.classes.len());
    let mut depths = Depths::default();
    let mut things = THINGS.map(|_| Errors::default());
    let mut logits = Vec::new();
    for (at, view, target) in views {
        let out = outputs(head, tokens, *at);
        let (seen, _) = view.labels(&labels[view.frame]);
        cells(&out.data, tokens.grid, &mut logits);
        let classes: Vec<usize> = logits.chunks_exact(CLASSES).map(best).collect();
        let patches: Vec<usize> = out.data.chunks_exact(CHANNELS).map(likeliest_class).collect();
        segments.add(&seen.raster, tokens.grid, &patches, &classes);
        let depth: Vec<f32> = out.data.chunks_exact(CHANNELS).map(|o| o[DEPTH]).collect();
        depths.add(&depth, &target.depth.log_depth);
        for lesson in &target.lessons {
            things[lesson.class].add(out.row(lesson.patch), lesson);
        }
    }
    let mut lines = segments.lines(&head.classes);
    lines.extend(depths.lines());
    for (errors, (name, _)) in things.iter().zip(THINGS) {
        lines.push((format!("rmse_{name}"), errors.line()));
    }
    lines.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect()
}

/// Errors of what patches say of their things.
#[derive(Debug, Default)]
struct Errors {
    /// Squares and counts of foot (input pixels), height, behind, aside, ahead.
    squares: [(f64, f64); 5],
    /// Degrees.
    headings: Vec<f64>,
}

impl Errors {
    fn add(&mut self, o: &[f32], lesson: &Lesson) {
        let (first, surface) = if lesson.class == 0 {
            (&o[FORKLIFT..PERSON], &o[FORKLIFT + Forklift::SURFACE..][..4])
        } else {
            (&o[PERSON..], &o[PERSON + Person::SURFACE..][..3])
        };
        let mut add = |k: usize, error: f64| {
            self.squares[k].0 += error * error;
            self.squares[k].1 += 1.0;
        };
        // Both offsets are foremost for both classes.
        let apart = |k: usize| f64::from(first[k] - lesson.foot[k]) * FOOT_UNIT_PX;
        add(0, apart(0).hypot(apart(1)));
        for (k, (got, truth)) in surface.iter().zip(lesson.surface.iter().flatten()).enumerate() {
            add(k + 1, f64::from(got - truth));
        }
        if lesson.class == 0 {
            let angle = |v: &[f32]| f64::from(v[1]).atan2(f64::from(v[0]));
            let got = angle(&first[Forklift::HEADING..]);
            let apart = (got - angle(&lesson.heading)).abs().to_degrees();
            self.headings.push(apart.min(360.0 - apart));
        }
    }

    fn line(&self) -> String {
        let root = |(sum, count): (f64, f64)| (sum / count.max(1.0)).sqrt();
        let mut words = vec![format!("foot {:.1} px", root(self.squares[0]))];
        for (name, square) in ["height", "behind", "aside", "ahead"].iter().zip(&self.squares[1..]) {
            if square.1 > 0.0 {
                words.push(format!("{name} {:.2} m", root(*square)));
            }
        }
        let mut headings = self.headings.clone();
        headings.sort_by(f64::total_cmp);
        if let Some(median) = headings.get(headings.len() / 2) {
            words.push(format!("heading {median:.1} degrees in the median"));
        }
        words.join(", ")
    }
}

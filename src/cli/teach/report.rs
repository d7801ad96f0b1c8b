//! `standoff teach report`: how good it gets with how many examples, what is mistaken for what, and which examples
//! disagree with the rest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Site, picture};
use crate::draw::{self, Annotation, LinePlot};
use crate::heads::{TaughtHead, taught::Tokens};
use crate::model::matrix::Random;
use crate::preprocess::color::rgb_from_frame;
use crate::teach::{Example, Folder, Label, Lesson};

/// Arguments of `standoff teach report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// Where to draw the curve and the examples that disagree (png); without it teach-report.png, unless that is there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Numbers of examples that are tried.
const COUNTS: [usize; 4] = [1, 3, 10, 30];
/// Random choices of each number.
const REPEATS: usize = 5;
/// Examples that are left out for each choice, at most.
const TESTED_MAX: usize = 10;
/// Examples that disagree and are shown.
const SHOWN_MAX: usize = 9;

/// How well an example that was left out is read: 0 to 1, and what it was taken for.
struct Scored {
    agreement: f32,
    taken_for: String,
}

/// Runs the command.
pub fn run(arguments: &ReportArguments, site: &mut Site) -> anyhow::Result<ExitCode> {
    let out = super::super::picture_file(arguments.out.as_deref(), "teach-report.png")?;
    let folder = Folder::open(&site.dir)?;
    let lesson = site.lesson(&folder)?;
    let mut groups: BTreeMap<String, Vec<&Example>> = BTreeMap::new();
    for example in &lesson.examples {
        if let Some(name) = subject(example) {
            groups.entry(name).or_default().push(example);
        }
    }
    let mut lines = vec![];
    println!("{:<24} {:>8}  left-out examples read right, mean and spread", "", "examples");
    for (name, examples) in &groups {
        let curve = curve(&lesson, examples);
        for (count, (mean, spread)) in COUNTS.iter().zip(&curve).filter_map(|(c, v)| Some((c, (*v)?))) {
            println!("{name:<24} {count:>8}  {mean:.2} +- {spread:.2}");
        }
        lines.push((name.clone(), curve.iter().map(|v| v.map(|(mean, _)| f64::from(mean))).collect()));
    }
    let disagreeing = disagreeing(&lesson, &groups);
    let mut parts = vec![];
    for (example, scored) in disagreeing.iter().take(SHOWN_MAX) {
        let what = super::add::described(&example.label);
        println!("example {} disagrees: {what}, {}", example.id, scored.taken_for);
        let frame = picture::still(&folder.picture(example))?;
        let image = draw::annotate(&rgb_from_frame(&frame), &marks(example));
        parts.push((image, format!("{}: {what}; {}", example.id, scored.taken_for)));
    }
    let plot = draw::plot_lines(&LinePlot {
        title: "left-out examples read right".to_owned(),
        steps_are: "examples".to_owned(),
        steps: COUNTS.iter().map(ToString::to_string).collect(),
        lines,
    });
    draw::save(&draw::contact_sheet(&parts, &[plot]), &out)?;
    println!("picture: {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// What an example is about; background belongs to all classes.
fn subject(example: &Example) -> Option<String> {
    match &example.label {
        Label::Class { class, .. } => class.as_ref().map(ToString::to_string),
        Label::State { state, .. } => Some(state.to_string()),
    }
}

/// The mark's outline.
fn marks(example: &Example) -> Annotation {
    use crate::heads::taught::Region;
    let closed = |points: &[[f64; 2]]| points.iter().chain(points.first()).copied().collect::<Vec<_>>();
    let cross =
        |[x, y]: &[f64; 2]| vec![vec![[x - 4.0, *y], [x + 4.0, *y]], vec![[*x, y - 4.0], [*x, y + 4.0]]];
    let edges = match &example.label {
        Label::Class { region: Region::Clicks(points), .. } => points.iter().flat_map(cross).collect(),
        Label::Class { region: Region::Box([l, t, r, b]), .. } => {
            vec![closed(&[[*l, *t], [*r, *t], [*r, *b], [*l, *b]])]
        }
        Label::Class { region: Region::Polygon(points), .. } => vec![closed(points)],
        Label::State { zone: Some(zone), .. } => {
            let (w, h) = (f64::from(example.width), f64::from(example.height));
            let zone: Vec<_> = zone.iter().map(|[x, y]| [x * w, y * h]).collect();
            vec![closed(&zone)]
        }
        _ => vec![],
    };
    Annotation { edges, ..Annotation::default() }
}

/// Mean and spread over the choices at each of [`COUNTS`], where there are enough examples to leave some out.
fn curve(lesson: &Lesson, examples: &[&Example]) -> Vec<Option<(f32, f32)>> {
    let mut random = Random(11);
    COUNTS
        .iter()
        .map(|count| {
            let mut found = vec![];
            for _ in 0..REPEATS {
                let mut order: Vec<&Example> = examples.to_vec();
                random.shuffle(&mut order);
                let (train, test) = order.split_at_checked(*count)?;
                // A picture that taught cannot test.
                let test: Vec<_> = test
                    .iter()
                    .filter(|t| train.iter().all(|example| example.picture != t.picture))
                    .take(TESTED_MAX)
                    .collect();
                let ids: Vec<u64> = train.iter().map(|example| example.id).collect();
                let subject = subject(train.first()?);
                let keeps = |e: &Example| ids.contains(&e.id) || self::subject(e) != subject;
                let Ok(taught) = lesson.learn(|e| keeps(e) && !test.iter().any(|t| t.picture == e.picture))
                else {
                    continue;
                };
                let head = TaughtHead::new(taught);
                let scores: Vec<f32> = test
                    .iter()
                    .filter_map(|e| Some(score(&head, e, lesson.tokens.get(&e.picture)?).agreement))
                    .collect();
                if !scores.is_empty() {
                    found.push(scores.iter().sum::<f32>() / scores.len() as f32);
                }
            }
            if found.is_empty() {
                return None;
            }
            let mean = found.iter().sum::<f32>() / found.len() as f32;
            let spread = (found.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / found.len() as f32).sqrt();
            Some((mean, spread))
        })
        .collect()
}

/// How well what was taught without an example reads it.
fn score(head: &TaughtHead, example: &Example, tokens: &Tokens) -> Scored {
    match &example.label {
        Label::State { state, value, zone } => {
            let Some(taught) = head.taught().states.iter().find(|taught| taught.name == *state) else {
                return Scored { agreement: 0.0, taken_for: "its value is shown nowhere else".to_owned() };
            };
            let read = taught.read(&tokens.pooled(zone.as_deref()));
            let agrees = read.value.as_ref() == Some(value);
            let word = read.value.map_or("unknown".to_owned(), |value| value.to_string());
            let agreement = if agrees { read.probability } else { 0.0 };
            Scored { agreement, taken_for: format!("the others say {word} ({:.2})", read.probability) }
        }
        Label::Class { class, region } => {
            use crate::heads::taught::Region;
            let n = head.taught().classes.len();
            let Some(at) =
                head.taught().classes.iter().position(|taught| Some(&taught.name) == class.as_ref())
            else {
                return Scored { agreement: 0.0, taken_for: "no other example shows it".to_owned() };
            };
            let logits = head.logits(tokens);
            let cover = region.cover(tokens.grid, &tokens.transform);
            let (mut both, mut either) = (0.0f32, 0.0f32);
            let mut others: BTreeMap<String, usize> = BTreeMap::new();
            for (patch, cover) in cover.iter().enumerate() {
                let row = &logits[patch * n..(patch + 1) * n];
                let best = (0..n).filter(|c| row[*c] > 0.0).max_by(|a, b| row[*a].total_cmp(&row[*b]));
                let says = best == Some(at);
                let is_it = *cover > 0.5;
                // A click says nothing of its surroundings.
                let counts = is_it || !matches!(region, Region::Clicks(_));
                if counts {
                    both += f32::from(u8::from(says && is_it));
                    either += f32::from(u8::from(says || is_it));
                }
                if is_it && !says {
                    let name =
                        best.map_or("background".to_owned(), |c| head.taught().classes[c].name.to_string());
                    *others.entry(name).or_default() += 1;
                }
            }
            let agreement = both / either.max(1.0);
            let missed: Vec<String> = others.iter().map(|(name, n)| format!("{n} patches {name}")).collect();
            let taken_for =
                format!("the others agree to {:.0} %; say {}", agreement * 100.0, missed.join(", "));
            Scored { agreement, taken_for }
        }
    }
}

/// Examples that the rest of them reads otherwise, worst first; prints what is mistaken for what.
fn disagreeing<'a>(
    lesson: &Lesson,
    groups: &BTreeMap<String, Vec<&'a Example>>,
) -> Vec<(&'a Example, Scored)> {
    let mut found = vec![];
    for examples in groups.values() {
        // In at most ten parts, each read by what the other parts teach.
        let parts = examples.len().min(TESTED_MAX);
        for part in 0..parts {
            let left: Vec<&Example> =
                examples.iter().enumerate().filter(|(i, _)| i % parts == part).map(|(_, e)| *e).collect();
            let is_left = |e: &Example| left.iter().any(|l| l.picture == e.picture);
            let Ok(taught) = lesson.learn(|e| !is_left(e)) else { continue };
            let head = TaughtHead::new(taught);
            for example in left {
                if let Some(tokens) = lesson.tokens.get(&example.picture) {
                    found.push((example, score(&head, example, tokens)));
                }
            }
        }
    }
    found.retain(|(_, scored)| scored.agreement < 0.5);
    found.sort_by(|a, b| a.1.agreement.total_cmp(&b.1.agreement));
    found
}

//! `standoff search`: the incidents that look most like a picture or like another incident.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;

use super::embedder::{Embedder, Filter, Place, time};
use super::teach::{picture, rectangle};
use crate::album::Kept;
use crate::clock;
use crate::draw;
use crate::heads::taught::Region;
use crate::preprocess::color::rgb_from_frame;
use crate::retrieval::{self, About, Gallery, Hit, Probe, Record};
use crate::types::Frame;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct SearchArguments {
    /// A picture (jpg, png), or a moment of a clip: FILE@SECONDS
    #[arg(long, value_name = "IMAGE", required_unless_present = "event", conflicts_with = "event")]
    image: Option<String>,
    /// Look for the thing in this part of the picture: left, top, right, bottom in pixels
    #[arg(long = "box", value_name = "L,T,R,B", value_parser = rectangle, requires = "image")]
    rectangle: Option<[f64; 4]>,
    /// An incident, by the id of its event
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Compare whole frames, also where the things of the incident are known
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    filter: Filter,
    /// How many to show
    #[arg(short, value_name = "N", default_value_t = 20)]
    n: usize,
    /// Draw them on a page (png)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// What is looked for.
struct Query {
    probes: Vec<Probe>,
    /// Among things, or else among whole frames.
    things: bool,
    model: String,
    /// Itself, which is not shown again.
    event: Option<String>,
    picture: Option<image::RgbImage>,
    name: String,
}

/// What is kept, loaded.
#[derive(Default)]
struct Loaded {
    gallery: Gallery,
    incidents: Vec<(Kept, About)>,
    without_things: usize,
    of_other_model: usize,
    damaged: usize,
}

/// Runs the command: 0 when something was found, 1 when not, 2 on wrong usage.
pub fn run(arguments: &SearchArguments) -> anyhow::Result<ExitCode> {
    let mut embedder = match Embedder::find(&arguments.place)? {
        Ok(embedder) => embedder,
        Err(code) => return Ok(code),
    };
    let wanted = arguments.filter.compile()?;
    let query = match (&arguments.image, &arguments.event) {
        (Some(image), _) => of_image(image, arguments, &mut embedder)?,
        (None, Some(event)) => of_event(event, arguments.whole, &embedder)?,
        (None, None) => bail!("give --image or --event"),
    };
    let started = clock::monotonic();
    let not_itself = |kept: &Kept| query.event.as_ref().is_none_or(|event| *event != kept.event_id);
    let mut loaded = Loaded::default();
    embedder.album.embeddings(
        |kept| wanted(kept) && not_itself(kept),
        |kept, bytes| loaded.take(kept, &bytes, &query),
    )?;
    let opened = clock::monotonic();
    let hits = loaded.gallery.search(&query.probes, arguments.n);
    let found = clock::monotonic();
    print!("{}", table(&hits, &loaded));
    let what = if query.things { "things" } else { "whole frames" };
    println!(
        "{} {what} of {} incidents: read in {:.2} s, compared in {:.1} ms",
        loaded.gallery.len(),
        loaded.incidents.len(),
        opened.since(started).as_secs_f64(),
        found.since(opened).as_secs_f64() * 1e3
    );
    loaded.explain();
    if let Some(out) = &arguments.out {
        draw::save(&sheet(&query, &hits, &loaded), out)?;
        println!("picture: {}", out.display());
    }
    Ok(if hits.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn of_image(text: &str, arguments: &SearchArguments, embedder: &mut Embedder) -> anyhow::Result<Query> {
    let (path, seconds) = picture::split(text)?;
    let frame: Frame = picture::frame_at(&path, seconds)?;
    let mut rgb = rgb_from_frame(&frame);
    let region = arguments.rectangle.map(Region::Box);
    if let Some(problem) = region.as_ref().and_then(|region| region.problem(frame.width, frame.height)) {
        bail!("--box: {problem}");
    }
    let model = embedder.record_name()?;
    let features = embedder.infer(frame)?;
    let embedding = match &region {
        None => {
            let mut frame = features.cls.clone();
            retrieval::to_unit(&mut frame);
            frame
        }
        Some(region) => {
            let cover = region.cover(features.grid, &features.transform);
            retrieval::pooled(&features, &cover, &retrieval::TAPS)
                .ok_or_else(|| anyhow!("--box: no patch of the model lies in it; draw it larger"))?
        }
    };
    if let Some([left, top, right, bottom]) = arguments.rectangle {
        let (x, y) = (left as u32, top as u32);
        let (width, height) =
            ((right.ceil() as u32).saturating_sub(x), (bottom.ceil() as u32).saturating_sub(y));
        rgb = image::imageops::crop_imm(&rgb, x, y, width.max(1), height.max(1)).to_image();
    }
    Ok(Query {
        probes: vec![Probe { class: None, embedding }],
        things: region.is_some(),
        model,
        event: None,
        picture: Some(rgb),
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    })
}

fn of_event(event: &str, whole: bool, embedder: &Embedder) -> anyhow::Result<Query> {
    let mut found = None;
    embedder.album.embeddings(|kept| kept.event_id == event, |kept, bytes| found = Some((kept, bytes)))?;
    let (kept, bytes) = found.with_context(|| {
        format!(
            "no embedding of event '{event}' is kept: alarms have one as long as their picture (docs/search.md)"
        )
    })?;
    let record = Record::read(&bytes).with_context(|| format!("event '{event}'"))?;
    let things = !whole && !record.things.is_empty();
    let probes = if things {
        let probe = |thing: &retrieval::ThingRecord| Probe {
            class: Some(thing.class.clone()),
            embedding: thing.embedding.clone(),
        };
        record.things.iter().map(probe).collect()
    } else {
        vec![Probe { class: None, embedding: record.frame }]
    };
    let picture = kept.picture.as_deref().and_then(|path| still(path).ok());
    Ok(Query {
        probes,
        things,
        model: record.about.model,
        event: Some(event.to_owned()),
        picture,
        name: format!("event {event}"),
    })
}

fn still(path: &Path) -> anyhow::Result<image::RgbImage> {
    Ok(rgb_from_frame(&picture::still(path)?))
}

impl Loaded {
    fn take(&mut self, kept: Kept, bytes: &[u8], query: &Query) {
        let Ok(record) = Record::read(bytes) else {
            self.damaged += 1;
            return;
        };
        if record.about.model != query.model {
            self.of_other_model += 1;
            return;
        }
        let incident = self.incidents.len();
        if query.things {
            self.without_things += usize::from(record.things.is_empty());
            for thing in &record.things {
                self.gallery.add(incident, Some(&thing.class), &thing.embedding);
            }
        } else {
            self.gallery.add(incident, None, &record.frame);
        }
        self.incidents.push((kept, record.about));
    }

    /// Says what could not be compared, and why.
    fn explain(&self) {
        let Self { without_things, of_other_model, damaged, .. } = self;
        if *without_things > 0 {
            println!(
                "{without_things} incidents are known by their whole frame only (privacy.blur, or a GPU that gives no tokens): --whole"
            );
        }
        if *of_other_model > 0 {
            println!(
                "{of_other_model} incidents were seen by another model or input size and cannot be compared"
            );
        }
        if *damaged > 0 {
            println!("{damaged} embeddings are damaged; they go when their pictures go");
        }
    }
}

fn table(hits: &[Hit], loaded: &Loaded) -> String {
    if hits.is_empty() {
        return "nothing to compare with\n".to_owned();
    }
    let mut text = format!(
        "{:>4}  {:>10}  {:<20}  {:<16}  {:<19}  rule\n",
        "rank", "similarity", "event", "camera", "time"
    );
    for (rank, hit) in hits.iter().enumerate() {
        let Some((_, about)) = loaded.incidents.get(hit.incident) else { continue };
        text.push_str(&format!(
            "{:>4}  {:>10.3}  {:<20}  {:<16}  {:<19}  {}\n",
            rank + 1,
            hit.similarity,
            about.event_id,
            about.camera.as_str(),
            time(about.captured),
            about.rule
        ));
    }
    text
}

/// What was looked for, then what was found.
fn sheet(query: &Query, hits: &[Hit], loaded: &Loaded) -> image::RgbImage {
    let mut parts = vec![];
    if let Some(picture) = &query.picture {
        parts.push((picture.clone(), format!("looked for: {}", query.name)));
    }
    for (rank, hit) in hits.iter().enumerate() {
        let Some((kept, about)) = loaded.incidents.get(hit.incident) else { continue };
        // A picture that went while we looked is not shown.
        let Some(picture) = kept.picture.as_deref().and_then(|path| still(path).ok()) else { continue };
        let caption =
            format!("{}: {:.3}  {}  {}", rank + 1, hit.similarity, about.camera, time(about.captured));
        parts.push((picture, caption));
    }
    draw::contact_sheet(&parts, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UtcMillis;
    use crate::retrieval::ThingRecord;
    use crate::types::{CameraId, ClassName, RuleId};

    fn kept(event_id: &str) -> Kept {
        Kept { camera: "dock".into(), taken: UtcMillis(0), event_id: event_id.into(), picture: None }
    }

    fn bytes(event_id: &str, model: &str, frame: [f32; 2], thing: Option<[f32; 2]>) -> Vec<u8> {
        let (camera, rule) = (CameraId::new("dock").unwrap(), RuleId::new("edge").unwrap());
        let about = About::new(camera, rule, UtcMillis(0), event_id, model);
        let recorded = |embedding: [f32; 2]| ThingRecord {
            class: ClassName::new("forklift").unwrap(),
            embedding: embedding.to_vec(),
        };
        let things = thing.into_iter().map(recorded).collect();
        Record { about, frame: frame.to_vec(), things }.write().unwrap()
    }

    fn loaded(things: bool) -> (Loaded, Vec<Hit>) {
        let class = things.then(|| ClassName::new("forklift").unwrap());
        let probe = Probe { class, embedding: vec![1.0, 0.0] };
        let query = Query {
            probes: vec![probe],
            things,
            model: "m1".into(),
            event: None,
            picture: None,
            name: String::new(),
        };
        let mut loaded = Loaded::default();
        loaded.take(kept("a"), &bytes("a", "m1", [0.0, 1.0], Some([1.0, 0.0])), &query);
        loaded.take(kept("b"), &bytes("b", "m2", [1.0, 0.0], Some([1.0, 0.0])), &query);
        loaded.take(kept("c"), b"torn", &query);
        loaded.take(kept("d"), &bytes("d", "m1", [1.0, 0.0], None), &query);
        loaded.take(kept("e"), &bytes("e", "m1", [0.6, 0.8], Some([0.8, 0.6])), &query);
        let hits = loaded.gallery.search(&query.probes, 9);
        (loaded, hits)
    }

    fn events(loaded: &Loaded, hits: &[Hit]) -> Vec<String> {
        hits.iter().map(|hit| loaded.incidents[hit.incident].1.event_id.clone()).collect()
    }

    #[test]
    fn things_and_whole_frames_rank_apart_and_what_cannot_be_compared_is_counted() {
        let (by_things, hits) = loaded(true);
        assert_eq!(events(&by_things, &hits), ["a", "e"]);
        let counts = |l: &Loaded| (l.without_things, l.of_other_model, l.damaged);
        assert_eq!(counts(&by_things), (1, 1, 1));
        let (by_frame, hits) = loaded(false);
        assert_eq!(events(&by_frame, &hits), ["d", "e", "a"]);
        assert_eq!(counts(&by_frame), (0, 1, 1));
    }

    #[test]
    fn the_table_names_the_incident() {
        let (loaded, hits) = loaded(true);
        let table = table(&hits, &loaded);
        let first: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(first[..4], ["1", "1.000", "a", "dock"]);
        assert_eq!(first.last(), Some(&"edge"));
    }
}

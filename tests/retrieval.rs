//! Finding a thing's other sightings, and choosing frames, with the real backbone.
//!
//! The tables of docs/search.md: `cargo test --release --test retrieval -- --nocapture`.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "retrieval/real.rs"]
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use standoff::album::{Album, Limits};
use standoff::backend::{self, Backend, BackendSettings};
use standoff::clock::{self, Timestamp, UtcMillis};
use standoff::heads::{self, taught::Region};
use standoff::ingest::clip::Clip;
use standoff::ingest::stills;
use standoff::model::matrix::Random;
use standoff::retrieval::curate::{distinct, varied};
use standoff::retrieval::{self, About, Gallery, Probe, Record, ThingRecord, dot, to_unit};
use standoff::types::{Batch, CameraId, ClassName, Features, Frame, RuleId, Scene, Thing};

fn data(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("STANDOFF_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = shared.join("data").join(name);
    if !path.exists() {
        println!("SKIP: no data/{name} in the shared folder (STANDOFF_SHARED)");
        return None;
    }
    Some(path)
}

fn open() -> Option<Box<dyn Backend>> {
    let heads = heads::shipped::graph_heads().unwrap();
    match backend::open(&BackendSettings { heads, ..BackendSettings::default() }) {
        Ok(backend) => Some(backend),
        Err(error) => {
            println!("SKIP: the backend does not open: {error}");
            None
        }
    }
}

fn infer(backend: &mut dyn Backend, frame: Frame) -> Features {
    backend.infer(&Batch { frames: vec![frame] }).unwrap().remove(0)
}

fn camera() -> CameraId {
    CameraId::new("dock").unwrap()
}

fn seconds(frame: &Frame) -> f64 {
    frame.captured.as_nanos() as f64 / 1e9
}

/// Frames of a clip about every so many seconds.
fn every(clip: &Path, step_s: f64) -> Vec<Frame> {
    let mut next = 0.0;
    let frames = Clip::open(clip, camera()).unwrap().map(Result::unwrap);
    frames
        .filter(|frame| {
            let due = seconds(frame) >= next - 0.005;
            next += if due { step_s } else { 0.0 };
            due
        })
        .collect()
}

fn pictures(dir: &Path) -> Vec<PathBuf> {
    let mut list: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    list.retain(|path| path.extension().is_some_and(|e| e == "jpg"));
    list.sort();
    list
}

fn still(path: &Path) -> Frame {
    stills::read(path, &camera(), 0, Timestamp::from_nanos(0)).unwrap()
}

/// A thing seen once.
struct Sighting {
    /// Equal for sightings of the same thing.
    thing: String,
    clip: String,
    at_s: f64,
    /// Embeddings by their names.
    embeddings: BTreeMap<&'static str, Vec<f32>>,
}

/// Embeddings that are compared: what is kept, and what was tried besides.
fn embeddings(features: &Features, weights: &[f32]) -> BTreeMap<&'static str, Vec<f32>> {
    let mut frame = features.cls.clone();
    to_unit(&mut frame);
    let of = |taps: &[usize]| retrieval::pooled(features, weights, taps).unwrap();
    BTreeMap::from([
        ("kept: blocks 3 + 6", of(&retrieval::TAPS)),
        ("block 3", of(&[0])),
        ("block 6", of(&[1])),
        ("block 9", of(&[2])),
        ("block 12", of(&[3])),
        ("blocks 3 + 6 + 9", of(&[0, 1, 2])),
        ("whole frame (CLS)", frame),
    ])
}

/// Mean average precision and the share of queries whose first answer is right. Each sighting that `asks` is looked for
/// among all others, but for those of the same thing in the same clip less than `apart_s` away, which are the same picture.
fn scores(
    sightings: &[Sighting],
    name: &str,
    apart_s: f64,
    asks: impl Fn(&Sighting) -> bool,
) -> (f64, f64, usize) {
    let (mut precision, mut first, mut queries) = (0.0, 0.0, 0);
    for query in sightings.iter().filter(|sighting| asks(sighting)) {
        let near = |s: &Sighting| s.clip == query.clip && (s.at_s - query.at_s).abs() < apart_s;
        let mut ranked: Vec<(f32, bool)> = sightings
            .iter()
            .filter(|s| !(std::ptr::eq(*s, query) || (s.thing == query.thing && near(s))))
            .map(|s| (dot(&query.embeddings[name], &s.embeddings[name]), s.thing == query.thing))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let right: Vec<usize> = (0..ranked.len()).filter(|at| ranked[*at].1).collect();
        if right.is_empty() {
            continue;
        }
        let sum: f64 = right.iter().enumerate().map(|(i, at)| (i + 1) as f64 / (at + 1) as f64).sum();
        precision += sum / right.len() as f64;
        first += f64::from(u8::from(right[0] == 0));
        queries += 1;
    }
    (precision / queries as f64, first / queries as f64, queries)
}

/// Prints a table, gives what is kept and the whole frame.
fn compare(
    title: &str,
    sightings: &[Sighting],
    apart_s: f64,
    asks: impl Fn(&Sighting) -> bool,
) -> [(f64, f64); 2] {
    println!("{title}:\n  embedding             mAP    first answer right");
    for name in sightings[0].embeddings.keys() {
        let (map, first, _) = scores(sightings, name, apart_s, &asks);
        println!("  {name:<20}  {map:.3}  {first:.3}");
    }
    ["kept: blocks 3 + 6", "whole frame (CLS)"].map(|name| {
        let (map, first, _) = scores(sightings, name, apart_s, &asks);
        (map, first)
    })
}

#[test]
fn a_thing_of_the_real_clips_is_found_again() {
    let (Some(dir), Some(mut backend)) = (data("clips"), open()) else { return };
    let mut sightings = vec![];
    let clips: BTreeSet<&str> = real::SIGHTINGS.iter().map(|(clip, ..)| *clip).collect();
    for clip in clips {
        let of_clip = |at: f64| {
            real::SIGHTINGS.iter().filter(move |(c, _, t, _)| *c == clip && (at - t).abs() < 0.02 + 1e-9)
        };
        let mut found = 0;
        for frame in Clip::open(&dir.join(format!("{clip}.mp4")), camera()).unwrap().map(Result::unwrap) {
            let at_s = seconds(&frame);
            // The clips have 10 to 15 frames a second: no time fits two.
            if of_clip(at_s).next().is_none() {
                continue;
            }
            let features = infer(backend.as_mut(), frame);
            for (_, thing, _, rectangle) in of_clip(at_s) {
                let weights = Region::Box(*rectangle).cover(features.grid, &features.transform);
                let embeddings = embeddings(&features, &weights);
                let (thing, clip) = ((*thing).to_owned(), clip.to_owned());
                sightings.push(Sighting { thing, clip, at_s, embeddings });
                found += 1;
            }
        }
        assert_eq!(found, real::SIGHTINGS.iter().filter(|(c, ..)| *c == clip).count(), "{clip}");
    }
    let things: BTreeSet<&str> = sightings.iter().map(|s| s.thing.as_str()).collect();
    let title = format!("real clips, {} sightings of {} things", sightings.len(), things.len());
    let [kept, frame] = compare(&title, &sightings, 1.0, |_| true);
    for thing in things {
        let (map, first, queries) = scores(&sightings, "kept: blocks 3 + 6", 1.0, |s| s.thing == thing);
        println!("  {thing:<16} {queries:>3} queries: mAP {map:.3}, first answer right {first:.3}");
    }
    assert!(kept.0 > 0.80 && kept.1 > 0.82, "{kept:?}");
    assert!(kept.0 > frame.0 + 0.15);
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn overlap(thing: &Thing, scene: &Scene, seen: [f64; 4]) -> f64 {
    let m = &thing.mask;
    let at =
        |x: usize, y: usize| scene.transform.source_from_input([x as f64 * m.cell_px, y as f64 * m.cell_px]);
    let ([l, t], [r, b]) = (at(m.left, m.top), at(m.left + m.width, m.top + m.height));
    let both = (r.min(seen[2]) - l.max(seen[0])).max(0.0) * (b.min(seen[3]) - t.max(seen[1])).max(0.0);
    both / ((r - l) * (b - t) + (seen[2] - seen[0]) * (seen[3] - seen[1]) - both)
}

/// The things of one frame as the shipped heads see them, named by the truth.
fn sightings_of(
    backend: &mut dyn Backend,
    frame: Frame,
    objects: &Value,
    clip: &str,
    least_px: f64,
    out: &mut Vec<Sighting>,
) {
    let at_s = seconds(&frame);
    let features = infer(backend, frame);
    let classes = ["forklift", "person"].map(|name| ClassName::new(name).unwrap());
    let mut heads = heads::shipped::heads(&classes).unwrap();
    let scene = standoff::analysis::see(&mut heads, &features);
    for object in objects.as_array().unwrap() {
        let class = object["cls"].as_str().unwrap();
        if !["forklift", "person"].contains(&class) || number(&object["visible_px"]) < least_px {
            continue;
        }
        let seen = [0, 1, 2, 3].map(|k| number(&object["bbox2d_visible"][k]));
        let same = scene.things.iter().filter(|thing| thing.class.as_str() == class);
        let best = same.max_by(|a, b| overlap(a, &scene, seen).total_cmp(&overlap(b, &scene, seen)));
        let Some(thing) = best.filter(|thing| overlap(thing, &scene, seen) > 0.3) else { continue };
        let mut weights = vec![0.0; features.grid.len()];
        for (col, row, cover) in heads::segment::cover(&thing.mask) {
            weights[row * features.grid.cols + col] = cover;
        }
        let name = format!("{clip} {class} {}", object["inst"]);
        out.push(Sighting {
            thing: name,
            clip: clip.to_owned(),
            at_s,
            embeddings: embeddings(&features, &weights),
        });
    }
}

#[test]
fn a_thing_of_the_dock_clip_is_found_again() {
    let (Some(demo), Some(val), Some(mut backend)) = (data("dock/demo"), data("dock/val"), open()) else {
        return;
    };
    let mut sightings = vec![];
    let truth = fs::read_to_string(demo.join("gt.jsonl")).unwrap();
    let truth: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for frame in every(&demo.join("video.mp4"), 0.4) {
        let objects = &truth[(seconds(&frame) * 10.0).round() as usize]["objects"];
        sightings_of(backend.as_mut(), frame, objects, "demo", 400.0, &mut sightings);
    }
    let asked = sightings.len();
    for picture in pictures(&val) {
        let text = fs::read_to_string(picture.with_extension("json")).unwrap();
        let truth: Value = serde_json::from_str(&text).unwrap();
        let name = picture.file_stem().unwrap().to_string_lossy().into_owned();
        sightings_of(backend.as_mut(), still(&picture), &truth["objects"], &name, 150.0, &mut sightings);
    }
    let others = sightings.len() - asked;
    let title = format!(
        "dock clip, {asked} sightings of 2 things, among {others} other forklifts and persons of val/"
    );
    let [kept, frame] = compare(&title, &sightings, 2.0, |s| s.clip == "demo");
    for thing in ["demo forklift 1", "demo person 2"] {
        let (map, first, queries) = scores(&sightings, "kept: blocks 3 + 6", 2.0, |s| s.thing == thing);
        println!("  {thing:<16} {queries:>3} queries: mAP {map:.3}, first answer right {first:.3}");
    }
    assert!(kept.0 > 0.6 && kept.1 > 0.9, "{kept:?}");
    assert!(kept.1 > frame.1);
}

/// Indices of the chosen frames.
fn choose(embeddings: &[Vec<f32>], n: usize) -> (usize, Vec<usize>) {
    let all = distinct(embeddings, 0.99);
    (all.len(), varied(embeddings, &all, n).into_iter().map(|d| d.index).collect())
}

fn frame_embedding(features: &Features) -> Vec<f32> {
    let mut embedding = features.cls.clone();
    to_unit(&mut embedding);
    embedding
}

#[test]
fn five_percent_of_the_frames_keep_all_classes() {
    let (Some(dir), Some(mut backend)) = (data("dock/train"), open()) else { return };
    let (mut embeddings, mut counts) = (vec![], vec![]);
    for picture in pictures(&dir) {
        embeddings.push(frame_embedding(&infer(backend.as_mut(), still(&picture))));
        let seg = picture.file_stem().unwrap().to_string_lossy().into_owned() + "_seg.png";
        let mut count = [0u32; 9];
        for class in image::open(dir.join(seg)).unwrap().to_luma8().into_raw() {
            count[usize::from(class)] += 1;
        }
        counts.push(count);
    }
    let n = embeddings.len() / 20;
    let (kept, chosen) = choose(&embeddings, n);
    println!(
        "dock/train: {} frames, {kept} without near duplicates, {} chosen",
        embeddings.len(),
        chosen.len()
    );
    println!("  class  frames that show it (50 pixels or more): all, chosen");
    for class in 0..9 {
        let all = counts.iter().filter(|count| count[class] >= 50).count();
        let of_chosen = chosen.iter().filter(|i| counts[**i][class] >= 50).count();
        println!("  {class:>5}  {all:>4}  {of_chosen:>3}");
        assert!(of_chosen > 0, "class {class}");
    }
    assert_eq!(chosen.len(), n);
}

/// How many of the things are in the chosen frames, and how many on average in as many frames drawn by chance.
fn found(spans: &[(&str, f64, f64)], times: &[f64], chosen: &[usize]) -> (usize, f64) {
    let count = |frames: &[usize]| {
        let shown =
            |(_, from, to): &&(&str, f64, f64)| frames.iter().any(|i| (*from..=*to).contains(&times[*i]));
        spans.iter().filter(shown).count()
    };
    let mut random = Random(5);
    let mut all: Vec<usize> = (0..times.len()).collect();
    let draws = (0..200).map(|_| {
        random.shuffle(&mut all);
        count(&all[..chosen.len()]) as f64
    });
    (count(chosen), draws.sum::<f64>() / 200.0)
}

#[test]
fn few_frames_of_a_real_clip_show_everybody() {
    let (Some(dir), Some(mut backend)) = (data("clips"), open()) else { return };
    let clips = [
        ("one-by-one-person-detection.mp4", 1.0, real::PEOPLE.as_slice(), 5),
        ("car-detection.mp4", 0.4, real::CARS.as_slice(), 3),
    ];
    for (clip, step_s, spans, least) in clips {
        let (mut embeddings, mut times) = (vec![], vec![]);
        for frame in every(&dir.join(clip), step_s) {
            times.push(seconds(&frame));
            embeddings.push(frame_embedding(&infer(backend.as_mut(), frame)));
        }
        for percent in [5, 10, 20] {
            let (kept, chosen) = choose(&embeddings, (embeddings.len() * percent).div_ceil(100));
            let (got, by_chance) = found(spans, &times, &chosen);
            println!(
                "{clip}: {} frames ({kept} without near duplicates), {} chosen ({percent} %): {got} of {} things, by chance {by_chance:.1}",
                times.len(),
                chosen.len(),
                spans.len()
            );
            assert!(got >= least && got as f64 > by_chance, "{got}");
        }
    }
}

const MANY: usize = 100_000;
const DIM: usize = 384;

fn noise(random: &mut Random) -> Vec<f32> {
    let mut values: Vec<f32> =
        (0..DIM).map(|_| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
    to_unit(&mut values);
    values
}

#[test]
fn a_hundred_thousand_embeddings_are_searched_while_one_waits() {
    let mut random = Random(9);
    let mut gallery = Gallery::default();
    let needle = noise(&mut random);
    for incident in 0..MANY {
        let mut embedding = noise(&mut random);
        if incident == 77_777 {
            embedding.iter_mut().zip(&needle).for_each(|(e, n)| *e = 0.2 * *e + n);
            to_unit(&mut embedding);
        }
        gallery.add(incident, None, &embedding);
    }
    let probe = Probe { class: None, embedding: needle };
    let started = clock::monotonic();
    let rounds = 20;
    for _ in 0..rounds {
        let hits = gallery.search(std::slice::from_ref(&probe), 20);
        assert_eq!((hits.len(), hits[0].incident), (20, 77_777));
        assert!(hits[0].similarity > 0.95 && hits[1].similarity < 0.5, "{hits:?}");
    }
    let each_ms = clock::monotonic().since(started).as_secs_f64() * 1e3 / f64::from(rounds);
    let megabytes = (MANY * (DIM * 4 + 8 + 2)) as f64 / 1e6;
    println!("{MANY} embeddings of {DIM}: {each_ms:.1} ms a search on one thread, exact, {megabytes:.0} MB");
    assert!(each_ms < 1000.0, "{each_ms} ms");
}

#[test]
fn an_album_of_many_incidents_is_read_while_one_waits() {
    // A tenth of 100,000, to write in a reasonable time; STANDOFF_INCIDENTS asks for more.
    let count = std::env::var("STANDOFF_INCIDENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(MANY / 10);
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { keep: Duration::MAX, max_bytes: u64::MAX };
    let album = Album::new(folder.path().join("pictures"), limits);
    let mut random = Random(2);
    let embedding = noise(&mut random);
    for incident in 0..count {
        let taken = UtcMillis(1_795_300_000_000 + incident as i64);
        let id = format!("ab-{incident}");
        let about = About::new(camera(), RuleId::new("edge").unwrap(), taken, &id, "m-392x224");
        let thing =
            |class: &str| ThingRecord { class: ClassName::new(class).unwrap(), embedding: embedding.clone() };
        let things = vec![thing("forklift"), thing("person")];
        let record = Record { about, frame: embedding.clone(), things }.write().unwrap();
        album.store(&camera(), taken, &id, b"", Some(&record)).unwrap();
    }
    let started = clock::monotonic();
    let mut read = 0;
    album
        .embeddings(
            |kept| kept.camera == "dock",
            |_, bytes| read += Record::read(&bytes).unwrap().things.len(),
        )
        .unwrap();
    let took = clock::monotonic().since(started).as_secs_f64();
    println!("{count} embedding files read from the disk's cache in {took:.2} s");
    assert_eq!(read, 2 * count);
    assert!(took < 60.0, "{took} s");
}

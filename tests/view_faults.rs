//! Pictures that go wrong, in virtual time: how fast the analysis says `unknown`, and that nothing else makes it
//! say so. Real pictures, drawn faults, no model: the heads are left out, the rest of the path is the daemon's.
//!
//! Short by default. The long form of docs/view-health.md, about ten minutes on two cores:
//! `STANDOFF_LONG=1 cargo test --release --test view_faults -- --nocapture`. `STANDOFF_SEED=n` replays a run;
//! `STANDOFF_EACH=1500 STANDOFF_FAULT=Covered` looks for what is rare.

// Clippy lets tests panic, but not the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "gstreamer")]

#[path = "view_faults/moved.rs"]
mod moved;
#[path = "view_faults/pictures.rs"]
mod pictures;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::tz::TimeZone;
use pictures::{Clock, Cover, Dice, Luma};
use standoff::analysis::{Analysis, CameraSetup, Surroundings};
use standoff::clock::{self, Now, Timestamp, UtcMillis};
use standoff::config::{self, Config};
use standoff::ingest::clip::Clip;
use standoff::outbox::Statement;
use standoff::types::{
    CameraHealth, CameraId, CameraState, Features, Frame, Grid, Monitor, PixelTransform, Reason, StageTimes,
    State, Transition,
};
use standoff::view::{Commission, Profile, ViewSettings};

/// From capture to analysis.
const DELAY: Duration = Duration::from_millis(200);
/// Promised: from the fault to `unknown`, of the clip's time.
const WORST: f64 = 3.0;
/// Seconds of a clip that faults are drawn into; a longer clip gives its first ones.
const HELD_S: f64 = 40.0;

fn long() -> bool {
    std::env::var_os("STANDOFF_LONG").is_some()
}

/// How many of each kind.
fn each(long_form: usize, short_form: usize) -> usize {
    let given = std::env::var("STANDOFF_EACH").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(if long() { long_form } else { short_form })
}

fn seed() -> u64 {
    let given = std::env::var("STANDOFF_SEED").ok().and_then(|text| text.parse().ok());
    // The short form is the same every time; the long one looks for what nobody has seen.
    let seed =
        given.unwrap_or_else(|| if long() { clock::utc().0.unsigned_abs() % 1_000_000 } else { 883_378 });
    println!("STANDOFF_SEED={seed} replays this");
    seed
}

fn camera() -> CameraId {
    CameraId::new("dock").unwrap()
}

/// A clip whose pictures are held.
struct Reel {
    name: String,
    fps: f64,
    pictures: Vec<Luma>,
    profile: Arc<Profile>,
}

fn clips() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut clips = vec![root.join("tests/data/dock-demo/video.mp4")];
    match std::fs::read_dir(root.join("../shared/data/clips")) {
        Ok(folder) => {
            let mut real: Vec<PathBuf> = folder
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "mp4"))
                .collect();
            real.sort();
            clips.extend(real);
        }
        Err(_) => println!("SKIP: no folder ../shared/data/clips: only the dock clip is used"),
    }
    clips
}

/// Plays a clip again and again for `length`, without end and without a gap at the seam.
fn looped(path: &Path, length: Duration) -> impl Iterator<Item = Frame> {
    let path = path.to_owned();
    let mut offset = Duration::ZERO;
    let mut clip = Clip::open(&path, camera()).unwrap_or_else(|error| panic!("{error}"));
    let interval = Duration::from_secs_f64(1.0 / clip.fps().unwrap_or(10.0));
    let mut end = Duration::ZERO;
    let mut seq = 0;
    std::iter::from_fn(move || {
        let mut frame = loop {
            match clip.next() {
                Some(frame) => break frame.unwrap_or_else(|error| panic!("{error}")),
                None => {
                    offset = end;
                    clip = Clip::open(&path, camera()).unwrap();
                }
            }
        };
        let time = offset + frame.captured.since(Timestamp::default());
        end = time + interval;
        frame.captured = Timestamp::default() + time;
        frame.seq = seq;
        seq += 1;
        (time < length).then_some(frame)
    })
}

/// Commissions the clip as `standoff commission` does: 60 s of it, looped when it is shorter. Once for all tests.
fn commission(path: &Path) -> Arc<Profile> {
    static KNOWN: Mutex<BTreeMap<PathBuf, Arc<Profile>>> = Mutex::new(BTreeMap::new());
    if let Some(known) = KNOWN.lock().unwrap().get(path) {
        return known.clone();
    }
    let mut commission = Commission::new(ViewSettings::default().after);
    for frame in looped(path, Duration::from_secs(60)) {
        commission.look(&frame);
    }
    let profile = commission.finish().unwrap_or_else(|refusal| panic!("{}: {refusal}", path.display()));
    assert!(profile.frozen_below().is_some(), "{}: cannot tell frozen from still", path.display());
    KNOWN.lock().unwrap().entry(path.to_owned()).or_insert(Arc::new(profile)).clone()
}

fn reels() -> Vec<Reel> {
    clips()
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let clip = Clip::open(path, camera()).unwrap();
            let fps = clip.fps().unwrap();
            let count = (HELD_S * fps) as usize;
            let pictures: Vec<Luma> = clip.take(count).map(|frame| Luma::of(&frame.unwrap())).collect();
            let profile = commission(path);
            println!(
                "{name}: {} x {}, {fps:.1} pictures a second, {} held, stillest {:.2}, detail in {} tiles",
                pictures[0].width,
                pictures[0].height,
                pictures.len(),
                profile.stillest,
                profile.detail_tiles().0
            );
            Reel { name, fps, pictures, profile }
        })
        .collect()
}

/// The daemon's analysis without heads: an empty dock is clear, unless the view says otherwise.
struct Path_ {
    analysis: Analysis,
    around: Surroundings,
    ticked: Timestamp,
    /// Every change of the rule's state, with the time at which it was said.
    said: Vec<(Timestamp, Transition)>,
    /// The last line for people about a camera that was moved.
    detail: String,
    /// Whether it says that it would notice a camera that is moved.
    moved: Monitor,
}

impl Path_ {
    fn new(profile: Option<Arc<Profile>>) -> Self {
        Self::of(profile, None)
    }

    /// With another lens than the demo's.
    fn of(profile: Option<Arc<Profile>>, lens: Option<standoff::geometry::Lens>) -> Self {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/dock-demo.yaml"))
                .unwrap();
        let around = config::Surroundings {
            file: "dock-demo.yaml".into(),
            folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines"),
            machine_id: Some("0123456789abcdef".into()),
            ..config::Surroundings::default()
        };
        let config = Config::parse(&text, &around).unwrap_or_else(|problems| panic!("{problems}"));
        let dock = &config.cameras[0];
        let mut rules = dock.rules.clone();
        rules.truncate(1);
        rules[0].when.clear();
        let mut site = dock.site.clone();
        if let (Some(calibration), Some(lens)) = (&mut site.calibration, lens) {
            calibration.camera.lens = lens;
        }
        let setup = CameraSetup { id: camera(), site, rules, view: ViewSettings::default(), profile };
        let health = CameraHealth {
            state: CameraState::Live,
            reason: None,
            detail: String::new(),
            since: Timestamp::default(),
            connects: 1,
        };
        let around = Surroundings { health: BTreeMap::from([(camera(), health)]), ..Surroundings::default() };
        let analysis = Analysis::new(TimeZone::UTC, vec![], vec![setup], UtcMillis(0));
        let (ticked, moved) = (Timestamp::default(), Monitor::Learning);
        Self { analysis, around, ticked, said: vec![], detail: String::new(), moved }
    }

    fn show(&mut self, frame: Frame) {
        let now = frame.captured + DELAY;
        while self.ticked + standoff::analysis::TICK < now {
            self.ticked = self.ticked + standoff::analysis::TICK;
            let output = self.analysis.tick(at(self.ticked), &self.around);
            self.said.extend(output.transitions.into_iter().map(|transition| (self.ticked, transition)));
        }
        let output = self.analysis.step(at(now), features(frame), &self.around);
        for statement in &output.statements {
            let Statement::Camera(status) = statement else { continue };
            self.moved = status.view.moved;
            if !status.detail.is_empty() {
                self.detail.clone_from(&status.detail);
            }
        }
        self.said.extend(output.transitions.into_iter().map(|transition| (now, transition)));
    }

    fn state(&self) -> State {
        self.said
            .last()
            .map_or(State::Unknown(Reason::Starting), |(_, transition)| transition.status.state.clone())
    }
}

fn at(mono: Timestamp) -> Now {
    Now { mono, utc: UtcMillis((mono.as_nanos() / 1_000_000) as i64) }
}

fn features(frame: Frame) -> Features {
    let transform = PixelTransform {
        source_width: frame.width,
        source_height: frame.height,
        input_width: 392,
        input_height: 224,
        scale_x: 392.0 / f64::from(frame.width),
        scale_y: 224.0 / f64::from(frame.height),
        offset_x: 0.0,
        offset_y: 0.0,
    };
    Features {
        frame,
        transform,
        grid: Grid { rows: 16, cols: 28, patch_px: 14 },
        dim: 1,
        layers: vec![],
        cls: vec![],
        dense: BTreeMap::new(),
        closer: vec![],
        times: StageTimes::default(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Frozen,
    FrozenUnderAClock,
    Black,
    Covered,
    Blurred,
    WashedOut,
}

const KINDS: [Kind; 6] =
    [Kind::Frozen, Kind::FrozenUnderAClock, Kind::Black, Kind::Covered, Kind::Blurred, Kind::WashedOut];

impl Kind {
    fn reason(self) -> Reason {
        match self {
            Self::Frozen | Self::FrozenUnderAClock => Reason::Frozen,
            Self::Black => Reason::Dark,
            Self::Covered => Reason::Covered,
            Self::Blurred => Reason::Blurred,
            Self::WashedOut => Reason::WashedOut,
        }
    }
}

/// What is drawn on one run, all of it from the run's seed.
#[derive(Debug, Clone)]
struct Fault {
    kind: Kind,
    /// Every so many pictures of the clip are analysed.
    every: usize,
    start: usize,
    begins_s: f64,
    clock: Option<Clock>,
    /// Seconds between the key pictures of an encoder behind the frozen camera.
    key_s: Option<f64>,
    noise: f64,
    strength: f64,
    cover: Cover,
    /// False: what is normal was learned from the first pictures.
    commissioned: bool,
}

impl Fault {
    fn roll(kind: Kind, reel: &Reel, dice: &mut Dice) -> Self {
        let rates = [reel.fps, 5.0, 3.0];
        let every = (reel.fps / rates[dice.below(3)]).round().max(1.0) as usize;
        let rate = reel.fps / every as f64;
        let clock = Clock {
            width: dice.uniform(0.15, 0.3),
            height: dice.uniform(0.04, 0.07),
            right: dice.chance(0.5),
            bottom: dice.chance(0.5),
        };
        let frozen = matches!(kind, Kind::Frozen | Kind::FrozenUnderAClock);
        let key_s = dice.uniform(1.0, 4.0);
        let commissioned = frozen || dice.chance(0.5);
        Self {
            kind,
            every,
            start: dice.below(reel.pictures.len()),
            begins_s: dice.uniform(0.0, 2.0) + if commissioned { 4.0 } else { 11.0 },
            clock: (kind == Kind::FrozenUnderAClock || (!frozen && dice.chance(0.2))).then_some(clock),
            // Documented: fewer than six analysed pictures to a key picture hide a frozen camera.
            key_s: (frozen && dice.chance(0.5) && key_s * rate >= 6.0).then_some(key_s),
            noise: dice.uniform(0.0, 1.2),
            strength: match kind {
                Kind::Black => dice.uniform(0.0, 0.05),
                Kind::Blurred => dice.uniform(0.015, 0.04),
                Kind::WashedOut => dice.uniform(0.7, 0.95),
                Kind::Covered => dice.uniform(0.85, 1.0),
                Kind::Frozen | Kind::FrozenUnderAClock => 0.0,
            },
            cover: Cover {
                side: dice.below(4),
                share: 0.0,
                level: dice.uniform(40.0, 200.0),
                slope: dice.uniform(-30.0, 30.0),
                stripes: false,
            },
            commissioned,
        }
    }

    /// Draws it. `frozen` is the picture that a hanging camera repeats.
    fn draw(&self, picture: &mut Luma, frozen: &mut Option<Luma>, key: Option<u64>, dice: &mut Dice) {
        match self.kind {
            Kind::Frozen | Kind::FrozenUnderAClock => {
                let frozen = frozen.get_or_insert_with(|| picture.clone());
                if key.is_some() {
                    frozen.noise(0.7, dice);
                }
                *picture = frozen.clone();
            }
            Kind::Black => {
                picture.light(self.strength);
                picture.noise(self.noise, dice);
            }
            Kind::Covered => {
                picture.cover(&Cover { share: self.strength, ..self.cover.clone() });
                picture.noise(self.noise, dice);
            }
            Kind::Blurred => {
                picture.blur(self.strength * picture.width as f64);
                picture.noise(self.noise, dice);
            }
            Kind::WashedOut => {
                picture.veil(self.strength);
                picture.noise(self.noise, dice);
            }
        }
    }
}

/// How one run went.
#[derive(Debug)]
struct Outcome {
    /// From the fault to `unknown`, seconds of the clip's time.
    after_s: Option<f64>,
    reason: Option<Reason>,
    /// From the fault's end to a state again.
    back_s: Option<f64>,
}

/// How long a fault lasts, and how long its end is watched, seconds.
const LASTS_S: f64 = 5.0;
const BACK_S: f64 = 7.0;

fn play(reel: &Reel, fault: &Fault, seed: u64) -> Outcome {
    let mut dice = Dice::new(seed ^ 0x5eed);
    let mut path = Path_::new(fault.commissioned.then(|| reel.profile.clone()));
    let mut frozen = None;
    let mut keys = 0;
    let ends_s = fault.begins_s + LASTS_S;
    let count = ((ends_s + BACK_S) * reel.fps) as usize;
    let mut before = None;
    for index in (0..count).step_by(fault.every) {
        let t_s = index as f64 / reel.fps;
        let mut picture = reel.pictures[(fault.start + index) % reel.pictures.len()].clone();
        if t_s >= fault.begins_s && t_s < ends_s {
            before.get_or_insert_with(|| path.state());
            let key =
                fault.key_s.map(|key_s| ((t_s - fault.begins_s) / key_s) as u64).filter(|key| *key > keys);
            keys = key.unwrap_or(keys);
            fault.draw(&mut picture, &mut frozen, key, &mut dice);
        }
        if let Some(clock) = &fault.clock {
            picture.clock(clock, t_s as u64);
        }
        path.show(picture.frame(
            &camera(),
            index as u64,
            Timestamp::default() + Duration::from_secs_f64(t_s),
        ));
    }
    assert_eq!(
        before,
        Some(State::Clear),
        "{}: {fault:?} began while it was not clear: {:?}",
        reel.name,
        path.said
    );
    let since = |begin: f64, is: fn(&State) -> bool| {
        path.said
            .iter()
            .map(|(time, transition)| {
                (time.since(Timestamp::default()).as_secs_f64(), &transition.status.state)
            })
            .find(|(time, state)| *time > begin && is(state))
            .map(|(time, state)| (time - begin, state.clone()))
    };
    let noticed = since(fault.begins_s, |state| matches!(state, State::Unknown(_)));
    Outcome {
        after_s: noticed.as_ref().map(|(time, _)| *time),
        reason: noticed.and_then(|(_, state)| match state {
            State::Unknown(reason) => Some(reason),
            _ => None,
        }),
        back_s: since(ends_s, |state| *state == State::Clear).map(|(time, _)| time),
    }
}

/// Runs jobs on both cores of a small machine.
fn in_parallel<T: Send>(count: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = job(index);
                    done.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).copied().unwrap_or(f64::NAN)
}

#[test]
fn every_fault_is_noticed_within_3_s_and_its_end_too() {
    let (seed, reels) = (seed(), reels());
    let each = each(120, 8);
    let only = std::env::var("STANDOFF_FAULT").ok();
    println!(
        "\n{:<20} {:>4} {:>7} {:>7} {:>7} {:>7} {:>11} {:>7} {:>7}",
        "fault", "n", "missed", "median", "p95", "worst", "other word", "back", "worst"
    );
    let mut failures = vec![];
    for kind in KINDS {
        if only.as_ref().is_some_and(|only| *only != format!("{kind:?}")) {
            continue;
        }
        let runs = in_parallel(each, |index| {
            let mut dice = Dice::new(seed ^ ((kind as u64) << 32) ^ index as u64);
            let reel = &reels[index % reels.len()];
            let fault = Fault::roll(kind, reel, &mut dice);
            let outcome = play(reel, &fault, seed ^ index as u64);
            (reel.name.clone(), fault, outcome)
        });
        let mut after: Vec<f64> = runs.iter().filter_map(|(_, _, outcome)| outcome.after_s).collect();
        let mut back: Vec<f64> = runs.iter().filter_map(|(_, _, outcome)| outcome.back_s).collect();
        after.sort_by(f64::total_cmp);
        back.sort_by(f64::total_cmp);
        let other = runs
            .iter()
            .filter(|(_, _, outcome)| outcome.reason.is_some_and(|reason| reason != kind.reason()))
            .count();
        println!(
            "{:<20} {:>4} {:>7} {:>7.2} {:>7.2} {:>7.2} {:>11} {:>7.2} {:>7.2}",
            format!("{kind:?}"),
            runs.len(),
            runs.len() - after.len(),
            quantile(&after, 0.5),
            quantile(&after, 0.95),
            quantile(&after, 1.0),
            other,
            quantile(&back, 0.5),
            quantile(&back, 1.0)
        );
        for (clip, fault, outcome) in runs {
            if outcome.after_s.is_none_or(|after| after > WORST) || outcome.back_s.is_none() {
                failures.push(format!("{clip}: {fault:?}: {outcome:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of the faults:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_clips_themselves_are_no_fault() {
    let length = Duration::from_secs(if long() { 600 } else { 40 });
    let clips = clips();
    println!("\n{:<34} {:>8} {:>9} {:>7} {:>13}", "clip", "seconds", "pictures", "every", "false faults");
    let jobs: Vec<(&PathBuf, bool, usize)> =
        clips.iter().flat_map(|clip| [(clip, true, 1), (clip, true, 3), (clip, false, 2)]).collect();
    let results = in_parallel(jobs.len(), |index| {
        let (clip, commissioned, every) = jobs[index];
        let mut path = Path_::new(commissioned.then(|| commission(clip)));
        let mut count = 0;
        for frame in looped(clip, length).step_by(every) {
            path.show(frame);
            count += 1;
        }
        let faults: Vec<String> = path
            .said
            .iter()
            .filter(|(_, transition)| matches!(transition.status.state, State::Unknown(_)))
            .map(|(time, transition)| {
                format!(
                    "{:.1} s: {:?}",
                    time.since(Timestamp::default()).as_secs_f64(),
                    transition.status.state
                )
            })
            .collect();
        let name = clip.file_stem().unwrap().to_string_lossy().into_owned();
        (format!("{name}{}", if commissioned { "" } else { ", learned" }), count, every, faults, path.state())
    });
    for (name, count, every, faults, _) in &results {
        println!("{name:<34} {:>8} {count:>9} {every:>7} {:>13}", length.as_secs(), faults.len());
    }
    for (name, _, _, faults, state) in results {
        assert!(faults.is_empty() && state == State::Clear, "{name}: {state:?}, {faults:#?}");
    }
}

/// What a look at a picture costs: `cargo test --release --test view_faults cost -- --ignored --nocapture`. The camera is
/// watched for being moved; first all is where it was, then it sees something else, so that every landmark is looked
/// for everywhere, which it does three times a second.
#[test]
#[ignore = "a measurement"]
fn cost() {
    for (width, height) in [(640, 360), (1920, 1080), (3840, 2160)] {
        let mut dice = Dice::new(1);
        // Blocks of many brightnesses, about as large in the picture whatever its size.
        let mut scene = |seed: usize| {
            let side = width / 40;
            let level = |x: usize, y: usize| {
                50 + (x / side * 7919 + y / side * 104_729 + seed * 31 + x / side * (y / side) * 97) % 130
            };
            let data = (0..width * height).map(|i| level(i % width, i / width) as u8).collect();
            let mut picture = Luma { width, height, data };
            picture.noise(2.0, &mut dice);
            picture
        };
        let (known, other) = (scene(1), scene(4000));
        let mut view = standoff::view::View::new(ViewSettings::default(), None);
        let mut look = |picture: &Luma, index: u64| {
            let frame = picture.frame(&camera(), index, Timestamp::from_nanos((index + 1) * 100_000_000));
            let began = clock::monotonic();
            view.look(&frame);
            (clock::monotonic().since(began).as_secs_f64() * 1000.0, view.status().moved)
        };
        let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
        let learning: Vec<_> = (0..100).map(|index| look(&known, index)).collect();
        assert_eq!(learning[99].1, Monitor::On);
        let calm: Vec<f64> = (100..160).map(|index| look(&known, index).0).collect();
        let moved: Vec<f64> = (160..220).map(|index| look(&other, index).0).collect();
        let worst = moved.iter().copied().fold(0.0, f64::max);
        println!(
            "{width} x {height}: {:.2} ms a picture, {:.2} ms of another scene, {worst:.2} ms when all is looked for",
            mean(&calm),
            mean(&moved)
        );
    }
}

/// Writes docs/images/view-faults.png: `cargo test --test view_faults -- --ignored`.
#[test]
#[ignore = "draws the picture of docs/view-health.md"]
fn the_picture_of_the_page() {
    let reel = &reels()[0];
    let clock = Clock { width: 0.25, height: 0.06, right: false, bottom: false };
    let side = Cover { side: 0, share: 0.9, level: 120.0, slope: 25.0, stripes: false };
    let mut frames = vec![];
    let mut dice = Dice::new(7);
    for (caption, draw) in [
        ("as commissioned", None),
        ("clock: frozen picture, living clock", Some(Kind::FrozenUnderAClock)),
        ("dark", Some(Kind::Black)),
        ("covered", Some(Kind::Covered)),
        ("blurred", Some(Kind::Blurred)),
        ("washed out", Some(Kind::WashedOut)),
    ] {
        let mut picture = reel.pictures[120].clone();
        match draw {
            None => {}
            Some(Kind::Frozen | Kind::FrozenUnderAClock) => picture.clock(&clock, 7),
            Some(Kind::Black) => picture.light(0.05),
            Some(Kind::Covered) => picture.cover(&side),
            Some(Kind::Blurred) => picture.blur(0.015 * picture.width as f64),
            Some(Kind::WashedOut) => picture.veil(0.7),
        }
        picture.noise(0.7, &mut dice);
        let grey = image::RgbImage::from_fn(picture.width as u32, picture.height as u32, |x, y| {
            let code = picture.data[y as usize * picture.width + x as usize];
            image::Rgb([((f32::from(code) - 16.0) * 255.0 / 219.0).clamp(0.0, 255.0) as u8; 3])
        });
        frames.push((grey, caption.to_owned()));
    }
    let page = standoff::draw::contact_sheet(&frames, &[]);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images/view-faults.png");
    standoff::draw::save(
        &image::imageops::resize(&page, 960, page.height() / 2, image::imageops::FilterType::Triangle),
        &file,
    )
    .unwrap();
}

/// What happens on a working day and is no fault.
#[derive(Debug, Clone, Copy)]
enum Ordinary {
    /// Something fills most of the picture for less than `after`.
    PassesClose,
    /// A truck with boards and lettering parks in front of a half of the picture.
    Parks,
    /// Half of the lights go out, and on again.
    LightsHalf,
    /// The pole shakes.
    Shakes,
    /// A noisy picture, as at dusk.
    Noisy,
}

#[test]
fn an_ordinary_day_is_no_fault() {
    let (seed, reels) = (seed(), reels());
    let each = each(60, 6);
    println!("\n{:<14} {:>4} {:>13}", "what", "n", "false faults");
    let mut failures = vec![];
    for what in
        [Ordinary::PassesClose, Ordinary::Parks, Ordinary::LightsHalf, Ordinary::Shakes, Ordinary::Noisy]
    {
        let runs = in_parallel(each, |index| {
            let mut dice = Dice::new(seed ^ ((what as u64) << 40) ^ index as u64);
            let reel = &reels[index % reels.len()];
            let every = if dice.chance(0.5) { 1 } else { (reel.fps / 5.0).round().max(1.0) as usize };
            let start = dice.below(reel.pictures.len());
            let cover = Cover {
                side: dice.below(4),
                share: if matches!(what, Ordinary::Parks) {
                    dice.uniform(0.3, 0.5)
                } else {
                    dice.uniform(0.6, 1.0)
                },
                level: dice.uniform(60.0, 200.0),
                slope: dice.uniform(-30.0, 30.0),
                stripes: matches!(what, Ordinary::Parks),
            };
            let (gain, sigma) = (dice.uniform(0.4, 0.6), dice.uniform(2.0, 5.0));
            let mut path = Path_::new(Some(reel.profile.clone()));
            for index in (0..(25.0 * reel.fps) as usize).step_by(every) {
                let t_s = index as f64 / reel.fps;
                let mut picture = reel.pictures[(start + index) % reel.pictures.len()].clone();
                match what {
                    Ordinary::PassesClose if t_s % 6.0 > 4.6 => picture.cover(&cover),
                    Ordinary::Parks if t_s > 5.0 => picture.cover(&cover),
                    Ordinary::LightsHalf if (8.0..16.0).contains(&t_s) => picture.light(gain),
                    Ordinary::Shakes if t_s > 5.0 => {
                        let mut by = || dice.below(5) as isize - 2;
                        picture.shift(by(), by());
                    }
                    Ordinary::Noisy if t_s > 5.0 => picture.noise(sigma, &mut dice),
                    _ => {}
                }
                path.show(picture.frame(
                    &camera(),
                    index as u64,
                    Timestamp::default() + Duration::from_secs_f64(t_s),
                ));
            }
            let faults: Vec<State> = path
                .said
                .iter()
                .map(|(_, transition)| transition.status.state.clone())
                .filter(|state| matches!(state, State::Unknown(_)))
                .collect();
            (reel.name.clone(), cover, every, faults)
        });
        let faulty = runs.iter().filter(|(.., faults)| !faults.is_empty()).count();
        println!("{:<14} {:>4} {faulty:>13}", format!("{what:?}"), runs.len());
        failures.extend(
            runs.into_iter().filter(|(.., faults)| !faults.is_empty()).map(|run| format!("{what:?} {run:?}")),
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

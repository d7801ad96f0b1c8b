//! `standoff calibrate`: how good a calibration is, before metres are believed: residuals, intervals, a grid to look at.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use image::RgbImage;

use super::teach::picture;
use super::{EXIT_USAGE, picture_file};
use crate::clock;
use crate::config::Survey;
use crate::draw::{self, FloorMark};
use crate::geometry::calibration::{Calibration, Item};
use crate::geometry::{Camera, FloorPlane};
use crate::ingest::clip::Clip;
use crate::ingest::{self, CameraSource};
use crate::preprocess::color::rgb_from_frame;
use crate::slot::{Batching, HealthBoard, Slots};
use crate::types::{CameraId, Frame};

/// How long a camera may take to give its first picture.
const FIRST_PICTURE: Duration = Duration::from_secs(30);
/// How long to wait for a picture before looking at the time.
const PATIENCE: Duration = Duration::from_millis(100);
/// Where it is said what a pixel means, metres from the camera's foot.
const RANGES_M: [f64; 3] = [5.0, 10.0, 20.0];

/// Arguments of `standoff calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArguments {
    /// A pipeline, or a file with the keys of one `calibration` (YAML or JSON)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which of the pipeline's cameras; needed when it has several
    #[arg(long, value_name = "CAMERA")]
    pub camera: Option<String>,
    /// The picture to draw on: jpg, png, a clip's first frame or a moment of it (FILE@SECONDS). Without it the camera of the
    /// pipeline is asked
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Where to write the picture of the grid and the points; without it calibration.png, unless that is there
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Runs the command: 0 when there is a calibration, 1 when the evidence is refused, 2 when it cannot be read.
pub fn run(arguments: &CalibrateArguments) -> anyhow::Result<ExitCode> {
    let survey = match Survey::load(&arguments.file, arguments.camera.as_deref()) {
        Ok(survey) => survey,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let solved = survey.solve();
    match &solved {
        Ok(calibration) => {
            print!("{}", report(&survey, calibration));
            println!("\n{}", block(&survey, calibration));
        }
        Err(error) => eprintln!("error: {error}"),
    }
    match picture_of(arguments, &survey) {
        Ok(Some(picture)) => {
            let camera = solved.as_ref().ok().map(|calibration| &calibration.camera);
            let drawn = drawn(&picture, &survey, camera)?;
            match picture_file(arguments.out.as_deref(), "calibration.png") {
                Ok(out) => {
                    draw::save(&drawn, &out)?;
                    println!("picture: {}", out.display());
                }
                Err(error) => eprintln!("no picture: {error}"),
            }
        }
        Ok(None) => println!("no picture: the file names no camera; give one with --image"),
        Err(error) => eprintln!("no picture: {error:#}"),
    }
    Ok(if solved.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was found, for people.
fn report(survey: &Survey, calibration: &Calibration) -> String {
    let camera = &calibration.camera;
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{:<11} {:>8}  {:<34} what", "item", "off", "by the calibration");
    let items = survey.evidence.items();
    for ((item, off_px), note) in items.iter().zip(&calibration.residual_px).zip(&survey.notes) {
        let is = measured(survey, *item, camera);
        let _ = writeln!(out, "{:<11} {off_px:>5.1} px  {is:<34} {note}", item.to_string());
    }
    let spare = survey.evidence.equations().saturating_sub(calibration.one_sigma_cameras.len());
    let _ = writeln!(
        out,
        "\nreprojection error {:.2} px, {spare} spare equations; a click is taken as uncertain by {:.1} px\n",
        calibration.rms_px, calibration.sigma_px
    );
    let mut row = |name: &str, unit: &str, digits: usize, of: &dyn Fn(&Camera) -> f64, note: &str| {
        let sign = if of(camera).abs() < 1e-9 { 0.0 } else { of(camera) };
        let interval = calibration.plus_minus(of);
        let _ = writeln!(out, "{name:<13} {sign:>8.digits$} +- {interval:.digits$} {unit}{note}");
    };
    row("height", "m", 2, &|c| c.pose.position_m[2], "");
    row("tilt", "degrees", 2, &tilt_deg, " below the horizon");
    row("roll", "degrees", 2, &roll_deg, ", clockwise");
    let view_deg = 2.0 * (camera.lens.width_px / 2.0 / camera.lens.fx_px).atan().to_degrees();
    let how = if calibration.found.focal { "found" } else { "given" };
    row("focal length", "px", 1, &|c| c.lens.fx_px, &format!(", {view_deg:.1} degrees across, {how}"));
    if calibration.found.distortion {
        row("k1", "", 4, &|c| c.lens.k1, "found");
        row("k2", "", 4, &|c| c.lens.k2, "found");
    } else if survey.wanted.distortion {
        let _ = writeln!(out, "distortion         none: the points do not show any");
    }
    let _ = writeln!(out, "\none pixel on the floor, and what the calibration alone leaves open (95 %):");
    for plane in &survey.floors {
        for range_m in RANGES_M {
            let _ = writeln!(out, "{}", pixel_line(calibration, plane, range_m));
        }
    }
    out
}

/// What an item measures by the calibration.
fn measured(survey: &Survey, item: Item, camera: &Camera) -> String {
    let floor = |height_m: f64| FloorPlane { height_m, area_m: vec![] };
    let text = match item {
        Item::Point(index) => survey.evidence.points.get(index).and_then(|p| {
            let [x, y] = camera.ground_from_pixel(p.pixel, &floor(p.height_m))?;
            let off = (x - p.ground_m[0]).hypot(y - p.ground_m[1]);
            Some(format!("[{x:.2}, {y:.2}] m, {off:.2} m off"))
        }),
        Item::Length(index) => survey.evidence.lengths.get(index).and_then(|l| {
            let [a, b] = l.ends_px.map(|end| camera.ground_from_pixel(end, &floor(l.height_m)));
            let (a, b) = (a?, b?);
            let given = if l.sigma_m > 0.0 {
                format!("{:.2} +- {:.2} m", l.length_m, 1.96 * l.sigma_m)
            } else {
                format!("{:.2} m", l.length_m)
            };
            Some(format!("{:.2} m for {given}", (a[0] - b[0]).hypot(a[1] - b[1])))
        }),
        Item::Upright(index) => survey.evidence.uprights.get(index).and_then(|u| {
            let [x, y] = camera.ground_from_pixel(u.foot_px, &floor(u.height_m))?;
            let p = camera.pose.position_m;
            Some(format!("{:.2} m tall, {:.1} m away", u.tall_m, (x - p[0]).hypot(y - p[1])))
        }),
    };
    text.unwrap_or_else(|| "above the horizon".to_owned())
}

fn tilt_deg(camera: &Camera) -> f64 {
    (-camera.pose.world_from_camera[2][2]).clamp(-1.0, 1.0).asin().to_degrees()
}

/// Clockwise as seen from behind the camera: then the picture's right side is lower in the world.
fn roll_deg(camera: &Camera) -> f64 {
    let r = &camera.pose.world_from_camera;
    (-r[2][0]).atan2(-r[2][1]).to_degrees()
}

/// What a pixel is across and along the view at a range, straight ahead.
fn pixel_line(calibration: &Calibration, plane: &FloorPlane, range_m: f64) -> String {
    let camera = &calibration.camera;
    let (p, r) = (camera.pose.position_m, &camera.pose.world_from_camera);
    let ahead = [r[0][2], r[1][2]];
    let length = ahead[0].hypot(ahead[1]).max(1e-9);
    let at = [p[0] + range_m * ahead[0] / length, p[1] + range_m * ahead[1] / length];
    let start = format!("  at {range_m:>4.0} m (floor at {:.2} m): ", plane.height_m);
    let lens = &camera.lens;
    let seen = camera
        .pixel_from_world([at[0], at[1], plane.height_m])
        .filter(|[u, v]| (0.0..lens.width_px).contains(u) && (0.0..lens.height_px).contains(v));
    let moved = |pixel: [f64; 2], by: [f64; 2]| {
        let to = camera.ground_from_pixel([pixel[0] + by[0], pixel[1] + by[1]], plane)?;
        Some((to[0] - at[0]).hypot(to[1] - at[1]))
    };
    let line = seen.and_then(|pixel| {
        let (across, along) = (moved(pixel, [1.0, 0.0])?, moved(pixel, [0.0, 1.0])?);
        let sigma_m = calibration.ground_sigma_m(pixel, plane)?;
        Some(format!(
            "{:.1} cm across, {:.1} cm along; place +- {:.2} m",
            100.0 * across,
            100.0 * along,
            1.96 * sigma_m
        ))
    });
    start + &line.unwrap_or_else(|| "not seen straight ahead".to_owned())
}

/// The `calibration` of a pipeline that says the same: what was measured, not what came out, so that the daemon has the
/// uncertainty too.
fn block(survey: &Survey, calibration: &Calibration) -> String {
    let lens = &survey.lens;
    let p = calibration.camera.pose.position_m;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "    calibration:       # reprojection error {:.2} px, {:.2} m high",
        calibration.rms_px, p[2]
    );
    let _ = writeln!(out, "      size: {}x{}", lens.width_px, lens.height_px);
    if !survey.wanted.focal {
        let _ = writeln!(
            out,
            "      intrinsics: {{fx: {:.3}, fy: {:.3}, cx: {:.2}, cy: {:.2}, k1: {}, k2: {}}}",
            lens.fx_px, lens.fy_px, lens.cx_px, lens.cy_px, lens.k1, lens.k2
        );
    }
    if survey.wanted.distortion {
        let _ = writeln!(out, "      distortion: solve");
    }
    let (evidence, mut notes) = (&survey.evidence, survey.notes.iter());
    let mut end = |height_m: f64| {
        let height = if height_m == 0.0 { String::new() } else { format!(", height_m: {height_m}") };
        let what = notes.next().filter(|note| !note.is_empty());
        // Quoted as JSON, which is YAML too, whatever the note holds.
        let what = what.map(|note| format!(", what: {}", serde_json::Value::from(note.as_str())));
        format!("{height}{}}}", what.unwrap_or_default())
    };
    let pair = |[x, y]: [f64; 2]| format!("[{x}, {y}]");
    let head = |out: &mut String, name: &str, is_there: bool| {
        if is_there {
            let _ = writeln!(out, "      {name}:");
        }
    };
    head(&mut out, "points", !evidence.points.is_empty());
    for point in &evidence.points {
        let (pixel, floor_m) = (pair(point.pixel), pair(point.ground_m));
        let _ = writeln!(out, "        - {{pixel: {pixel}, floor_m: {floor_m}{}", end(point.height_m));
    }
    head(&mut out, "lengths", !evidence.lengths.is_empty());
    for length in &evidence.lengths {
        let [from, to] = length.ends_px.map(pair);
        let assumed =
            if length.sigma_m > 0.0 { format!(", sigma_m: {}", length.sigma_m) } else { String::new() };
        let (metres, end) = (length.length_m, end(length.height_m));
        let _ =
            writeln!(out, "        - {{from_pixel: {from}, to_pixel: {to}, length_m: {metres}{assumed}{end}");
    }
    head(&mut out, "uprights", !evidence.uprights.is_empty());
    for upright in &evidence.uprights {
        let (foot, top) = (pair(upright.foot_px), pair(upright.top_px));
        let (metres, end) = (upright.tall_m, end(upright.height_m));
        let _ = writeln!(out, "        - {{foot_pixel: {foot}, top_pixel: {top}, tall_m: {metres}{end}");
    }
    out
}

/// The picture to draw on; none when nobody says where there is one.
fn picture_of(arguments: &CalibrateArguments, survey: &Survey) -> anyhow::Result<Option<RgbImage>> {
    let id = CameraId::new(survey.camera.as_deref().unwrap_or("camera"))?;
    let first = |path: &Path| -> anyhow::Result<Frame> {
        let frame = Clip::open(path, id.clone())?.next();
        Ok(frame.with_context(|| format!("{} holds no picture", path.display()))??)
    };
    let frame = match (&arguments.image, &survey.source) {
        (Some(path), _) => match picture::split(&path.to_string_lossy())? {
            (path, None) => first(&path)?,
            (path, seconds) => picture::frame_at(&path, seconds)?,
        },
        (None, Some(CameraSource::File { path, .. })) => first(path)?,
        (None, Some(CameraSource::Images { dir, .. })) => first(dir)?,
        (None, Some(source @ CameraSource::Rtsp(_))) => live(&id, source)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(rgb_from_frame(&frame)))
}

/// The first picture of a live camera.
fn live(id: &CameraId, source: &CameraSource) -> anyhow::Result<Frame> {
    let (slots, board) = (Arc::new(Slots::default()), Arc::new(HealthBoard::default()));
    let reader = ingest::Reader::Cpu;
    let handle =
        ingest::spawn(id.clone(), source.clone(), Duration::ZERO, reader, slots.clone(), board.clone())?;
    let started = clock::monotonic();
    let mut found = None;
    while found.is_none() && clock::monotonic().since(started) < FIRST_PICTURE {
        found = slots.take(Batching::up_to(1), PATIENCE).into_iter().next();
    }
    handle.stop();
    let why = board.get(id).map(|health| health.detail).unwrap_or_default();
    found.with_context(|| format!("the camera gave no picture within {} s {why}", FIRST_PICTURE.as_secs()))
}

/// The grid and the points on the picture. One of another size is only accepted in the same shape.
fn drawn(picture: &RgbImage, survey: &Survey, camera: Option<&Camera>) -> anyhow::Result<RgbImage> {
    let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
    let lens = &survey.lens;
    let (sx, sy) = (width / lens.width_px, height / lens.height_px);
    if (sx / sy - 1.0).abs() > 0.02 {
        bail!(
            "the picture is {width}x{height} and the calibration is for {}x{}: that is another shape",
            lens.width_px,
            lens.height_px
        );
    }
    let scaled = |[u, v]: [f64; 2]| [u * sx, v * sy];
    let marks: Vec<FloorMark> = survey
        .evidence
        .items()
        .iter()
        .filter_map(|item| {
            let mut mark = mark(survey, *item, camera)?;
            mark.clicked_px = scaled(mark.clicked_px);
            mark.solved_px = mark.solved_px.map(scaled);
            mark.to_px = mark.to_px.map(scaled);
            Some(mark)
        })
        .collect();
    let camera =
        camera.map(|camera| Camera { lens: camera.lens.scaled_to(width, height), pose: camera.pose });
    Ok(draw::floor(picture, camera.as_ref(), &survey.floors, &marks))
}

fn mark(survey: &Survey, item: Item, camera: Option<&Camera>) -> Option<FloorMark> {
    let evidence = &survey.evidence;
    Some(match item {
        Item::Point(index) => {
            let p = evidence.points.get(index)?;
            let solved = camera.and_then(|c| c.pixel_from_world([p.ground_m[0], p.ground_m[1], p.height_m]));
            FloorMark { label: (index + 1).to_string(), clicked_px: p.pixel, solved_px: solved, to_px: None }
        }
        Item::Length(index) => {
            let length = evidence.lengths.get(index)?;
            let [from, to] = length.ends_px;
            let label = format!("{}: {:.2} m", index + 1, length.length_m);
            FloorMark { label, clicked_px: from, solved_px: None, to_px: Some(to) }
        }
        Item::Upright(index) => {
            let upright = evidence.uprights.get(index)?;
            let label = format!("{}: {:.2} m", index + 1, upright.tall_m);
            FloorMark { label, clicked_px: upright.foot_px, solved_px: None, to_px: Some(upright.top_px) }
        }
    })
}

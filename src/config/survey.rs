//! What of a configuration a calibration needs, read also when the calibration does not come out: `standoff calibrate`
//! says what is wrong with it.

use std::path::Path;

use super::keys;
use super::problem::{Origin, Problem, Problems};
use super::read::{Reader, Report};
use super::yaml::{self, Node};
use super::{Surroundings, resolve, text_of};
use crate::geometry::calibration::{self, Calibration, KnownLength, Upright};
use crate::geometry::{CalibrationError, Evidence, FloorPlane, FloorPoint, Lens, Unknowns};
use crate::ingest::CameraSource;

/// What was measured at a camera, and what is known beside.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// The camera's name; none in a file that has only a calibration.
    pub camera: Option<String>,
    /// The lens. Its focal length is a guess when it is to be found.
    pub lens: Lens,
    /// What was measured.
    pub evidence: Evidence,
    /// What of the lens is to be found.
    pub wanted: Unknowns,
    /// The notes for people, in the order of the items; empty where there is none.
    pub notes: Vec<String>,
    /// The pieces of floor; never empty.
    pub floors: Vec<FloorPlane>,
    /// Where the camera's pictures come from, if the file says so.
    pub source: Option<CameraSource>,
}

/// The guess for a lens that nobody gave, degrees across.
const GUESS_DEG: f64 = 70.0;

impl Survey {
    /// Reads the calibration of a pipeline's camera (the only one when none is named), or a file that has only the keys
    /// of a calibration. YAML or JSON.
    ///
    /// # Errors
    /// What is wrong with these keys. What is wrong elsewhere in a pipeline is for `standoff check`.
    pub fn load(path: &Path, camera: Option<&str>) -> Result<Self, Problems> {
        let around = Surroundings::of(path);
        let one = |message: String| {
            Problems::new(&around.file, vec![Problem { path: String::new(), origin: Origin::File, message }])
        };
        let text = text_of(path, yaml::MAX_BYTES).map_err(one)?;
        let tree = yaml::parse(&text).map_err(|list| Problems::new(&around.file, list))?;
        let is_pipeline =
            matches!(&tree.node, Node::Map(entries) if entries.iter().any(|(key, _)| key == "cameras"));
        let report = Report::default();
        let survey = if is_pipeline {
            // What is wrong elsewhere in the file does not matter here.
            let other = Report::default();
            let file = Reader::open(&keys::FILE, &tree, String::new(), &other);
            let cameras = file.as_ref().map(|file| file.named("cameras")).unwrap_or_default();
            let names = || cameras.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let chosen = match (camera, cameras.as_slice()) {
                (Some(wanted), list) => list.iter().find(|(name, _)| *name == wanted).ok_or_else(|| {
                    one(format!("the configuration has no camera '{wanted}'; it has: {}", names()))
                })?,
                (None, [only]) => only,
                (None, _) => {
                    return Err(one(format!(
                        "there are several cameras ({}): say which with --camera",
                        names()
                    )));
                }
            };
            let (name, section) = chosen;
            if !section.has("calibration") {
                return Err(one(format!("the camera '{name}' has no `calibration`")));
            }
            let value = section.raw("calibration");
            let opened =
                value.and_then(|(path, value)| Reader::open(&keys::CALIBRATION, value, path, &report));
            let floors = resolve::floors(section);
            opened.and_then(|calibration| surveyed(&calibration)).map(|survey| Self {
                camera: Some((*name).to_owned()),
                floors: if floors.is_empty() { survey.floors } else { floors },
                source: resolve::source(section, &around),
                ..survey
            })
        } else {
            let opened = Reader::open(&keys::CALIBRATION, &tree, String::new(), &report);
            opened.and_then(|calibration| surveyed(&calibration))
        };
        let problems = report.into_problems();
        match survey {
            Some(survey) if problems.is_empty() => Ok(survey),
            _ => Err(Problems::new(&around.file, problems)),
        }
    }

    /// Solves it.
    ///
    /// # Errors
    /// As [`calibration::solve`].
    pub fn solve(&self) -> Result<Calibration, CalibrationError> {
        calibration::solve(&self.lens, &self.evidence, self.wanted)
    }
}

/// The calibration of a pipeline's camera.
pub(super) fn calibrated(section: &Reader<'_>) -> Option<Calibration> {
    let survey = surveyed(section)?;
    let key = ["points", "lengths", "uprights"].into_iter().find(|key| section.has(key));
    let error = match survey.solve() {
        Ok(calibration) => return Some(calibration),
        Err(error) => error,
    };
    // Whoever measured is told what to look at; the daemon does not stop watching for it.
    if let CalibrationError::Wrong { with: Some(calibration), .. } = &error {
        section.doubt_key(key.unwrap_or("points"), error.to_string());
        return Some(calibration.as_ref().clone());
    }
    match key {
        Some(key) => section.wrong_key(key, error.to_string()),
        None => section.wrong(error.to_string()),
    }
    None
}

fn surveyed(section: &Reader<'_>) -> Option<Survey> {
    let lens = lens(section);
    let distortion = section.parsed("distortion", |text| match text {
        "given" => Ok(false),
        "solve" => Ok(true),
        _ => Err("given or solve is wanted"),
    });
    let mut notes = vec![];
    let mut well = true;
    let mut note = |item: &Reader<'_>, is_there: bool| {
        notes.push(item.text("what").unwrap_or_default());
        well &= is_there;
    };
    let mut evidence = Evidence::default();
    for item in section.list("points") {
        let point = item.point("pixel").zip(item.point("floor_m")).zip(item.number("height_m"));
        note(&item, point.is_some());
        evidence.points.extend(point.map(|((pixel, ground_m), height_m)| FloorPoint {
            pixel,
            ground_m,
            height_m,
        }));
    }
    for item in section.list("lengths") {
        let ends = item.point("from_pixel").zip(item.point("to_pixel"));
        let metres = item.number("length_m").zip(item.number("sigma_m"));
        let length = ends.zip(metres).zip(item.number("height_m"));
        note(&item, length.is_some());
        evidence.lengths.extend(length.map(|(((from, to), (length_m, sigma_m)), height_m)| KnownLength {
            ends_px: [from, to],
            length_m,
            sigma_m,
            height_m,
        }));
    }
    for item in section.list("uprights") {
        let ends = item.point("foot_pixel").zip(item.point("top_pixel"));
        let upright = ends.zip(item.number("tall_m")).zip(item.number("height_m"));
        note(&item, upright.is_some());
        evidence.uprights.extend(upright.map(|(((foot_px, top_px), tall_m), height_m)| Upright {
            foot_px,
            top_px,
            tall_m,
            height_m,
        }));
    }
    let (lens, focal) = lens?;
    well.then_some(Survey {
        camera: None,
        lens,
        evidence,
        wanted: Unknowns { focal, distortion: distortion? },
        notes,
        floors: vec![FloorPlane::ground()],
        source: None,
    })
}

/// The lens, and whether its focal length is to be found.
fn lens(section: &Reader<'_>) -> Option<(Lens, bool)> {
    let size = section.size("size").map(|(width, height)| (f64::from(width), f64::from(height)));
    let hfov = section.number("hfov_deg").map(f64::to_radians);
    match (section.has("hfov_deg"), section.has("intrinsics")) {
        (true, true) => {
            section.wrong_key("intrinsics", "there is also `hfov_deg`; one of the two must go");
            None
        }
        (false, false) => {
            let (width_px, height_px) = size?;
            Some((Lens::from_horizontal_fov(width_px, height_px, GUESS_DEG.to_radians()), true))
        }
        (true, false) => {
            let (width_px, height_px) = size?;
            Some((Lens::from_horizontal_fov(width_px, height_px, hfov?), false))
        }
        (false, true) => {
            let lens = section.section("intrinsics")?;
            let number = |key: &str| lens.number(key);
            let [fx, fy, cx, cy, k1, k2] = ["fx", "fy", "cx", "cy", "k1", "k2"].map(number);
            let (width_px, height_px) = size?;
            let (fx_px, fy_px, cx_px, cy_px, k1, k2) = (fx?, fy?, cx?, cy?, k1?, k2?);
            Some((Lens { width_px, height_px, fx_px, fy_px, cx_px, cy_px, k1, k2 }, false))
        }
    }
}

//! Cameras that are known, evidence that is computed from them, and what is made of it.

use super::super::camera::{Pose, tests::camera_above_origin};
use super::super::vector::{matmul, norm2, rotation};
use super::*;
use proptest::prelude::*;

fn seen(camera: &Camera, ground_m: [f64; 2], height_m: f64) -> FloorPoint {
    FloorPoint {
        pixel: camera.pixel_from_world([ground_m[0], ground_m[1], height_m]).unwrap(),
        ground_m,
        height_m,
    }
}

fn lens() -> Lens {
    Lens::from_horizontal_fov(640.0, 360.0, 70f64.to_radians())
}

const SQUARE: [[f64; 2]; 4] = [[-2.0, 5.0], [2.0, 5.0], [2.5, 11.0], [-2.5, 11.0]];

#[test]
fn four_exact_points_give_the_exact_camera() {
    let truth = camera_above_origin(lens());
    let points = SQUARE.map(|g| seen(&truth, g, 0.0));
    let got = calibrate(&lens(), &points).unwrap();
    assert!(got.rms_px < 1e-6, "{}", got.rms_px);
    for i in 0..3 {
        assert!((got.camera.pose.position_m[i] - truth.pose.position_m[i]).abs() < 1e-5);
    }
    assert_eq!(got.one_sigma_cameras.len(), 6);
    // Nearer floor is known better than far floor.
    let plane = FloorPlane::ground();
    let near = got.ground_sigma_m(points[0].pixel, &plane).unwrap();
    let far = got.ground_sigma_m(truth.pixel_from_world([0.0, 25.0, 0.0]).unwrap(), &plane).unwrap();
    assert!(near > 0.0 && far > 3.0 * near, "{near} {far}");
}

#[test]
fn points_of_two_planes_are_used_together() {
    let truth = camera_above_origin(lens());
    let mut points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
    points.push(seen(&truth, [0.5, 14.0], -1.2));
    let got = calibrate(&lens(), &points).unwrap();
    assert!(got.rms_px < 1e-6);
}

#[test]
fn degenerate_sets_are_refused_with_the_reason() {
    let truth = camera_above_origin(lens());
    let at = |g: &[[f64; 2]]| g.iter().map(|g| seen(&truth, *g, 0.0)).collect::<Vec<_>>();
    let error = |g: &[[f64; 2]]| calibrate(&lens(), &at(g)).unwrap_err().to_string();
    assert!(error(&SQUARE[..3]).contains("has 3 floor points"));
    assert!(error(&[[0.0, 5.0], [0.0, 6.0], [0.0, 8.0], [0.0, 11.0]]).contains("on a line"));
    assert!(error(&[[-2.0, 5.0], [0.0, 5.0], [2.0, 5.0], [0.0, 9.0]]).contains("all points but one"));
    assert!(error(&[[1.0, 5.0]; 4]).contains("one spot"));
    // A patch of floor 20 cm wide, 20 m away: the height cannot be told from it.
    assert!(error(&[[-0.1, 20.0], [0.1, 20.0], [0.1, 20.2], [-0.1, 20.2]]).contains("degenerate"));
}

#[test]
fn a_wrong_point_is_named() {
    let truth = camera_above_origin(lens());
    let mut points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
    points.extend([[0.0, 7.0], [-1.0, 8.5], [1.5, 6.0], [0.3, 10.0]].map(|g| seen(&truth, g, 0.0)));
    points[5].pixel[0] += 80.0;
    let error = calibrate(&lens(), &points).unwrap_err();
    let CalibrationError::Wrong { item: Item::Point(5), off_px, advice, .. } = &error else {
        panic!("{error}")
    };
    assert!((off_px - 80.0).abs() < 1.0, "{off_px}");
    let was = points[5].pixel;
    assert!(advice.contains(&format!("should be at [{:.0}, {:.0}]", was[0] - 80.0, was[1])), "{advice}");
    assert!(error.to_string().starts_with("calibration: point 6 does not fit the others"), "{error}");
}

#[test]
fn a_lens_that_is_not_as_given_is_doubted_and_not_refused() {
    // Its picture is bent, which shows in the one point that lies in a corner.
    let truth = camera_above_origin(Lens { k1: -0.15, ..lens() });
    let mut points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
    points.extend([[0.0, 7.0], [-1.0, 8.5], [1.5, 6.0], [0.3, 10.0]].map(|g| seen(&truth, g, 0.0)));
    let corner = [0.03 * lens().width_px, 0.96 * lens().height_px];
    let place = truth.ground_from_pixel(corner, &FloorPlane::ground()).unwrap();
    points.push(seen(&truth, place, 0.0));
    let error = calibrate(&lens(), &points).unwrap_err();
    assert!(error.to_string().contains("or the lens is not as given: try `distortion: solve`"), "{error}");
    let CalibrationError::Wrong { item: Item::Point(8), off_px, with: Some(all), .. } = &error else {
        panic!("{error:?}")
    };
    assert!(*off_px > 10.0 && all.rms_px < 0.02 * lens().width_px, "{off_px} {}", all.rms_px);
    assert_eq!(all.residual_px.len(), 9);
    // With the distortion found as well there is nothing to doubt.
    let wanted = Unknowns { focal: false, distortion: true };
    let evidence = Evidence { points: points.clone(), ..Evidence::default() };
    assert!((solve(&lens(), &evidence, wanted).unwrap().camera.lens.k1 + 0.15).abs() < 0.02);
    // What is off farther than a lens explains stays refused.
    points[5].pixel[0] += 150.0;
    let error = calibrate(&lens(), &points).unwrap_err();
    assert!(!matches!(error, CalibrationError::Wrong { with: Some(_), .. }), "{error:?}");
}

#[test]
fn mirrored_floor_axes_are_refused() {
    let truth = camera_above_origin(lens());
    let points = SQUARE.map(|g| FloorPoint { ground_m: [-g[0], g[1]], ..seen(&truth, g, 0.0) });
    assert!(calibrate(&lens(), &points).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_pixel_of_noise_stays_within_its_sigma(noise in proptest::collection::vec(-1.0..1.0f64, 16)) {
        let truth = camera_above_origin(Lens { k1: -0.08, ..lens() });
        let grounds = [[-2.0, 5.0], [2.0, 5.0], [2.5, 11.0], [-2.5, 11.0], [0.0, 7.0], [-1.0, 8.5], [1.5, 6.0], [4.0, 16.0]];
        let points: Vec<_> = grounds.iter().enumerate().map(|(i, g)| {
            let mut p = seen(&truth, *g, 0.0);
            p.pixel = [p.pixel[0] + noise[2 * i], p.pixel[1] + noise[2 * i + 1]];
            p
        }).collect();
        let got = calibrate(&truth.lens, &points).unwrap();
        let pixel = truth.pixel_from_world([0.5, 9.0, 0.0]).unwrap();
        let plane = FloorPlane::ground();
        let error = norm2(sub2(got.camera.ground_from_pixel(pixel, &plane).unwrap(), [0.5, 9.0]));
        let sigma = got.ground_sigma_m(pixel, &plane).unwrap();
        prop_assert!(got.rms_px < 1.5);
        prop_assert!(error < 4.0 * sigma, "{} {}", error, sigma);
    }
}

/// Numbers that are the same every time.
struct Dice(u64);

impl Dice {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Normal with standard deviation 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn click(&mut self, pixel: [f64; 2], sigma_px: f64) -> [f64; 2] {
        [pixel[0] + sigma_px * self.normal(), pixel[1] + sigma_px * self.normal()]
    }
}

/// A camera as they hang: 2.5 to 7 m high, tilted 15 to 45 degrees, 50 to 95 degrees wide.
fn hanging(dice: &mut Dice) -> Camera {
    let lens = Lens::from_horizontal_fov(640.0, 360.0, dice.between(50.0, 95.0).to_radians());
    let tilt = dice.between(15.0, 45.0).to_radians();
    let (s, c) = tilt.sin_cos();
    let level = matmul(
        &[[1.0, 0.0, 0.0], [0.0, -s, c], [0.0, -c, -s]],
        &rotation([0.0, 0.0, dice.between(-0.06, 0.06)]),
    );
    let pose = Pose {
        world_from_camera: matmul(&rotation([0.0, 0.0, dice.between(-3.0, 3.0)]), &level),
        position_m: [dice.between(-20.0, 20.0), dice.between(-20.0, 20.0), dice.between(2.5, 7.0)],
    };
    Camera { lens, pose }
}

/// A place on the floor that is seen, not farther than 15 m.
fn somewhere(camera: &Camera, dice: &mut Dice) -> [f64; 2] {
    for _ in 0..10_000 {
        let pixel = [dice.between(20.0, 620.0), dice.between(20.0, 340.0)];
        if let Some(ground) = camera.ground_from_pixel(pixel, &FloorPlane::ground())
            && norm2(sub2(ground, [camera.pose.position_m[0], camera.pose.position_m[1]])) < 15.0
        {
            return ground;
        }
    }
    panic!("no floor is seen")
}

/// Points in the picture's four quarters in turn, as a person spreads them.
fn spread_points(camera: &Camera, count: usize, dice: &mut Dice) -> Vec<[f64; 2]> {
    let quarter = |camera: &Camera, ground: [f64; 2]| {
        let [u, v] = camera.pixel_from_world([ground[0], ground[1], 0.0]).unwrap();
        usize::from(u > 320.0) + 2 * usize::from(v > 200.0)
    };
    (0..count)
        .map(|i| (0..200).map(|_| somewhere(camera, dice)).find(|g| quarter(camera, *g) == i % 4))
        .map(|found| found.unwrap_or_else(|| somewhere(camera, &mut Dice(99 + count as u64))))
        .collect()
}

fn clicked(camera: &Camera, grounds: &[[f64; 2]], sigma_px: f64, dice: &mut Dice) -> Vec<FloorPoint> {
    let point = |ground_m: &[f64; 2]| {
        let exact = seen(camera, *ground_m, 0.0);
        FloorPoint { pixel: dice.click(exact.pixel, sigma_px), ..exact }
    };
    grounds.iter().map(point).collect()
}

fn length_of(camera: &Camera, a: [f64; 2], b: [f64; 2]) -> KnownLength {
    let end = |g: [f64; 2]| camera.pixel_from_world([g[0], g[1], 0.0]).unwrap();
    KnownLength { ends_px: [end(a), end(b)], length_m: norm2(sub2(a, b)), sigma_m: 0.0, height_m: 0.0 }
}

fn upright_at(camera: &Camera, at: [f64; 2], tall_m: f64) -> Upright {
    let point = |z: f64| camera.pixel_from_world([at[0], at[1], z]).unwrap();
    Upright { foot_px: point(0.0), top_px: point(tall_m), tall_m, height_m: 0.0 }
}

const ASK_FOCAL: Unknowns = Unknowns { focal: true, distortion: false };

#[test]
fn lengths_and_uprights_give_height_tilt_and_roll() {
    let truth = camera_above_origin(lens());
    let lengths = vec![
        length_of(&truth, [-2.0, 5.0], [2.0, 5.0]),
        length_of(&truth, [2.0, 5.0], [2.5, 11.0]),
        length_of(&truth, [-2.5, 11.0], [2.5, 11.0]),
        length_of(&truth, [-1.0, 6.0], [0.5, 8.0]),
    ];
    let only_lengths = Evidence { lengths, ..Evidence::default() };
    let uprights = vec![upright_at(&truth, [-2.0, 7.0], 2.1), upright_at(&truth, [2.0, 9.0], 1.8)];
    let only_uprights = Evidence { uprights, ..Evidence::default() };
    for evidence in [only_lengths, only_uprights] {
        let got = solve(&lens(), &evidence, Unknowns::default()).unwrap();
        assert!(got.rms_px < 1e-5, "{}", got.rms_px);
        // The origin is below the camera and y is where it looks, so that the whole pose is that of the truth.
        for i in 0..3 {
            assert!((got.camera.pose.position_m[i] - truth.pose.position_m[i]).abs() < 1e-4, "{got:?}");
            assert!(
                (got.camera.pose.world_from_camera[i][2] - truth.pose.world_from_camera[i][2]).abs() < 1e-5
            );
        }
        assert_eq!(got.one_sigma_cameras.len(), 3);
        assert!(got.one_sigma_cameras.iter().all(|c| c.pose.position_m[..2] == [0.0, 0.0]));
    }
}

#[test]
fn two_points_are_placed_with_the_help_of_other_evidence() {
    let truth = hanging(&mut Dice(77));
    let mut dice = Dice(5);
    let g: Vec<[f64; 2]> = (0..6).map(|_| somewhere(&truth, &mut dice)).collect();
    let evidence = Evidence {
        points: vec![seen(&truth, g[0], 0.0), seen(&truth, g[1], 0.0)],
        lengths: vec![length_of(&truth, g[2], g[3]), length_of(&truth, g[4], g[5])],
        uprights: vec![upright_at(&truth, g[2], 1.5)],
    };
    let got = solve(&truth.lens, &evidence, Unknowns::default()).unwrap();
    for i in 0..3 {
        assert!((got.camera.pose.position_m[i] - truth.pose.position_m[i]).abs() < 1e-3, "{got:?}");
    }
}

#[test]
fn the_focal_length_is_found_when_nobody_knows_it() {
    let truth = camera_above_origin(lens());
    let guess = Lens::from_horizontal_fov(640.0, 360.0, 1.0);
    let mut points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
    points.extend([[0.3, 7.0], [-1.0, 16.0]].map(|g| seen(&truth, g, 0.0)));
    let got = solve(&guess, &Evidence { points, ..Evidence::default() }, ASK_FOCAL).unwrap();
    assert!((got.camera.lens.fx_px - truth.lens.fx_px).abs() < 0.01, "{}", got.camera.lens.fx_px);
    assert!(got.found.focal && got.one_sigma_cameras.len() == 7);
    let g = [[-2.0, 7.0], [2.0, 6.0], [1.0, 9.0], [-1.0, 5.0]];
    let uprights = g.iter().map(|g| upright_at(&truth, *g, 2.1)).collect();
    let got = solve(&guess, &Evidence { uprights, ..Evidence::default() }, ASK_FOCAL).unwrap();
    assert!((got.camera.lens.fx_px - truth.lens.fx_px).abs() < 0.05, "{}", got.camera.lens.fx_px);
}

#[test]
fn a_floor_seen_from_straight_above_does_not_give_the_focal_length() {
    // Twice as high and twice as long a lens is the same picture.
    let pose = Pose {
        world_from_camera: [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]],
        position_m: [0.0, 0.0, 6.0],
    };
    let truth = Camera { lens: lens(), pose };
    let grounds = [[-3.0, -1.5], [3.0, -1.5], [3.0, 1.5], [-3.0, 1.5], [0.5, 0.2], [-1.0, 1.0]];
    let points: Vec<_> = grounds.iter().map(|g| seen(&truth, *g, 0.0)).collect();
    let error =
        solve(&lens(), &Evidence { points, ..Evidence::default() }, ASK_FOCAL).unwrap_err().to_string();
    assert!(
        error.contains("cannot tell the focal length") && error.contains("straight from above"),
        "{error}"
    );
}

#[test]
fn too_little_of_each_kind_is_refused_with_what_is_missing() {
    let truth = camera_above_origin(lens());
    let points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
    let lengths = vec![length_of(&truth, [-2.0, 5.0], [2.0, 5.0]); 3];
    let of = |points: &[FloorPoint], lengths: &[KnownLength], wanted: Unknowns| {
        let evidence = Evidence { points: points.to_vec(), lengths: lengths.to_vec(), uprights: Vec::new() };
        solve(&lens(), &evidence, wanted).unwrap_err().to_string()
    };
    assert!(of(&points, &[], ASK_FOCAL).contains("at least 5 points"));
    assert!(of(&[], &lengths, Unknowns::default()).contains("3 equations for 3 unknowns"));
    assert!(of(&points[..1], &lengths, Unknowns::default()).contains("one floor point beside other"));
    let bent = Unknowns { focal: false, distortion: true };
    assert!(of(&points, &[], bent).contains("asked for the distortion"));
    // The same length three times and a fourth beside it: nothing says how far away the floor goes on.
    let same = vec![length_of(&truth, [-2.0, 5.0], [2.0, 5.0]); 5];
    assert!(of(&[], &same, Unknowns::default()).contains("degenerate"));
    let mut nothing = lengths;
    nothing[1].length_m = 0.0;
    assert!(of(&[], &nothing, Unknowns::default()).contains("length 2 must be longer"));
}

#[test]
fn distortion_is_found_where_there_is_some_and_only_there() {
    let ask = Unknowns { focal: false, distortion: true };
    for (k1, k2) in [(0.0, 0.0), (-0.18, 0.03)] {
        let truth = camera_above_origin(Lens { k1, k2, ..lens() });
        let mut dice = Dice(3);
        let grounds = spread_points(&truth, 16, &mut dice);
        let points = clicked(&truth, &grounds, 0.7, &mut dice);
        let got = solve(&lens(), &Evidence { points, ..Evidence::default() }, ask).unwrap();
        assert_eq!(got.found.distortion, k1 != 0.0, "{got:?}");
        let plane = FloorPlane::ground();
        let error = grounds.iter().map(|g| {
            let pixel = truth.pixel_from_world([g[0], g[1], 0.0]).unwrap();
            norm2(sub2(got.camera.ground_from_pixel(pixel, &plane).unwrap(), *g))
        });
        let worst = error.fold(0.0, f64::max);
        assert!(worst < 0.3, "k1 {k1}: {worst} m");
    }
}

/// One gross mistake among points clicked with noise is named, and honest noise is not blamed.
#[test]
fn one_wrong_point_of_six_or_eight_is_named() {
    let (mut named, mut mistaken, mut blamed) = (0, 0, 0);
    const RUNS: u64 = 100;
    for seed in 0..RUNS {
        let mut dice = Dice(1 + 7919 * (seed + 1));
        let truth = hanging(&mut dice);
        let grounds = spread_points(&truth, if seed % 2 == 0 { 6 } else { 8 }, &mut dice);
        let mut points = clicked(&truth, &grounds, 1.0, &mut dice);
        let honest = calibrate(&truth.lens, &points);
        blamed += u32::from(matches!(honest, Err(CalibrationError::Wrong { .. })));
        let index = (seed as usize) % points.len();
        points[index].pixel[1] += if points[index].pixel[1] > 180.0 { -60.0 } else { 60.0 };
        match calibrate(&truth.lens, &points) {
            Err(CalibrationError::Wrong { item, .. }) if item == Item::Point(index) => named += 1,
            Err(CalibrationError::Wrong { .. }) => mistaken += 1,
            _ => {}
        }
    }
    println!(
        "wrong by 60 px: named {named} of {RUNS}, another one named {mistaken}; honest ones blamed {blamed}"
    );
    assert!(named >= 90 && mistaken <= 2 && blamed == 0, "{named} {mistaken} {blamed}");
}

#[test]
fn a_wrong_length_and_a_wrong_upright_are_named_too() {
    let truth = camera_above_origin(lens());
    let points: Vec<_> = SQUARE.iter().map(|g| seen(&truth, *g, 0.0)).collect();
    let evidence = Evidence {
        points,
        lengths: vec![length_of(&truth, [-1.0, 6.0], [1.5, 8.0]), length_of(&truth, [0.0, 6.0], [2.0, 9.0])],
        uprights: vec![upright_at(&truth, [-2.0, 8.0], 2.1)],
    };
    let mut wrong = evidence.clone();
    wrong.lengths[1].length_m += 0.5;
    let error = solve(&lens(), &wrong, Unknowns::default()).unwrap_err();
    assert!(error.to_string().contains("length 2 does not fit"), "{error}");
    assert!(error.to_string().contains("given as 4.11 m and is 3.61 m"), "{error}");
    let mut wrong = evidence;
    wrong.uprights[0].tall_m = 2.6;
    let error = solve(&lens(), &wrong, Unknowns::default()).unwrap_err();
    assert!(error.to_string().contains("upright 1 does not fit"), "{error}");
}

#[test]
fn of_four_points_none_is_named() {
    let truth = camera_above_origin(lens());
    let mut points = SQUARE.map(|g| seen(&truth, g, 0.0));
    points[2].pixel[0] += 60.0;
    let error = calibrate(&lens(), &points).unwrap_err();
    assert!(matches!(error, CalibrationError::Disagree { few: true, .. }), "{error}");
    assert!(
        error.to_string().contains("Which one is wrong cannot be told: with six points it could"),
        "{error}"
    );
}

/// How often a place on the floor lies within the calibration's own 95 % ellipse, and how wide that is.
fn coverage(points: usize, sigma_px: f64, focal: bool, seeds: u64) -> (f64, f64) {
    let (mut inside, mut all, mut widths) = (0, 0, vec![]);
    for seed in 0..seeds {
        let mut dice = Dice(1 + 104_729 * (seed + 1));
        let truth = hanging(&mut dice);
        let grounds = spread_points(&truth, points, &mut dice);
        let evidence =
            Evidence { points: clicked(&truth, &grounds, sigma_px, &mut dice), ..Evidence::default() };
        let guess = if focal { Lens::from_horizontal_fov(640.0, 360.0, 1.2) } else { truth.lens };
        let Ok(got) = solve(&guess, &evidence, Unknowns { focal, distortion: false }) else { continue };
        let target = somewhere(&truth, &mut dice);
        let pixel = truth.pixel_from_world([target[0], target[1], 0.0]).unwrap();
        let plane = FloorPlane::ground();
        let Some(at) = got.camera.ground_from_pixel(pixel, &plane) else { continue };
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for camera in &got.one_sigma_cameras {
            let Some(moved) = camera.ground_from_pixel(pixel, &plane) else { continue };
            let d = sub2(moved, at);
            (xx, xy, yy) = (xx + d[0] * d[0], xy + d[0] * d[1], yy + d[1] * d[1]);
        }
        let e = sub2(at, target);
        let mahalanobis =
            (yy * e[0] * e[0] - 2.0 * xy * e[0] * e[1] + xx * e[1] * e[1]) / (xx * yy - xy * xy);
        // 5.991 is the 95 % quantile of chi-square with two degrees of freedom.
        inside += u32::from(mahalanobis < 5.991);
        all += 1;
        widths.push((xx + yy).sqrt());
    }
    widths.sort_by(f64::total_cmp);
    // Four places drawn at random are often nearly on a line, and refused.
    assert!(f64::from(all) > 0.8 * seeds as f64, "{all} of {seeds} were solved");
    (f64::from(inside) / f64::from(all), widths[widths.len() / 2])
}

#[test]
fn the_truth_lies_within_the_ellipse_as_often_as_it_says() {
    println!("points  noise  focal   inside 95 %   median sigma");
    for (points, sigma_px, focal, low) in [
        (4, 1.0, false, 0.93),
        (8, 1.0, false, 0.93),
        (4, 2.0, false, 0.85),
        (8, 2.0, false, 0.9),
        (8, 1.0, true, 0.9),
        (12, 2.0, true, 0.9),
    ] {
        let (inside, sigma_m) = coverage(points, sigma_px, focal, 400);
        println!("{points:>6}  {sigma_px:.0} px   {focal:<6} {:>8.1} %   {sigma_m:.3} m", inside * 100.0);
        assert!((low..=1.0).contains(&inside), "{points} points, {sigma_px} px: {inside}");
    }
}

/// The table of docs/calibration.md: `cargo test --release --lib clicks_against_points -- --nocapture`.
#[test]
fn clicks_against_points() {
    const SEEDS: u64 = 300;
    let percentile = |errors: &[f64], share: f64| errors[(errors.len() as f64 * share) as usize];
    println!(
        "| Points | Noise | at 5 m: median, 95 % | at 10 m | at 20 m |\n| --- | --- | --- | --- | --- |"
    );
    let mut medians = vec![];
    for (points, noise_px) in [(4, 0.5), (4, 2.0), (8, 0.5), (8, 2.0), (16, 2.0)] {
        let mut errors = [5.0, 10.0, 20.0].map(|range_m| (range_m, vec![]));
        for seed in 0..SEEDS {
            let mut dice = Dice(1 + 15_485_863 * (seed + 1));
            let truth = Camera { lens: lens(), ..hanging(&mut dice) };
            let grounds = spread_points(&truth, points, &mut dice);
            let evidence = clicked(&truth, &grounds, noise_px, &mut dice);
            let Ok(got) = calibrate(&lens(), &evidence) else { continue };
            for (range_m, errors) in &mut errors {
                // A length of 2 m across the view at that range, read from its pixels.
                let (p, r) = (truth.pose.position_m, &truth.pose.world_from_camera);
                let length = r[0][2].hypot(r[1][2]);
                let (fx, fy) = (r[0][2] / length, r[1][2] / length);
                let end = |across: f64, along: f64| {
                    [p[0] + along * fx + across * fy, p[1] + along * fy - across * fx]
                };
                // Half of them along the view, half across.
                let ends = if seed % 2 == 0 {
                    [end(0.0, *range_m - 1.0), end(0.0, *range_m + 1.0)]
                } else {
                    [end(-1.0, *range_m), end(1.0, *range_m)]
                };
                let measured: Vec<_> = ends
                    .iter()
                    .filter_map(|g| truth.pixel_from_world([g[0], g[1], 0.0]))
                    .filter_map(|pixel| got.camera.ground_from_pixel(pixel, &FloorPlane::ground()))
                    .collect();
                if let [a, b] = measured[..] {
                    errors.push((norm2(sub2(a, b)) - 2.0).abs());
                }
            }
        }
        let cells: Vec<String> = errors
            .iter_mut()
            .map(|(_, errors)| {
                errors.sort_by(f64::total_cmp);
                format!("{:.3} m, {:.3} m", percentile(errors, 0.5), percentile(errors, 0.95))
            })
            .collect();
        println!("| {points} | {noise_px} px | {} |", cells.join(" | "));
        medians.push(((points, noise_px), percentile(&errors[1].1, 0.5)));
    }
    let of = |points: usize, noise_px: f64| {
        medians.iter().find(|(key, _)| *key == (points, noise_px)).map_or(f64::NAN, |(_, median)| *median)
    };
    assert!(of(8, 2.0) < of(4, 2.0) && of(4, 0.5) < of(4, 2.0) && of(16, 2.0) < of(8, 2.0));
}

#[test]
fn an_assumed_length_is_as_wrong_as_it_is_assumed_however_often() {
    let truth = camera_above_origin(lens());
    let mut dice = Dice(11);
    let sigma_share = 0.05;
    for (count, scatter_px) in [(6, 0.0), (24, 0.0), (24, 3.0)] {
        let lengths: Vec<KnownLength> = (0..count)
            .map(|_| {
                let [x, y] = somewhere(&truth, &mut dice);
                let turn = dice.between(0.0, 3.1);
                let exact = length_of(&truth, [x, y], [x + 1.8 * turn.cos(), y + 1.8 * turn.sin()]);
                let ends_px = exact.ends_px.map(|end| dice.click(end, scatter_px));
                KnownLength { ends_px, length_m: 1.8, ..exact }
            })
            .collect();
        let share = |sigma_m: f64, given_m: f64| {
            let lengths = lengths.iter().map(|l| KnownLength { sigma_m, length_m: given_m, ..*l }).collect();
            let got =
                solve(&lens(), &Evidence { lengths, ..Evidence::default() }, Unknowns::default()).unwrap();
            let height_m = got.camera.pose.position_m[2];
            (got.plus_minus(|c| c.pose.position_m[2]) / Z_95 / height_m, height_m)
        };
        let ((measured, _), (assumed, height_m)) = (share(0.0, 1.8), share(sigma_share * 1.8, 1.8));
        assert!((height_m - 4.0).abs() < 1e-4 + 0.1 * scatter_px, "{height_m}");
        let expected = measured.hypot(sigma_share);
        assert!((assumed - expected).abs() < 0.05 * expected, "{count}: {assumed} {expected}");
        // All of them given too long by two standard deviations: nothing is off, and the height is wrong by as much.
        let (share, longer_m) = share(sigma_share * 1.98, 1.98);
        assert!((longer_m / height_m - 1.1).abs() < 1e-3 && share > 0.05, "{longer_m} {share}");
    }
}

#[test]
fn a_measured_length_counts_for_more_than_an_assumed_one() {
    let truth = camera_above_origin(lens());
    let g = [[-2.0, 5.0], [2.0, 5.0], [2.5, 11.0], [-2.5, 11.0], [-1.0, 7.0], [1.0, 8.0]];
    let of = |i: usize, j: usize| length_of(&truth, g[i], g[j]);
    let mut lengths = vec![of(0, 1), of(1, 2), of(2, 3), of(3, 0), of(4, 5)];
    // Two that are assumed alike and 6 % too long.
    let size_m = norm2(sub2(g[0], [-0.2, 5.0]));
    for ends in [[g[0], [-0.2, 5.0]], [[0.0, 9.0], [1.8, 9.0]]] {
        let long_m = 1.06 * size_m;
        lengths.push(KnownLength { length_m: long_m, sigma_m: 0.1, ..length_of(&truth, ends[0], ends[1]) });
    }
    let got = solve(&lens(), &Evidence { lengths, ..Evidence::default() }, Unknowns::default()).unwrap();
    assert!((got.camera.pose.position_m[2] - 4.0).abs() < 0.02, "{:?}", got.camera.pose);
    assert!(got.residual_px.iter().all(|off| *off < 2.0), "{:?}", got.residual_px);
}

//! Distance against time: measured with its interval, true, the limits, and the state below.

use std::ops::Range;

use image::{Rgb, RgbImage};

use super::canvas::{self, Align, BLACK, GREY, WHITE};
use super::{Colour, state_colour};
use crate::types::State;

const SIZE: (u32, u32) = (1896, 600);
const TEXT_PX: f64 = 21.0;
const STRIP_PX: f64 = 18.0;
const GRID: Colour = [226, 226, 226];
const MEASURED: Colour = [31, 91, 163];
const TRUE: Colour = [20, 20, 20];
/// Samples further apart than this are not joined: nothing was known between them.
const GAP_S: f64 = 1.0;

/// One pair's distances over a clip.
#[derive(Debug, Clone, Default)]
pub struct DistancePlot {
    /// What is measured: "forklift to dock edge".
    pub title: String,
    /// Measured, in the order of time.
    pub samples: Vec<PlotSample>,
    /// True distances as (seconds, metres), none where there is no such thing; empty when there is no truth.
    pub truth: Vec<(f64, Option<f64>)>,
    /// Each state with the second from which it was reported, in the order of time.
    pub states: Vec<(f64, State)>,
    /// Warning distance, metres.
    pub warning_m: Option<f64>,
    /// Alarm distance, metres.
    pub alarm_m: Option<f64>,
    /// The end of the time axis in seconds.
    pub end_s: f64,
    /// The top of the distance axis in metres; what lies above is cut off. None shows all.
    pub top_m: Option<f64>,
}

/// What was measured in one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlotSample {
    /// Seconds from the start.
    pub time_s: f64,
    /// (nearest, lower, upper) in metres; none when nothing was measured.
    pub metres: Option<(f64, f64, f64)>,
    /// True when the thing was cut by the picture's edge, so that the distance is only a bound: drawn pale.
    pub bound: bool,
}

/// From seconds and metres to pixels.
struct Axes {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    end_s: f64,
    top_m: f64,
}

impl Axes {
    fn x(&self, time_s: f64) -> f64 {
        self.left + (self.right - self.left) * (time_s / self.end_s).clamp(0.0, 1.0)
    }

    fn y(&self, metres: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * (metres / self.top_m).clamp(0.0, 1.0)
    }
}

/// Draws the plot, 1896 x 600 pixels.
pub fn plot_distance(series: &DistancePlot) -> RgbImage {
    let mut image = RgbImage::from_pixel(SIZE.0, SIZE.1, Rgb(WHITE));
    let axes = Axes {
        left: 90.0,
        right: f64::from(SIZE.0) - 26.0,
        top: 96.0,
        bottom: f64::from(SIZE.1) - 104.0,
        end_s: if series.end_s > 0.0 { series.end_s } else { 1.0 },
        top_m: series.top_m.unwrap_or_else(|| highest(series)).max(0.1),
    };
    draw_grid(&mut image, &axes);
    for (limit, name, colour) in [
        (series.warning_m, "warning", state_colour(&State::Warning)),
        (series.alarm_m, "alarm", state_colour(&State::Alarm)),
    ] {
        if let Some(limit) = limit {
            let y = axes.y(limit);
            canvas::dashed(&mut image, [axes.left, y], [axes.right, y], 2.2, 11.0, colour);
            let words = format!("{name} {limit:.2} m");
            canvas::text(&mut image, [axes.right - 4.0, y - TEXT_PX], Align::Right, TEXT_PX, colour, &words);
        }
    }
    draw_measured(&mut image, &axes, &series.samples);
    let truth = series.truth.iter().map(|(t, m)| (*t, *m));
    polyline(&mut image, &axes, truth, 2.4, TRUE);
    draw_states(&mut image, &axes, &series.states);
    canvas::text(&mut image, [axes.left, 10.0], Align::Left, 28.0, BLACK, &series.title);
    draw_legend(&mut image, &axes, !series.truth.is_empty());
    image
}

fn highest(series: &DistancePlot) -> f64 {
    let measured = series.samples.iter().filter_map(|s| s.metres.map(|(nearest, _, _)| nearest));
    let truth = series.truth.iter().filter_map(|(_, metres)| *metres);
    let limits = series.warning_m.into_iter().chain(series.alarm_m);
    let highest = measured.chain(truth).chain(limits).filter(|m| m.is_finite()).fold(0.0, f64::max);
    if highest > 0.0 { highest * 1.08 } else { 1.0 }
}

/// The 1, 2 or 5 times a power of ten that gives at most `max_ticks` steps.
pub(super) fn tick_step(range: f64, max_ticks: f64) -> f64 {
    let rough = range / max_ticks;
    let decade = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].iter().map(|m| m * decade).find(|step| *step >= rough).unwrap_or(10.0 * decade)
}

fn draw_grid(image: &mut RgbImage, axes: &Axes) {
    let step = tick_step(axes.top_m, 7.0);
    let mut metres = 0.0;
    while metres <= axes.top_m + 1e-9 {
        let y = axes.y(metres).floor() + 0.5;
        canvas::line(image, [axes.left, y], [axes.right, y], 1.0, GRID);
        let words = if step < 1.0 { format!("{metres:.1}") } else { format!("{metres:.0}") };
        canvas::text(image, [axes.left - 8.0, y - TEXT_PX / 2.0], Align::Right, TEXT_PX, GREY, &words);
        metres += step;
    }
    let step = tick_step(axes.end_s, 16.0);
    let mut seconds = 0.0;
    while seconds <= axes.end_s + 1e-9 {
        let x = axes.x(seconds).floor() + 0.5;
        canvas::line(image, [x, axes.top], [x, axes.bottom], 1.0, GRID);
        let words = if step < 1.0 { format!("{seconds:.1}") } else { format!("{seconds:.0}") };
        canvas::text(image, [x, axes.bottom + 6.0], Align::Centre, TEXT_PX, GREY, &words);
        seconds += step;
    }
    canvas::line(image, [axes.left, axes.bottom], [axes.right, axes.bottom], 1.5, GREY);
    canvas::line(image, [axes.left, axes.top], [axes.left, axes.bottom], 1.5, GREY);
    canvas::text(image, [axes.left - 8.0, axes.top - 1.6 * TEXT_PX], Align::Right, TEXT_PX, GREY, "m");
    let below = axes.bottom + 6.0 + 1.2 * TEXT_PX;
    canvas::text(image, [axes.right, below], Align::Right, TEXT_PX, GREY, "time in seconds");
}

/// Runs of samples with a distance and without a gap.
fn runs(samples: &[PlotSample]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, sample) in samples.iter().enumerate().filter(|(_, s)| s.metres.is_some()) {
        match runs.last_mut() {
            Some(run) if run.end == i && sample.time_s - samples[i - 1].time_s <= GAP_S => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

fn draw_measured(image: &mut RgbImage, axes: &Axes, samples: &[PlotSample]) {
    for run in runs(samples) {
        let points: Vec<_> =
            samples[run].iter().filter_map(|s| s.metres.map(|m| (axes.x(s.time_s), m, s.bound))).collect();
        for pair in points.windows(2) {
            let ((x0, a, bound), (x1, b, _)) = (pair[0], pair[1]);
            for x in x0.round() as i64..x1.round() as i64 {
                let share = if x1 > x0 { (x as f64 + 0.5 - x0) / (x1 - x0) } else { 0.0 };
                let (lower, upper) = (a.1 + (b.1 - a.1) * share, a.2 + (b.2 - a.2) * share);
                let alpha = if bound { 0.10 } else { 0.24 };
                let x = x as f64;
                canvas::fill_rect(image, [x, axes.y(upper)], [x + 1.0, axes.y(lower)], MEASURED, alpha);
            }
        }
        for pair in points.windows(2) {
            let ((x0, a, bound), (x1, b, _)) = (pair[0], pair[1]);
            let ends = ([x0, axes.y(a.0)], [x1, axes.y(b.0)]);
            canvas::line(image, ends.0, ends.1, if bound { 1.4 } else { 3.0 }, MEASURED);
        }
        if let [(x, (nearest, lower, upper), _)] = points[..] {
            canvas::line(image, [x, axes.y(lower)], [x, axes.y(upper)], 1.0, MEASURED);
            canvas::disc(image, [x, axes.y(nearest)], 2.0, MEASURED);
        }
    }
}

fn polyline(
    image: &mut RgbImage,
    axes: &Axes,
    points: impl Iterator<Item = (f64, Option<f64>)>,
    width: f64,
    colour: Colour,
) {
    let mut last: Option<(f64, [f64; 2])> = None;
    for (time_s, metres) in points {
        let here = metres.map(|m| (time_s, [axes.x(time_s), axes.y(m)]));
        if let (Some((before_s, a)), Some((_, b))) = (last, here)
            && time_s - before_s <= GAP_S
        {
            canvas::line(image, a, b, width, colour);
        }
        last = here;
    }
}

/// A strip below the time axis in the states' colours, with their words where there is room.
fn draw_states(image: &mut RgbImage, axes: &Axes, states: &[(f64, State)]) {
    let top = axes.bottom + 62.0;
    let bottom = top + 30.0;
    // Without repeats, so that a word finds the room of the whole stretch.
    let mut states: Vec<&(f64, State)> = states.iter().collect();
    states.dedup_by(|later, earlier| later.1.word() == earlier.1.word());
    for (i, (from_s, state)) in states.iter().copied().enumerate() {
        let until_s = states.get(i + 1).map_or(axes.end_s, |next| next.0);
        let (left, right) = (axes.x(*from_s), axes.x(until_s));
        canvas::fill_rect(image, [left, top], [right, bottom], state_colour(state), 1.0);
        let words = state.word();
        if canvas::text_width(words, STRIP_PX) + 6.0 < right - left {
            canvas::text(image, [(left + right) / 2.0, top + 6.0], Align::Centre, STRIP_PX, WHITE, words);
        }
    }
    if !states.is_empty() {
        canvas::text(image, [axes.left - 8.0, top + 6.0], Align::Right, STRIP_PX, GREY, "state");
    }
}

fn draw_legend(image: &mut RgbImage, axes: &Axes, with_truth: bool) {
    let y = 56.0;
    let middle = y + TEXT_PX / 2.0;
    let mut x = axes.left;
    canvas::fill_rect(image, [x, y], [x + 44.0, y + TEXT_PX], MEASURED, 0.24);
    canvas::line(image, [x, middle], [x + 44.0, middle], 3.0, MEASURED);
    x += 54.0;
    let words = "measured, with its 95 % interval";
    canvas::text(image, [x, y], Align::Left, TEXT_PX, BLACK, words);
    x += canvas::text_width(words, TEXT_PX) + 44.0;
    if with_truth {
        canvas::line(image, [x, middle], [x + 44.0, middle], 2.4, TRUE);
        canvas::text(image, [x + 54.0, y], Align::Left, TEXT_PX, BLACK, "true");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Reason;

    fn sample(time_s: f64, metres: f64) -> PlotSample {
        PlotSample { time_s, metres: Some((metres, metres - 0.5, metres + 0.5)), bound: false }
    }

    fn example() -> DistancePlot {
        DistancePlot {
            title: "forklift to edge".into(),
            samples: (0..=200).map(|i| sample(f64::from(i) / 10.0, 5.0)).collect(),
            truth: (0..=200).map(|i| (f64::from(i) / 10.0, Some(2.0))).collect(),
            states: vec![(0.0, State::Unknown(Reason::Starting)), (10.0, State::Clear)],
            warning_m: Some(3.0),
            alarm_m: Some(1.0),
            end_s: 20.0,
            top_m: Some(10.0),
        }
    }

    // The drawing area of the plot: left 90, right 1870, top 96, bottom 496.
    const MIDDLE_X: u32 = 980;

    fn y_of(metres: f64) -> u32 {
        (496.0 - 400.0 * metres / 10.0) as u32
    }

    #[test]
    fn curves_lie_at_their_metres() {
        let image = plot_distance(&example());
        assert_eq!(image.get_pixel(MIDDLE_X, y_of(5.0)).0, MEASURED);
        let band = image.get_pixel(MIDDLE_X + 20, y_of(5.35)).0;
        assert!(band[0] < 230 && band[2] > band[0], "{band:?}");
        let above_band = image.get_pixel(MIDDLE_X + 20, y_of(5.8)).0;
        assert_eq!(above_band, WHITE);
        let truth = image.get_pixel(MIDDLE_X, y_of(2.0)).0;
        assert!(truth[0] < 90, "{truth:?}");
    }

    #[test]
    fn the_strip_shows_the_states() {
        let image = plot_distance(&example());
        assert_eq!(image.get_pixel(100, 584).0, state_colour(&State::Unknown(Reason::Starting)));
        assert_eq!(image.get_pixel(1800, 584).0, state_colour(&State::Clear));
    }

    #[test]
    fn nothing_is_drawn_where_nothing_is_known() {
        let mut plot = example();
        for sample in &mut plot.samples[80..120] {
            sample.metres = None;
        }
        let image = plot_distance(&plot);
        assert_ne!(image.get_pixel(MIDDLE_X, y_of(5.0)).0, MEASURED);
        assert_eq!(runs(&plot.samples), [0..80, 120..201]);
        plot.samples.retain(|s| s.metres.is_some());
        assert_eq!(runs(&plot.samples), [0..80, 80..161], "a long silence is a gap too");
    }

    #[test]
    fn empty_and_odd_series_make_a_plot() {
        assert_eq!(plot_distance(&DistancePlot::default()).dimensions(), SIZE);
        let odd = DistancePlot { samples: vec![sample(f64::NAN, f64::INFINITY)], ..example() };
        plot_distance(&odd);
    }

    #[test]
    fn ticks_are_round_numbers() {
        for (range, max, step) in [(10.0, 7.0, 2.0), (30.0, 16.0, 2.0), (0.9, 7.0, 0.2), (80.0, 16.0, 5.0)] {
            assert!((tick_step(range, max) - step).abs() < 1e-12, "{range} {}", tick_step(range, max));
        }
    }
}

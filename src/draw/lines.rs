//! Lines over a few named steps, such as frames a second over sizes of batch.

use image::{Rgb, RgbImage};

use super::canvas::{self, Align, BLACK, GREY, WHITE};
use super::plot::tick_step;
use super::{Colour, class_colour};

const SIZE: (u32, u32) = (1280, 640);
const TEXT_PX: f64 = 20.0;
const GRID: Colour = [226, 226, 226];

/// Lines over named steps.
#[derive(Debug, Clone, Default)]
pub struct LinePlot {
    /// What is shown.
    pub title: String,
    /// What the steps are: "pictures at once".
    pub steps_are: String,
    /// The steps, left to right.
    pub steps: Vec<String>,
    /// Name and value at each step of each line; none where nothing was measured.
    pub lines: Vec<(String, Vec<Option<f64>>)>,
}

/// Draws the lines from 0 up, 1280 x 640 pixels.
pub fn plot_lines(plot: &LinePlot) -> RgbImage {
    let mut image = RgbImage::from_pixel(SIZE.0, SIZE.1, Rgb(WHITE));
    let [left, right] = [96.0, f64::from(SIZE.0) - 40.0];
    let [top, bottom] = [60.0 + 1.4 * TEXT_PX * plot.lines.len() as f64, f64::from(SIZE.1) - 76.0];
    let values = plot.lines.iter().flat_map(|(_, values)| values.iter().flatten());
    let highest = values.copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let highest = if highest > 0.0 { highest * 1.06 } else { 1.0 };
    let x = |step: usize| left + (right - left) * (step as f64 + 0.5) / plot.steps.len().max(1) as f64;
    let y = |value: f64| bottom - (bottom - top) * (value / highest).clamp(0.0, 1.0);

    canvas::text(&mut image, [left, 14.0], Align::Left, 26.0, BLACK, &plot.title);
    let tick = tick_step(highest, 7.0);
    let mut value = 0.0;
    while value <= highest {
        let at = y(value).floor() + 0.5;
        canvas::line(&mut image, [left, at], [right, at], 1.0, GRID);
        let words = if tick < 1.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        canvas::text(&mut image, [left - 8.0, at - TEXT_PX / 2.0], Align::Right, TEXT_PX, GREY, &words);
        value += tick;
    }
    for (at, step) in plot.steps.iter().enumerate() {
        canvas::text(&mut image, [x(at), bottom + 8.0], Align::Centre, TEXT_PX, GREY, step);
    }
    let below = bottom + 8.0 + 1.4 * TEXT_PX;
    canvas::text(&mut image, [right, below], Align::Right, TEXT_PX, GREY, &plot.steps_are);
    for (number, (name, values)) in plot.lines.iter().enumerate() {
        let colour = class_colour(number);
        let points: Vec<Option<[f64; 2]>> =
            values.iter().enumerate().map(|(at, value)| value.map(|value| [x(at), y(value)])).collect();
        for pair in points.windows(2) {
            if let [Some(a), Some(b)] = pair {
                canvas::line(&mut image, *a, *b, 3.0, colour);
            }
        }
        points.iter().flatten().for_each(|point| canvas::disc(&mut image, *point, 5.5, colour));
        let row = 56.0 + 1.4 * TEXT_PX * number as f64;
        canvas::line(
            &mut image,
            [left, row + TEXT_PX / 2.0],
            [left + 34.0, row + TEXT_PX / 2.0],
            3.0,
            colour,
        );
        canvas::text(&mut image, [left + 44.0, row], Align::Left, TEXT_PX, BLACK, name);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_colour_where_its_values_are() {
        let line = |name: &str, values: &[Option<f64>]| (name.to_owned(), values.to_vec());
        let plot = LinePlot {
            title: "frames a second".into(),
            steps_are: "pictures at once".into(),
            steps: vec!["1".into(), "16".into()],
            lines: vec![line("low", &[Some(0.0), Some(0.0)]), line("high", &[None, Some(100.0)])],
        };
        let image = plot_lines(&plot);
        assert_eq!(image.dimensions(), SIZE);
        let ink = |colour: Colour| {
            let pixels = image.enumerate_pixels().filter(|(_, y, pixel)| *y > 140 && pixel.0 == colour);
            pixels.map(|(x, y, _)| (x, y)).collect::<Vec<_>>()
        };
        let (low, high) = (ink(class_colour(0)), ink(class_colour(1)));
        assert!(low.iter().all(|(_, y)| *y > 540) && low.len() > 1000, "along the bottom");
        assert!(!high.is_empty() && high.iter().all(|(x, y)| *x > 800 && *y < 200), "one point, top right");
        plot_lines(&LinePlot::default());
    }
}

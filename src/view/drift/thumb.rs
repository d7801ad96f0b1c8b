//! A small picture of a view: what landmarks are found in and looked for. About 160 x 90 points, each the mean of a
//! few cells, so that noise and the encoder's blocks hardly show.

use super::super::cells::Cells;

/// Most points across and down.
const MOST: (usize, usize) = (160, 90);

/// A small picture, brightness 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Thumb {
    pub cols: usize,
    pub rows: usize,
    /// Row by row.
    pub points: Vec<f32>,
}

impl Thumb {
    /// Of the cells of a picture.
    pub fn of(cells: &Cells) -> Self {
        let side = cells.cols.div_ceil(MOST.0).max(cells.rows.div_ceil(MOST.1)).max(1);
        let (cols, rows) = (cells.cols / side, cells.rows / side);
        let mut points = vec![0.0; cols * rows];
        for (y, line) in cells.sums().chunks_exact(cells.cols).take(rows * side).enumerate() {
            let Some(row) = points.get_mut(y / side * cols..(y / side + 1) * cols) else { continue };
            for (point, sums) in row.iter_mut().zip(line.chunks_exact(side)) {
                *point += sums.iter().map(|sum| f32::from(*sum)).sum::<f32>();
            }
        }
        let count = (side * side) as f32;
        for point in &mut points {
            *point = cells.brightness(*point / count);
        }
        Self { cols, rows, points }
    }

    /// Half as large.
    pub fn half(&self) -> Self {
        let (cols, rows) = (self.cols / 2, self.rows / 2);
        let at = |x: usize, y: usize| self.points.get(y * self.cols + x).copied().unwrap_or(0.0);
        let mean = |i: usize| {
            let (x, y) = (i % cols * 2, i / cols * 2);
            (at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4.0
        };
        Self { cols, rows, points: (0..cols * rows).map(mean).collect() }
    }

    /// Each point's median over several of the same size: what stays, without what passes. None of none.
    pub fn median(thumbs: &[Self]) -> Option<Self> {
        let first = thumbs.first()?;
        let mut values = Vec::with_capacity(thumbs.len());
        let mut median = |i: usize| {
            values.clear();
            values.extend(thumbs.iter().filter_map(|thumb| thumb.points.get(i).copied()));
            values.sort_by(f32::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let points = (0..first.points.len()).map(&mut median).collect();
        Some(Self { points, ..*first })
    }

    /// A window's rows; empty when it does not lie inside.
    pub fn window(&self, x: usize, y: usize, side: usize) -> impl Iterator<Item = &[f32]> {
        let inside = x + side <= self.cols && y + side <= self.rows;
        let rows = if inside { side } else { 0 };
        (0..rows).filter_map(move |row| {
            let start = (y + row) * self.cols + x;
            self.points.get(start..start + side)
        })
    }

    /// Two hexadecimal digits a point, to be kept in a file.
    pub fn to_hex(&self) -> String {
        let code = |point: &f32| (point * 255.0).round().clamp(0.0, 255.0) as u8;
        self.points.iter().map(|point| format!("{:02x}", code(point))).collect()
    }

    /// Reads what [`Thumb::to_hex`] wrote; none when it is not that.
    pub fn from_hex(cols: usize, rows: usize, text: &str) -> Option<Self> {
        if cols > MOST.0 || rows > MOST.1 || !text.is_ascii() || text.len() != 2 * cols * rows {
            return None;
        }
        let digits = |i: usize| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok();
        let points = (0..cols * rows).map(|i| Some(f32::from(digits(i)?) / 255.0)).collect::<Option<_>>()?;
        Some(Self { cols, rows, points })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::test::frame;
    use super::*;

    #[test]
    fn a_thumb_holds_the_mean_brightness_and_survives_its_file() {
        let cells = Cells::of(&frame(640, 360, |x, _| if x < 320 { 16 } else { 235 })).unwrap();
        let thumb = Thumb::of(&cells);
        assert_eq!((thumb.cols, thumb.rows), (160, 90));
        assert!(thumb.points[..80].iter().all(|p| p.abs() < 1e-6));
        assert!(thumb.points[80..160].iter().all(|p| (p - 1.0).abs() < 1e-6));
        let half = thumb.half();
        assert_eq!(
            (half.cols, half.rows, half.points[39].round(), half.points[40].round()),
            (80, 45, 0.0, 1.0)
        );
        let again = Thumb::from_hex(160, 90, &thumb.to_hex()).unwrap();
        assert!(again.points.iter().zip(&thumb.points).all(|(a, b)| (a - b).abs() < 0.01));
        for (cols, rows, text) in [(160, 90, "00"), (1, 1, "zz"), (1, 1, "é"), (2000, 1, &"00".repeat(2000))]
        {
            assert!(Thumb::from_hex(cols, rows, text).is_none());
        }
    }

    #[test]
    fn what_passes_is_not_in_the_median() {
        let of = |value: f32| Thumb { cols: 1, rows: 2, points: vec![value, 0.5] };
        assert_eq!(Thumb::median(&[of(0.1), of(0.9), of(0.1)]), Some(of(0.1)));
        assert_eq!(Thumb::median(&[]), None);
    }
}

//! Several pictures on one page.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::canvas::{self, Align, BLACK, WHITE};

const PAGE_WIDTH: u32 = 1920;
const MARGIN: u32 = 12;
const CAPTION_PX: f64 = 24.0;

/// A page 1920 pixels wide: the frames in rows of up to three (five when they are many), each with its caption below, then the plots at
/// full width. Empty without frames and plots: then it is a page of 1920 x 24.
pub fn contact_sheet(frames: &[(RgbImage, String)], plots: &[RgbImage]) -> RgbImage {
    let columns = match frames.len() {
        0..=3 => frames.len().max(1),
        4 => 2,
        5..=12 => 3,
        _ => 5,
    } as u32;
    let cell_width = (PAGE_WIDTH - MARGIN * (columns + 1)) / columns;
    let caption_height = (CAPTION_PX * 1.5) as u32;

    let frames: Vec<_> =
        frames.iter().map(|(frame, caption)| (to_width(frame, cell_width), caption)).collect();
    let plots: Vec<_> = plots.iter().map(|plot| to_width(plot, PAGE_WIDTH - 2 * MARGIN)).collect();
    let rows: Vec<_> = frames.chunks(columns as usize).collect();
    let row_height = |row: &[(RgbImage, &String)]| {
        row.iter().map(|(frame, _)| frame.height()).max().unwrap_or(0) + caption_height + MARGIN
    };
    let height = 2 * MARGIN
        + rows.iter().map(|row| row_height(row)).sum::<u32>()
        + plots.iter().map(|plot| plot.height() + MARGIN).sum::<u32>();

    let mut page = RgbImage::from_pixel(PAGE_WIDTH, height, Rgb(WHITE));
    let mut top = MARGIN;
    for row in rows {
        let mut left = MARGIN;
        for (frame, caption) in row {
            imageops::replace(&mut page, frame, i64::from(left), i64::from(top));
            let at = [f64::from(left + cell_width / 2), f64::from(top + frame.height()) + CAPTION_PX / 4.0];
            let caption = canvas::shortened(caption, f64::from(cell_width), CAPTION_PX);
            canvas::text(&mut page, at, Align::Centre, CAPTION_PX, BLACK, &caption);
            left += cell_width + MARGIN;
        }
        top += row_height(row);
    }
    for plot in plots {
        imageops::replace(&mut page, &plot, i64::from(MARGIN), i64::from(top));
        top += plot.height() + MARGIN;
    }
    page
}

fn to_width(image: &RgbImage, width: u32) -> RgbImage {
    if image.width() == width || image.width() == 0 {
        return image.clone();
    }
    let height = (f64::from(image.height()) * f64::from(width) / f64::from(image.width())).round().max(1.0);
    // Patches of a small map must stay patches; photographs and text must stay smooth.
    let filter = if image.width() * 2 < width { FilterType::Nearest } else { FilterType::CatmullRom };
    imageops::resize(image, width, height as u32, filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: u32, height: u32, colour: [u8; 3]) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb(colour))
    }

    #[test]
    fn frames_stand_in_rows_over_the_plot() {
        let frame = |colour| (plain(640, 360, colour), "12.0 s".to_string());
        let frames = [frame([255, 0, 0]), frame([0, 255, 0]), frame([0, 0, 255]), frame([9, 9, 9])];
        let page = contact_sheet(&frames, &[plain(1896, 100, [50, 60, 70])]);
        // Two columns of 942 x 530 with a caption of 36.
        assert_eq!(page.dimensions(), (1920, 24 + 2 * (530 + 36 + 12) + 112));
        assert_eq!(page.get_pixel(20, 20).0, [255, 0, 0]);
        assert_eq!(page.get_pixel(1000, 20).0, [0, 255, 0]);
        assert_eq!(page.get_pixel(20, 600).0, [0, 0, 255]);
        assert_eq!(page.get_pixel(1000, 600).0, [9, 9, 9]);
        assert_eq!(page.get_pixel(960, 1220).0, [50, 60, 70]);
        assert!((542..578).any(|y| (440..520).any(|x| page.get_pixel(x, y).0[0] < 128)), "no caption");
    }

    #[test]
    fn a_long_caption_stays_under_its_frame() {
        let frames = [
            (plain(64, 36, [0; 3]), "a very long caption ".repeat(20)),
            (plain(64, 36, [0; 3]), String::new()),
        ];
        let page = contact_sheet(&frames, &[]);
        let below = 12 + 530..page.height() - 12;
        assert!(below.clone().any(|y| (12..954).any(|x| page.get_pixel(x, y).0[0] < 128)));
        assert!(below.into_iter().all(|y| (954..1920).all(|x| page.get_pixel(x, y).0 == WHITE)));
    }

    #[test]
    fn an_empty_page_is_a_page() {
        assert_eq!(contact_sheet(&[], &[]).dimensions(), (1920, 24));
    }
}

//! Pictures for people: annotated frames, plots, contact sheets, token and depth maps. Pure: takes data,
//! gives an RGB image. Only [`save`] touches a disk.

mod annotate;
mod blur;
mod canvas;
mod floor;
mod lines;
mod plot;
mod sheet;
mod snapshot;
mod tokens;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage};

pub use annotate::{Annotation, Banner, LineMark, ThingMark, annotate};
pub use blur::blur;
pub use floor::{FloorMark, RESIDUAL_FACTOR, floor};
pub use lines::{LinePlot, plot_lines};
pub use plot::{DistancePlot, PlotSample, plot_distance};
pub use sheet::contact_sheet;
pub use snapshot::{interval, overlays, thing_marks};
pub use tokens::{depth_image, pca_image};

use crate::types::State;

/// Red, green, blue, 0 to 255.
pub type Colour = [u8; 3];

/// Why a picture could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The picture could not be written as PNG or JPEG.
    #[error("the picture cannot be encoded: {0}")]
    Encode(#[from] image::ImageError),
    /// The file could not be written.
    #[error("cannot write the picture '{path}': {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Colours of things, by their place in the list of classes. Chosen to differ from the states' colours and
/// from each other for colour-blind eyes too (after Okabe and Ito).
pub const CLASS_COLOURS: [Colour; 6] =
    [[86, 180, 233], [204, 121, 167], [230, 159, 0], [0, 158, 115], [240, 228, 66], [213, 94, 0]];

/// Colour of a class: things of one class look alike in every picture.
pub fn class_colour(index: usize) -> Colour {
    CLASS_COLOURS[index % CLASS_COLOURS.len()]
}

/// Colour of a state: clear green, warning amber, alarm red, unknown grey, disarmed blue.
pub fn state_colour(state: &State) -> Colour {
    match state {
        State::Clear => [34, 139, 69],
        State::Warning => [217, 130, 0],
        State::Alarm => [203, 24, 29],
        State::Unknown(_) => [112, 112, 112],
        State::Disarmed(_) => [33, 102, 172],
    }
}

/// The picture as PNG.
pub fn png(image: &RgbImage) -> Result<Vec<u8>, DrawError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// The picture as JPEG of at most `max_bytes`: the best quality that fits, and where none does a smaller picture.
pub fn jpeg(image: &RgbImage, max_bytes: usize) -> Result<Vec<u8>, DrawError> {
    const QUALITIES: [u8; 4] = [85, 75, 60, 45];
    const SMALLEST_PX: u32 = 64;
    let mut shrunk: Option<RgbImage> = None;
    loop {
        let image = shrunk.as_ref().unwrap_or(image);
        let mut bytes = Vec::new();
        for quality in QUALITIES {
            bytes.clear();
            JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image)?;
            if bytes.len() <= max_bytes {
                return Ok(bytes);
            }
        }
        let (width, height) = (image.width() * 3 / 4, image.height() * 3 / 4);
        if width.min(height) < SMALLEST_PX {
            return Ok(bytes);
        }
        shrunk = Some(imageops::resize(image, width, height, FilterType::Triangle));
    }
}

/// Writes the picture as PNG, in place of the file that may be there.
pub fn save(image: &RgbImage, path: &Path) -> Result<(), DrawError> {
    let bytes = png(image)?;
    std::fs::write(path, bytes).map_err(|source| DrawError::Write { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_holds_the_same_pixels() {
        let image = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 40, y as u8 * 80, 7]));
        let back = image::load_from_memory(&png(&image).unwrap()).unwrap().to_rgb8();
        assert_eq!(back, image);
    }

    #[test]
    fn a_jpeg_keeps_to_its_limit() {
        // Noise is the worst that can be asked of it.
        let mut state = 1_u32;
        let noise = RgbImage::from_fn(640, 360, |_, _| {
            image::Rgb([0; 3].map(|_: u8| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }))
        });
        let bytes = jpeg(&noise, 60_000).unwrap();
        assert!(bytes.len() <= 60_000, "{}", bytes.len());
        let back = image::load_from_memory(&bytes).unwrap();
        assert!(
            back.width() < 640 && back.width() * 9 == back.height() * 16,
            "{:?}",
            back.to_rgb8().dimensions()
        );
        let plain = RgbImage::from_pixel(640, 360, image::Rgb([90, 120, 30]));
        let back = image::load_from_memory(&jpeg(&plain, 60_000).unwrap()).unwrap().to_rgb8();
        assert_eq!(back.dimensions(), (640, 360));
        assert!(back.get_pixel(5, 5).0.iter().zip([90_u8, 120, 30]).all(|(a, b)| a.abs_diff(b) < 6));
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let error = save(&RgbImage::new(1, 1), Path::new("/no/such/folder/x.png")).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder/x.png"), "{error}");
    }
}

//! Masks and depth as PNG files. A palette's indices are the ids, whatever their colours; the decoder that the pictures go
//! through would turn them into colours.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

use crate::cli::train::dataset::IGNORED;
use crate::ingest::{MAX_HEIGHT, MAX_WIDTH};

/// A value for each pixel.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane<T> {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Row by row.
    pub values: Vec<T>,
}

/// The ids of a mask; all must be below `classes`, or [`IGNORED`].
pub fn mask(path: &Path, classes: usize) -> anyhow::Result<Plane<u8>> {
    let (plane, kind) = samples(path)?;
    ensure!(
        matches!(kind, (ColorType::Indexed | ColorType::Grayscale, depth) if depth != BitDepth::Sixteen),
        "{} is {}: a mask is a PNG with a palette or in grey, 8 bits at most, whose values are the lines of classes.txt",
        path.display(),
        described(kind)
    );
    let values: Vec<u8> = plane.values.iter().map(|v| u8::try_from(*v).unwrap_or(IGNORED)).collect();
    if let Some(id) = values.iter().find(|id| usize::from(**id) >= classes && **id != IGNORED) {
        bail!(
            "{} holds the id {id}, but there are {classes} classes (0 to {}): name it in classes.txt, or write \
             {IGNORED} where pixels do not count",
            path.display(),
            classes.saturating_sub(1)
        );
    }
    Ok(Plane { width: plane.width, height: plane.height, values })
}

/// Depth in metres, 0 where there is none. One step of the file is `unit_m`.
pub fn depth(path: &Path, unit_m: f32) -> anyhow::Result<Plane<f32>> {
    let (plane, kind) = samples(path)?;
    ensure!(
        kind == (ColorType::Grayscale, BitDepth::Sixteen),
        "{} is {}: depth is a PNG in grey of 16 bits, in millimetres (--depth-unit says otherwise), 0 for none",
        path.display(),
        described(kind)
    );
    let values = plane.values.iter().map(|v| f32::from(*v) * unit_m).collect();
    Ok(Plane { width: plane.width, height: plane.height, values })
}

fn described((color, depth): (ColorType, BitDepth)) -> String {
    let color = match color {
        ColorType::Grayscale => "grey",
        ColorType::Indexed => "of a palette",
        ColorType::Rgb => "in colour",
        ColorType::GrayscaleAlpha | ColorType::Rgba => "with transparency",
    };
    format!("{color}, {} bits a sample", depth as u8)
}

/// The first sample of each pixel as it lies in the file.
fn samples(path: &Path) -> anyhow::Result<(Plane<u16>, (ColorType, BitDepth))> {
    let damaged =
        || format!("{} is no whole PNG: export it again, or take its picture out of the set", path.display());
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let most = MAX_WIDTH as usize * MAX_HEIGHT as usize;
    let mut decoder = Decoder::new_with_limits(BufReader::new(file), Limits { bytes: 16 * most });
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().with_context(damaged)?;
    let (width, height) = (reader.info().width, reader.info().height);
    ensure!(
        width <= MAX_WIDTH && height <= MAX_HEIGHT,
        "{} is {width} x {height} pixels, at most {MAX_WIDTH} x {MAX_HEIGHT} are read",
        path.display()
    );
    let mut bytes = vec![0; reader.output_buffer_size().with_context(damaged)?];
    let frame = reader.next_frame(&mut bytes).with_context(damaged)?;
    let kind = (frame.color_type, frame.bit_depth);
    let (bits, channels) = (frame.bit_depth as usize, frame.color_type.samples());
    let sample = |line: &[u8], x: usize| -> u16 {
        let bit = x * channels * bits;
        match bits {
            16 => u16::from_be_bytes([line[bit / 8], line[bit / 8 + 1]]),
            _ => u16::from(line[bit / 8] >> (8 - bits - bit % 8)) & ((1 << bits) - 1),
        }
    };
    let mut values = Vec::with_capacity(width as usize * height as usize);
    for line in bytes.chunks_exact(frame.line_size).take(height as usize) {
        values.extend((0..width as usize).map(|x| sample(line, x)));
    }
    ensure!(values.len() == width as usize * height as usize, damaged());
    Ok((Plane { width, height, values }, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, size: [u32; 2], color: ColorType, depth: BitDepth, data: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), size[0], size[1]);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette((0..48).map(|i| i * 5).collect::<Vec<u8>>());
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
    }

    #[test]
    fn ids_are_the_palettes_indices_in_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.png");
        write(&path, [3, 2], ColorType::Indexed, BitDepth::Eight, &[0, 1, 2, 3, 4, 5]);
        assert_eq!(mask(&path, 6).unwrap(), Plane { width: 3, height: 2, values: vec![0, 1, 2, 3, 4, 5] });
        write(&path, [3, 2], ColorType::Indexed, BitDepth::Four, &[0x01, 0x20, 0x34, 0x50]);
        assert_eq!(mask(&path, 6).unwrap().values, [0, 1, 2, 3, 4, 5]);
        write(&path, [3, 2], ColorType::Grayscale, BitDepth::One, &[0b1010_0000, 0b0100_0000]);
        assert_eq!(mask(&path, 2).unwrap().values, [1, 0, 1, 0, 1, 0]);
        write(&path, [2, 1], ColorType::Grayscale, BitDepth::Eight, &[255, 7]);
        let error = mask(&path, 2).unwrap_err().to_string();
        assert!(error.contains("m.png holds the id 7, but there are 2 classes"), "{error}");
        assert_eq!(mask(&path, 8).unwrap().values, [IGNORED, 7]);
    }

    #[test]
    fn depth_is_sixteen_bits_in_its_unit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.png");
        write(&path, [2, 1], ColorType::Grayscale, BitDepth::Sixteen, &[0x03, 0xe8, 0, 0]);
        assert_eq!(depth(&path, 0.001).unwrap().values, [1.0, 0.0]);
        assert_eq!(depth(&path, 1.0 / 256.0).unwrap().values, [1000.0 / 256.0, 0.0]);
        write(&path, [2, 1], ColorType::Grayscale, BitDepth::Eight, &[3, 0]);
        assert!(depth(&path, 0.001).unwrap_err().to_string().contains("d.png is grey, 8 bits a sample"));
    }

    #[test]
    fn what_is_no_mask_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.png");
        write(&path, [2, 1], ColorType::Rgb, BitDepth::Eight, &[0; 6]);
        assert!(mask(&path, 2).unwrap_err().to_string().contains("m.png is in colour"));
        write(&path, [60, 60], ColorType::Grayscale, BitDepth::Eight, &[0; 3600]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            // The last chunk only says that it is the last.
            if let Err(error) = mask(&path, 2) {
                assert!(error.to_string().contains("m.png is no whole PNG"), "{length}: {error}");
            } else {
                assert!(length >= whole.len() - 12 - 4, "{length} of {} bytes", whole.len());
            }
        }
        // 4 billion pixels a side: refused before anything is made for them.
        let mut huge = whole;
        huge[16..24].fill(0x7f);
        std::fs::write(&path, &huge).unwrap();
        assert!(mask(&path, 2).is_err());
        assert!(mask(&dir.path().join("none.png"), 2).unwrap_err().to_string().contains("cannot read"));
    }
}

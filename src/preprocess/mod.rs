//! Pixels to the backbone's input: letterbox, antialiased bicubic resize, colour, normalise. The constants
//! live here once. Pure: no clock, no I/O, no threads.

pub mod color;
pub mod reference;
pub mod resample;

use crate::types::{ChromaSiting, Frame, HostPlanes, PixelFormat, PixelTransform, Plane};

use color::Conversion;
use resample::{Axis, Scratch};

/// Mean of each channel (R, G, B) that the backbone was trained with: ImageNet's, for values 0 to 1.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of each channel (R, G, B) that the backbone was trained with.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Tables of this many picture geometries are kept, so that every camera finds its own.
const CACHED_TABLES: usize = 16;

/// Why a frame could not be brought to the backbone's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreprocessError {
    /// A picture without pixels.
    #[error("the picture is {width}x{height}: both sides must be at least 1")]
    Empty {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Fewer or more planes than the layout has.
    #[error("{format:?} needs {expected} planes, the frame has {found}")]
    Planes {
        /// The layout.
        format: PixelFormat,
        /// Planes that it needs.
        expected: usize,
        /// Planes in the frame.
        found: usize,
    },
    /// A plane does not lie inside the data, or its rows overlap.
    #[error(
        "plane {plane} needs {rows} rows of {row_bytes} bytes, but its stride is {stride} and {available} bytes are there"
    )]
    PlaneSize {
        /// Index of the plane.
        plane: usize,
        /// Rows that it needs.
        rows: usize,
        /// Bytes of a row.
        row_bytes: usize,
        /// Bytes from row to row.
        stride: usize,
        /// Bytes from the plane's offset to the end of the data.
        available: usize,
    },
    /// A picture in a GPU's memory could not be copied from there.
    #[error("the picture cannot be copied from the GPU: {0}")]
    Device(String),
    /// The output buffer is not `3 * width * height` long.
    #[error("the output holds {found} values, the input of the model {expected}")]
    Output {
        /// Values of one input.
        expected: usize,
        /// Values in the buffer.
        found: usize,
    },
}

/// Fits a picture into the backbone's input without changing its aspect: one scale, the resized size rounded
/// to whole pixels, the rest padded on both sides by whole pixels (the odd one at the right and the bottom).
pub fn letterbox(source: [u32; 2], input: [u32; 2]) -> PixelTransform {
    let [source_width, source_height] = source.map(|side| side.max(1));
    let [input_width, input_height] = input;
    let scale = (f64::from(input_width) / f64::from(source_width))
        .min(f64::from(input_height) / f64::from(source_height));
    let resized =
        |side: u32, limit: u32| (f64::from(side) * scale).round().clamp(1.0, f64::from(limit.max(1)));
    let (width, height) = (resized(source_width, input_width), resized(source_height, input_height));
    PixelTransform {
        source_width,
        source_height,
        input_width,
        input_height,
        scale_x: width / f64::from(source_width),
        scale_y: height / f64::from(source_height),
        offset_x: ((f64::from(input_width) - width) / 2.0).floor(),
        offset_y: ((f64::from(input_height) - height) / 2.0).floor(),
    }
}

/// Size of the resized picture inside the letterbox, whole pixels.
fn resized_size(transform: &PixelTransform) -> [usize; 2] {
    [
        (transform.scale_x * f64::from(transform.source_width)).round() as usize,
        (transform.scale_y * f64::from(transform.source_height)).round() as usize,
    ]
}

/// Brings frames of any size to one input size. Keeps the tables of the sizes it has seen and its buffers.
#[derive(Debug)]
pub struct Preprocessor {
    input: [u32; 2],
    tables: Vec<Geometry>,
    scratch: Scratch,
}

/// What depends on a picture's size and siting only: its place in the input and the filters of each axis.
#[derive(Debug)]
pub struct Geometry {
    /// Width and height of the picture in pixels.
    pub source: [u32; 2],
    /// Where its chroma samples lie.
    pub siting: ChromaSiting,
    /// Where the picture's pixels go.
    pub transform: PixelTransform,
    /// The filters of the luma plane: across and down.
    pub luma: [Axis; 2],
    /// The filters of the chroma planes: across and down.
    pub chroma: [Axis; 2],
}

impl Geometry {
    /// For pictures of `source` pixels (width and height, both at least 1) into an input of `input` pixels.
    pub fn new(source: [u32; 2], siting: ChromaSiting, input: [u32; 2]) -> Self {
        let transform = letterbox(source, input);
        let resized = resized_size(&transform);
        let cosited = [siting.horizontal_cosited, siting.vertical_cosited];
        let axis = |i: usize| Axis::luma(source[i] as usize, resized[i]);
        let chroma_axis = |i: usize| Axis::chroma(source[i] as usize, resized[i], cosited[i]);
        Self { source, siting, transform, luma: [axis(0), axis(1)], chroma: [chroma_axis(0), chroma_axis(1)] }
    }

    /// Column and row of the input where the picture begins, and its width and height there.
    pub fn place(&self) -> [usize; 4] {
        let [width, height] = resized_size(&self.transform);
        [self.transform.offset_x as usize, self.transform.offset_y as usize, width, height]
    }
}

impl Preprocessor {
    /// For a backbone input of `input_width` by `input_height` pixels.
    pub fn new(input_width: u32, input_height: u32) -> Self {
        Self { input: [input_width, input_height], tables: Vec::new(), scratch: Scratch::default() }
    }

    /// Values of one input: `3 * width * height`.
    pub fn values(&self) -> usize {
        3 * self.input[0] as usize * self.input[1] as usize
    }

    /// Writes the normalised RGB planes of `frame` (NCHW for one picture, so `3 * height * width` values) into
    /// `out`; the padding is 0, the mean of the training pictures. Returns where the frame's pixels went. Fails
    /// when the planes do not lie inside the frame's data or `out` has another length.
    pub fn run(&mut self, frame: &Frame, out: &mut [f32]) -> Result<PixelTransform, PreprocessError> {
        if out.len() != self.values() {
            return Err(PreprocessError::Output { expected: self.values(), found: out.len() });
        }
        let planes = planes_of(frame)?;
        let at = self.tables_for([frame.width, frame.height], frame.siting);
        let tables = &self.tables[at];
        let scratch = &mut self.scratch;
        match planes {
            Planes::I420([y, u, v]) => {
                resample::plane(y, &tables.luma, &mut scratch.y, &mut scratch.rows);
                resample::plane(u, &tables.chroma, &mut scratch.u, &mut scratch.rows);
                resample::plane(v, &tables.chroma, &mut scratch.v, &mut scratch.rows);
            }
            Planes::Nv12([y, uv]) => {
                resample::plane(y, &tables.luma, &mut scratch.y, &mut scratch.rows);
                let Scratch { u, v, rows, .. } = scratch;
                resample::interleaved_plane(uv, &tables.chroma, [u, v], rows);
            }
        }
        let conversion = Conversion::new(frame.matrix, frame.range);
        write_letterboxed(&conversion, scratch, &tables.transform, out);
        Ok(tables.transform)
    }

    fn tables_for(&mut self, source: [u32; 2], siting: ChromaSiting) -> usize {
        if let Some(at) = self.tables.iter().position(|t| t.source == source && t.siting == siting) {
            return at;
        }
        if self.tables.len() == CACHED_TABLES {
            self.tables.remove(0);
        }
        self.tables.push(Geometry::new(source, siting, self.input));
        self.tables.len() - 1
    }
}

/// Colours the resized planes and puts them into the middle of the input.
fn write_letterboxed(
    conversion: &Conversion,
    scratch: &Scratch,
    transform: &PixelTransform,
    out: &mut [f32],
) {
    let [width, height] = resized_size(transform);
    let (input_width, input_height) = (transform.input_width as usize, transform.input_height as usize);
    let (left, top) = (transform.offset_x as usize, transform.offset_y as usize);
    let (red, rest) = out.split_at_mut(input_width * input_height);
    let (green, blue) = rest.split_at_mut(input_width * input_height);
    for channel in [&mut *red, &mut *green, &mut *blue] {
        channel[..top * input_width].fill(0.0);
        channel[(top + height) * input_width..].fill(0.0);
    }
    for row in 0..height {
        let from = row * width..(row + 1) * width;
        let to = (top + row) * input_width..(top + row + 1) * input_width;
        let yuv = [&scratch.y[from.clone()], &scratch.u[from.clone()], &scratch.v[from]];
        let mut rgb = [&mut red[to.clone()], &mut green[to.clone()], &mut blue[to]].map(|channel| {
            let (before, rest) = channel.split_at_mut(left);
            let (inside, after) = rest.split_at_mut(width);
            before.fill(0.0);
            after.fill(0.0);
            inside
        });
        conversion.normalised_row(yuv, &mut rgb);
    }
}

/// A plane that is known to lie inside its data.
#[derive(Debug, Clone, Copy)]
pub struct PlaneRows<'a> {
    /// From the first byte of the first row to the last byte of the last.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Rows.
    pub rows: usize,
}

impl<'a> PlaneRows<'a> {
    fn new(
        index: usize,
        data: &'a [u8],
        plane: Plane,
        rows: usize,
        row_bytes: usize,
    ) -> Result<Self, PreprocessError> {
        let Plane { offset, stride } = plane;
        let data = data.get(offset..).unwrap_or(&[]);
        let needed = stride.checked_mul(rows.saturating_sub(1)).and_then(|n| n.checked_add(row_bytes));
        let available = data.len();
        match needed.and_then(|needed| data.get(..needed)) {
            Some(data) if stride >= row_bytes => Ok(Self { data, stride, row_bytes, rows }),
            _ => Err(PreprocessError::PlaneSize { plane: index, rows, row_bytes, stride, available }),
        }
    }

    fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.stride..][..self.row_bytes]
    }
}

/// The planes of a picture in ordinary memory, each known to lie inside its data.
#[derive(Debug, Clone, Copy)]
pub enum Planes<'a> {
    /// Y, U, V.
    I420([PlaneRows<'a>; 3]),
    /// Y, and U and V in turns.
    Nv12([PlaneRows<'a>; 2]),
}

/// The planes of a frame in ordinary memory, copied from the GPU when they lie there. Fails when they do not lie inside
/// its data, or the picture is empty.
pub fn planes_of(frame: &Frame) -> Result<Planes<'_>, PreprocessError> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    if width == 0 || height == 0 {
        return Err(PreprocessError::Empty { width: frame.width, height: frame.height });
    }
    let HostPlanes { format, data, planes } =
        frame.pixels.host().map_err(|problem| PreprocessError::Device(problem.to_owned()))?;
    let sizes = format.plane_sizes(width, height);
    if planes.len() != sizes.len() {
        return Err(PreprocessError::Planes { format, expected: sizes.len(), found: planes.len() });
    }
    let rows = |index: usize| PlaneRows::new(index, data, planes[index], sizes[index][1], sizes[index][0]);
    Ok(match format {
        PixelFormat::I420 => Planes::I420([rows(0)?, rows(1)?, rows(2)?]),
        PixelFormat::Nv12 => Planes::Nv12([rows(0)?, rows(1)?]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letterbox_keeps_the_aspect_to_whole_pixels() {
        let t = letterbox([640, 360], [392, 224]);
        assert_eq!((t.offset_x, t.offset_y), (0.0, 1.0));
        assert_eq!(resized_size(&t), [392, 221]);
        assert!((t.scale_x - 0.6125).abs() < 1e-12 && (t.scale_y - 221.0 / 360.0).abs() < 1e-12);

        let t = letterbox([100, 400], [392, 224]);
        assert_eq!(resized_size(&t), [56, 224]);
        assert_eq!((t.offset_x, t.offset_y), (168.0, 0.0));

        let t = letterbox([10_000, 1], [392, 224]);
        assert_eq!(resized_size(&t), [392, 1]);
    }
}

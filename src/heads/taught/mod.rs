//! Classes and states that a site teaches by a few examples: nearest neighbours or a line over the backbone's tokens,
//! on the host. Pure: the examples' folder is `crate::teach`.

mod choose;
pub mod class;
mod head;
pub mod knn;
pub mod label;
pub mod logistic;
pub mod model;
pub mod state;
pub mod tokens;

pub use choose::{Method, Validation};
pub use class::{Extent, LessonError, Mark, Picture, Standard, TaughtClass};
pub use head::TaughtHead;
pub use label::Region;
pub use model::{Backbone, Taught};
pub use state::{Shown, TaughtState};
pub use tokens::Tokens;

#[cfg(test)]
pub(crate) mod tests {
    use crate::types::{Grid, PixelTransform};

    /// A picture twice as large as the input, without padding.
    pub(crate) fn transform(grid: Grid) -> PixelTransform {
        let (width, height) = ((grid.cols * grid.patch_px) as u32, (grid.rows * grid.patch_px) as u32);
        PixelTransform {
            source_width: width * 2,
            source_height: height * 2,
            input_width: width,
            input_height: height,
            scale_x: 0.5,
            scale_y: 0.5,
            offset_x: 0.0,
            offset_y: 0.0,
        }
    }
}

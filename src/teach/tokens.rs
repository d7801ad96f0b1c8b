//! The tokens of an example's picture as a file: safetensors with `rows` and `cls` in half precision, the backbone and
//! the letterbox in its metadata.

use std::collections::HashMap;
use std::path::PathBuf;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{Example, Folder, TeachError, file_error, read, replace};
use crate::heads::taught::{Backbone, Tokens};
use crate::types::{Grid, PixelTransform};

const FORMAT: &str = "standoff-tokens-1";
/// A grid of 300 x 300 patches is less.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
struct About {
    backbone: Backbone,
    grid: [usize; 3],
    source: [u32; 2],
    input: [u32; 2],
    scale: [f64; 2],
    offset: [f64; 2],
}

impl Folder {
    pub(super) fn tokens_path(&self, example: &Example) -> PathBuf {
        let name = example.picture.split('.').next().unwrap_or_default();
        self.dir.join("tokens").join(format!("{name}.safetensors"))
    }

    /// Writes the tokens of an example's picture.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_tokens(
        &self,
        example: &Example,
        tokens: &Tokens,
        backbone: &Backbone,
    ) -> Result<(), TeachError> {
        let path = self.tokens_path(example);
        let t = &tokens.transform;
        let about = About {
            backbone: backbone.clone(),
            grid: [tokens.grid.rows, tokens.grid.cols, tokens.grid.patch_px],
            source: [t.source_width, t.source_height],
            input: [t.input_width, t.input_height],
            scale: [t.scale_x, t.scale_y],
            offset: [t.offset_x, t.offset_y],
        };
        let failed = |problem: String| file_error(&path)(std::io::Error::other(problem));
        let about = serde_json::to_string(&about).map_err(|e| failed(e.to_string()))?;
        let bytes = |values: &[f16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (rows, cls) = (bytes(&tokens.rows), bytes(&tokens.cls));
        let view = |shape, data| TensorView::new(Dtype::F16, shape, data).map_err(|e| failed(e.to_string()));
        let tensors = [
            ("rows", view(vec![tokens.grid.len(), tokens.inputs], &rows)?),
            ("cls", view(vec![tokens.cls.len()], &cls)?),
        ];
        let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned()), ("about".to_owned(), about)]);
        let file =
            safetensors::tensor::serialize(tensors, Some(metadata)).map_err(|e| failed(e.to_string()))?;
        replace(&path, &file)
    }

    /// The tokens of an example's picture; none when there are none of this backbone. A file that is damaged is none:
    /// the picture gives them again.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn tokens(&self, example: &Example, backbone: &Backbone) -> Result<Option<Tokens>, TeachError> {
        let Some(bytes) = read(&self.tokens_path(example), MAX_BYTES)? else { return Ok(None) };
        Ok(parse(&bytes, backbone))
    }
}

fn parse(bytes: &[u8], backbone: &Backbone) -> Option<Tokens> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let metadata = header.metadata().clone()?;
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return None;
    }
    let about: About = serde_json::from_str(metadata.get("about")?).ok()?;
    if about.backbone != *backbone {
        return None;
    }
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let halves = |name: &str| -> Option<(Vec<usize>, Vec<f16>)> {
        let view = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F16)?;
        let values = view.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]));
        Some((view.shape().to_vec(), values.collect()))
    };
    let ((shape, rows), (_, cls)) = (halves("rows")?, halves("cls")?);
    let [grid_rows, cols, patch_px] = about.grid;
    let grid = Grid { rows: grid_rows, cols, patch_px };
    let [patches, inputs] = *shape else { return None };
    let finite = rows.iter().chain(&cls).all(|v| v.is_finite());
    if grid_rows.checked_mul(cols) != Some(patches) || inputs == 0 || patch_px == 0 || !finite {
        return None;
    }
    let transform = PixelTransform {
        source_width: about.source[0],
        source_height: about.source[1],
        input_width: about.input[0],
        input_height: about.input[1],
        scale_x: about.scale[0],
        scale_y: about.scale[1],
        offset_x: about.offset[0],
        offset_y: about.offset[1],
    };
    Some(Tokens { grid, transform, inputs, rows, cls })
}

#[cfg(test)]
mod tests {
    use super::super::example::tests::{backbone, tokens};
    use super::super::{Label, New};
    use super::*;
    use crate::clock::UtcMillis;
    use crate::heads::taught::Region;

    #[test]
    fn tokens_are_of_one_backbone_and_damaged_ones_are_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (tokens, backbone) = (tokens(), backbone());
        let label = Label::Class { class: None, region: Region::Whole };
        let example = folder
            .add(New {
                picture: b"x",
                kind: "png",
                tokens: &tokens,
                backbone: &backbone,
                label,
                camera: None,
                source: String::new(),
                added: UtcMillis(0),
            })
            .unwrap();
        assert_eq!(folder.tokens(&example, &backbone).unwrap(), Some(tokens));
        let other = Backbone { sha256: "m2".into(), ..backbone.clone() };
        assert_eq!(folder.tokens(&example, &other).unwrap(), None);
        let path = folder.tokens_path(&example);
        let good = std::fs::read(&path).unwrap();
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert_eq!(folder.tokens(&example, &backbone).unwrap(), None, "{length} bytes");
        }
    }
}

//! A backend that infers nothing: it answers with features that were recorded before, one after the other, whatever
//! the pictures show. For tests and demonstrations of all that lies behind the model; it says so loudly.
//!
//! The file is safetensors, made by `standoff bench --record`:
//!
//! | Entry | What |
//! | --- | --- |
//! | `<n>.cls` | F32, `[dim]`, of the nth recorded picture, counted from 0 |
//! | `<n>.dense.<head>` | F16, `[patches, channels]`, output of a head that is part of the graph |
//! | `<n>.transform` | F64, `[8]`, the fields of `PixelTransform` in their order |
//! | metadata `format`, `rows`, `cols`, `patch_px`, `count` | `standoff-recorded-1`, the grid, how many pictures |
//!
//! Patch tokens are not recorded: they would be a hundred times as large, and no shipped head reads them here.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Backend, BackendError, BackendSpec};
use crate::types::{Batch, Dense, Features, Grid, PixelTransform, StageTimes};

const FORMAT: &str = "standoff-recorded-1";

/// How the name of this backend begins.
pub const NAME: &str = "recorded features";

/// One recorded picture.
#[derive(Debug, Clone)]
struct Entry {
    transform: PixelTransform,
    cls: Vec<f32>,
    dense: BTreeMap<String, Dense>,
}

/// The backend.
#[derive(Debug)]
pub struct Recorded {
    spec: BackendSpec,
    entries: Vec<Entry>,
}

impl Recorded {
    /// Reads the file. Errors when it is not there, of another format, or lacks one of the heads.
    pub fn open(path: &Path, max_batch: usize, heads: &[String]) -> Result<Self, BackendError> {
        let bytes = std::fs::read(path)
            .map_err(|error| BackendError::Open(format!("{} cannot be read: {error}", path.display())))?;
        let recorded = Self::read(&bytes, &path.display().to_string(), max_batch, heads)
            .map_err(|problem| BackendError::Open(format!("{}: {problem}", path.display())))?;
        tracing::warn!(
            file = %path.display(),
            pictures = recorded.entries.len(),
            "THE CAMERAS ARE NOT LOOKED AT: answers are recorded features (model.recorded), for tests only"
        );
        Ok(recorded)
    }

    fn read(bytes: &[u8], file: &str, max_batch: usize, heads: &[String]) -> Result<Self, String> {
        let broken = |error| format!("not safetensors: {error}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(format!("its format is not '{FORMAT}': make it with `standoff bench --record`"));
        }
        let number = |key: &str| {
            let text = metadata.get(key).ok_or_else(|| format!("metadata '{key}' is missing"))?;
            text.parse::<usize>()
                .ok()
                .filter(|n| (1..=100_000).contains(n))
                .ok_or(format!("'{key}' is {text}"))
        };
        let grid = Grid { rows: number("rows")?, cols: number("cols")?, patch_px: number("patch_px")? };
        let entries: Vec<Entry> =
            (0..number("count")?).map(|at| entry(&tensors, at, grid, heads)).collect::<Result<_, _>>()?;
        let dim = entries.first().map_or(0, |entry| entry.cls.len());
        let spec = BackendSpec {
            name: format!("{NAME} from {file}"),
            input_width: u32::try_from(grid.cols * grid.patch_px).unwrap_or(u32::MAX),
            input_height: u32::try_from(grid.rows * grid.patch_px).unwrap_or(u32::MAX),
            grid,
            dim,
            max_batch,
            heads: heads.to_vec(),
            reads_gpu: false,
        };
        Ok(Self { spec, entries })
    }

    /// What the file would hold that makes a backend answer with these features, one after the other.
    ///
    /// Errors when they are of different grids, or there are none.
    pub fn file_of(recorded: &[Features]) -> Result<Vec<u8>, BackendError> {
        let problem = |text: String| BackendError::Open(format!("nothing can be recorded: {text}"));
        let grid = recorded.first().ok_or_else(|| problem("there is no picture".into()))?.grid;
        if recorded.iter().any(|features| features.grid != grid) {
            return Err(problem("the pictures have different grids".into()));
        }
        let mut parts: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![];
        for (at, features) in recorded.iter().enumerate() {
            parts.push((format!("{at}.cls"), Dtype::F32, vec![features.cls.len()], floats(&features.cls)));
            let transform: Vec<u8> =
                numbers_of(&features.transform).iter().flat_map(|value| value.to_le_bytes()).collect();
            parts.push((format!("{at}.transform"), Dtype::F64, vec![8], transform));
            for (head, Dense { channels, values }) in &features.dense {
                let shape = vec![grid.len(), *channels];
                parts.push((format!("{at}.dense.{head}"), Dtype::F16, shape, halves(values)));
            }
        }
        let views = parts
            .iter()
            .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| problem(error.to_string()))?;
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("rows".to_owned(), grid.rows.to_string()),
            ("cols".to_owned(), grid.cols.to_string()),
            ("patch_px".to_owned(), grid.patch_px.to_string()),
            ("count".to_owned(), recorded.len().to_string()),
        ]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| problem(error.to_string()))
    }
}

impl Backend for Recorded {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    /// Which answer a frame gets follows from its number alone.
    fn infer(&mut self, batch: &Batch) -> Result<Vec<Features>, BackendError> {
        let answer = |frame: &crate::types::Frame| {
            let at = usize::try_from(frame.seq % self.entries.len() as u64).unwrap_or(0);
            let Entry { transform, cls, dense } = self.entries.get(at).cloned()?;
            let times = StageTimes { backbone: Duration::ZERO, ..StageTimes::default() };
            let (frame, grid, dim) = (frame.clone(), self.spec.grid, self.spec.dim);
            Some(Features { frame, transform, grid, dim, layers: vec![], cls, dense, closer: vec![], times })
        };
        batch
            .frames
            .iter()
            .map(|frame| answer(frame).ok_or_else(|| BackendError::Infer("nothing is recorded".into())))
            .collect()
    }
}

fn entry(tensors: &SafeTensors<'_>, at: usize, grid: Grid, heads: &[String]) -> Result<Entry, String> {
    let tensor = |name: &str, dtype: Dtype| {
        let name = format!("{at}.{name}");
        let view = tensors.tensor(&name).map_err(|_| format!("tensor '{name}' is missing"))?;
        if view.dtype() == dtype { Ok(view) } else { Err(format!("'{name}' is {:?}", view.dtype())) }
    };
    let cls =
        tensor("cls", Dtype::F32)?.data().as_chunks().0.iter().copied().map(f32::from_le_bytes).collect();
    let numbers: Vec<f64> = tensor("transform", Dtype::F64)?
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f64::from_le_bytes(*bytes))
        .collect();
    let transform = transform_of(&numbers).ok_or(format!("'{at}.transform' is not eight numbers above 0"))?;
    let mut dense = BTreeMap::new();
    for head in heads {
        let view = tensor(&format!("dense.{head}"), Dtype::F16)?;
        let [patches, channels] = *view.shape() else {
            return Err(format!("'{at}.dense.{head}' has shape {:?}", view.shape()));
        };
        if patches != grid.len() {
            return Err(format!("'{at}.dense.{head}' has {patches} patches, the grid {}", grid.len()));
        }
        let value = |bytes: &[u8; 2]| f16::from_le_bytes(*bytes).to_f32();
        let values = view.data().as_chunks().0.iter().map(value).collect();
        dense.insert(head.clone(), Dense { channels, values });
    }
    Ok(Entry { transform, cls, dense })
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
}

fn numbers_of(transform: &PixelTransform) -> [f64; 8] {
    let t = transform;
    let sizes = [t.source_width, t.source_height, t.input_width, t.input_height].map(f64::from);
    [sizes[0], sizes[1], sizes[2], sizes[3], t.scale_x, t.scale_y, t.offset_x, t.offset_y]
}

fn transform_of(numbers: &[f64]) -> Option<PixelTransform> {
    let [source_width, source_height, input_width, input_height, scale_x, scale_y, offset_x, offset_y] =
        *numbers
    else {
        return None;
    };
    let size = |value: f64| (1.0..=65_536.0).contains(&value).then_some(value as u32);
    let scales = [scale_x, scale_y].iter().all(|scale| scale.is_finite() && *scale > 0.0);
    (scales && offset_x.is_finite() && offset_y.is_finite()).then_some(())?;
    Some(PixelTransform {
        source_width: size(source_width)?,
        source_height: size(source_height)?,
        input_width: size(input_width)?,
        input_height: size(input_height)?,
        scale_x,
        scale_y,
        offset_x,
        offset_y,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::tests::features_with;

    fn recorded(first: f32) -> Features {
        let grid = Grid { rows: 2, cols: 3, patch_px: 14 };
        let values = (0..12).map(|i| first + i as f32).collect();
        Features { cls: vec![first, 0.5], dim: 2, ..features_with(grid, "segment", 2, values) }
    }

    fn heads() -> Vec<String> {
        vec!["segment".into()]
    }

    #[test]
    fn what_was_recorded_is_answered_by_the_number_of_the_frame() {
        let two = [recorded(0.0), recorded(100.0)];
        let file = Recorded::file_of(&two).unwrap();
        let mut backend = Recorded::read(&file, "two", 4, &heads()).unwrap();
        assert_eq!((backend.spec().grid, backend.spec().dim), (two[0].grid, 2));
        assert!(backend.spec().name.starts_with(NAME));
        let frames = (3..6).map(|seq| crate::types::Frame { seq, ..two[0].frame.clone() }).collect();
        let answers = backend.infer(&Batch { frames }).unwrap();
        for (answer, (seq, expected)) in answers.iter().zip([(3, &two[1]), (4, &two[0]), (5, &two[1])]) {
            assert_eq!((&answer.dense, &answer.cls), (&expected.dense, &expected.cls));
            assert_eq!((answer.transform, answer.frame.seq), (expected.transform, seq));
        }
    }

    #[test]
    fn what_is_not_such_a_file_is_refused() {
        let file = Recorded::file_of(&[recorded(0.0)]).unwrap();
        assert!(Recorded::read(&file, "f", 1, &["depth".into()]).unwrap_err().contains("0.dense.depth"));
        assert!(Recorded::read(b"", "f", 1, &[]).is_err());
        assert!(Recorded::read(&file[..file.len() / 2], "f", 1, &heads()).is_err());
        assert!(Recorded::file_of(&[]).is_err());
        assert!(transform_of(&[0.0; 8]).is_none() && transform_of(&[1.0; 7]).is_none());
    }
}

//! What ONNX Runtime on the CPU says of the gate's frames, in 32 bits. Computing it takes seconds, so it is kept in the
//! store under a name that every input of the computation is part of, with a hash over its numbers.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use super::frames::frames;
use crate::backend::onnxruntime::OnnxRuntime;
use crate::backend::{Backend, BackendError, BackendSettings};
use crate::model::graph::{BatchSize, GraphHead, GraphOptions, TAPS};
use crate::model::store::{self, Store};
use crate::types::{Batch, Dense, Features, Frame, HostPlanes};

/// Changes whenever the same frames and settings give another file.
const FORMAT: &str = "standoff-reference-1";
/// References kept: one is needed for each model, input size and set of heads.
const KEPT: usize = 4;

/// The frames, and what must come out.
#[derive(Debug, Clone)]
pub struct Reference {
    pub(super) frames: Vec<Frame>,
    /// One a frame.
    pub(super) expected: Vec<Expected>,
    pub(super) heads: Vec<GraphHead>,
    /// Width and height of the model's input in pixels.
    pub(super) input: [u32; 2],
}

/// What must come out for one frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expected {
    pub layers: Vec<Vec<f32>>,
    pub cls: Vec<f32>,
    pub dense: BTreeMap<String, Dense>,
}

impl Reference {
    /// The kept reference for a model, its input size and its heads, computed when there is none.
    ///
    /// # Errors
    /// The model or ONNX Runtime is not installed or does not work.
    pub fn of(settings: &BackendSettings) -> Result<Self, BackendError> {
        let store = Store::locate().map_err(|error| BackendError::Open(error.to_string()))?;
        Self::in_folder(settings, &store.root().join("references"))
    }

    /// The same with another folder to keep it in.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn in_folder(settings: &BackendSettings, folder: &Path) -> Result<Self, BackendError> {
        let open = |error: String| BackendError::Open(error);
        let frames = frames().map_err(open)?;
        let input = [settings.input_width, settings.input_height];
        let store = Store::locate().map_err(|error| open(error.to_string()))?;
        let options = GraphOptions::new(input, BatchSize::Fixed(1), &settings.heads);
        let graph = store.graph_name(&settings.model, &options).map_err(|error| open(error.to_string()))?;
        let file = folder.join(format!("{graph}-{}.safetensors", &fingerprint(&frames)[..12]));
        let complete = |expected: Vec<Expected>| Self {
            frames: frames.clone(),
            expected,
            heads: settings.heads.clone(),
            input,
        };
        // A damaged file is none.
        if let Some(expected) =
            fs::read(&file).ok().and_then(|bytes| read(&bytes, &settings.heads, frames.len()))
        {
            return Ok(complete(expected));
        }
        let alone = BackendSettings { max_batch: 1, layers: true, recorded: None, ..settings.clone() };
        let expected = compute(&mut OnnxRuntime::open(&alone)?, &frames)?;
        if let Err(problem) = keep(&expected, folder, &file) {
            tracing::debug!(file = %file.display(), problem, "the reference cannot be kept; the next start computes it again");
        }
        Ok(complete(expected))
    }
}

fn compute(backend: &mut dyn Backend, frames: &[Frame]) -> Result<Vec<Expected>, BackendError> {
    let mut expected = vec![];
    for frame in frames {
        for Features { layers, cls, dense, .. } in backend.infer(&Batch { frames: vec![frame.clone()] })? {
            expected.push(Expected { layers, cls, dense });
        }
    }
    Ok(expected)
}

/// A hash over all that is in the frames.
fn fingerprint(frames: &[Frame]) -> String {
    let mut hash = Sha256::new();
    for frame in frames {
        // They are part of the program, and on the host.
        let Ok(HostPlanes { format, data, planes }) = frame.pixels.host() else { continue };
        let words = (frame.width, frame.height, format, planes, frame.matrix, frame.range, frame.siting);
        hash.update(format!("{words:?}"));
        hash.update(data);
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Names and values, in the order of the hash.
fn entries(expected: &[Expected]) -> Vec<(String, usize, &[f32])> {
    let mut entries = vec![];
    for (at, Expected { layers, cls, dense }) in expected.iter().enumerate() {
        entries.extend(
            layers.iter().enumerate().map(|(i, layer)| (format!("{at}.layer.{i}"), 1, layer.as_slice())),
        );
        entries.push((format!("{at}.cls"), 1, cls.as_slice()));
        entries.extend(dense.iter().map(|(name, Dense { channels, values })| {
            (format!("{at}.dense.{name}"), *channels, values.as_slice())
        }));
    }
    entries
}

fn hash_of(expected: &[Expected]) -> String {
    let mut hash = Sha256::new();
    for (name, channels, values) in entries(expected) {
        hash.update(format!("{name} {channels} {} ", values.len()));
        hash.update(floats(values));
    }
    hex(&hash.finalize())
}

fn keep(expected: &[Expected], folder: &Path, file: &Path) -> Result<(), String> {
    let parts: Vec<(String, Vec<usize>, Vec<u8>)> = entries(expected)
        .into_iter()
        .map(|(name, channels, values)| {
            (name, vec![values.len() / channels.max(1), channels], floats(values))
        })
        .collect();
    let views = parts
        .iter()
        .map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| error.to_string())?;
    let metadata =
        HashMap::from([("format".to_owned(), FORMAT.to_owned()), ("sha256".to_owned(), hash_of(expected))]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())?;
    let temporary = file.with_extension(format!("{}.part", std::process::id()));
    let write = || {
        fs::create_dir_all(folder)?;
        store::forget_oldest(folder, "safetensors", KEPT);
        fs::write(&temporary, &bytes)?;
        fs::rename(&temporary, file)
    };
    write().map_err(|error| error.to_string())
}

/// What the file holds; none when it is damaged or of another form.
fn read(bytes: &[u8], heads: &[GraphHead], frames: usize) -> Option<Vec<Expected>> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let metadata = header.metadata().as_ref()?;
    let tensor = |name: String| {
        let view = tensors.tensor(&name).ok().filter(|view| view.dtype() == Dtype::F32)?;
        let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        Some((*view.shape().last()?, values.collect::<Vec<f32>>()))
    };
    let mut expected = vec![];
    for at in 0..frames {
        let layer = |i| tensor(format!("{at}.layer.{i}")).map(|(_, values)| values);
        let head = |head: &GraphHead| {
            let (channels, values) = tensor(format!("{at}.dense.{}", head.name))?;
            Some((head.name.clone(), Dense { channels, values }))
        };
        expected.push(Expected {
            layers: (0..TAPS.len()).map(layer).collect::<Option<_>>()?,
            cls: tensor(format!("{at}.cls"))?.1,
            dense: heads.iter().map(head).collect::<Option<_>>()?,
        });
    }
    let whole = metadata.get("format")? == FORMAT && metadata.get("sha256")? == &hash_of(&expected);
    whole.then_some(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::graph::HeadTail;

    fn expected(first: f32) -> Expected {
        let dense = Dense { channels: 2, values: vec![first, 1.0, 2.0, 3.0] };
        Expected {
            layers: (0..4).map(|i| vec![first + i as f32; 6]).collect(),
            cls: vec![first; 3],
            dense: BTreeMap::from([("depth".to_owned(), dense)]),
        }
    }

    fn heads() -> Vec<GraphHead> {
        vec![GraphHead {
            name: "depth".into(),
            weight: vec![],
            bias: vec![],
            layers: vec![],
            tail: HeadTail::Logits,
        }]
    }

    #[test]
    fn what_was_kept_is_read_and_what_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        let two = vec![expected(0.0), expected(5.0)];
        keep(&two, folder.path(), &file).unwrap();
        let bytes = fs::read(&file).unwrap();
        assert_eq!(read(&bytes, &heads(), 2).unwrap(), two);
        assert_eq!(read(&bytes, &heads(), 3), None, "a frame is missing");
        assert_eq!(read(&bytes[..bytes.len() - 1], &heads(), 2), None);
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(read(&flipped, &heads(), 2), None, "one bit of a number");
        assert_eq!(read(b"", &heads(), 2), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written stays");
    }

    #[test]
    fn other_frames_have_another_fingerprint() {
        let frames = frames().unwrap();
        let mut other = frames.clone();
        other[3].range = crate::types::ColorRange::Full;
        assert_eq!(fingerprint(&frames), fingerprint(&frames.clone()));
        assert_ne!(fingerprint(&frames), fingerprint(&other));
    }
}

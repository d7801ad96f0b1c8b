//! A head's file: safetensors with the weight in half precision and everything else about it.
//!
//! | Entry | What |
//! | --- | --- |
//! | `weight` | F16, `[outputs, inputs]`, over the raw tokens of the four tapped blocks; standardisation folded in |
//! | `bias` | F32, `[outputs]`, computed from the rounded weight, so that rounding does not shift the outputs |
//! | `layerN.weight` | F16, `[outputs, patches, inputs]` of each layer above, from 0 on; patches is 1, or 9 with the neighbours |
//! | `layerN.bias` | F32, `[outputs]` |
//! | `values` | F32, `[outputs]`, only when the tail is `bin_moments`: the value of each bin |
//! | metadata `format` | `standoff-head-1`, with layers `standoff-head-2` |
//! | metadata `name`, `tail`, `classes` | output's name, `logits` or `bin_moments`, class names separated by commas |

use std::collections::{BTreeMap, HashMap};

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::HeadError;
use crate::model::graph::{GraphHead, HeadLayer, HeadTail};

/// A head as it lies in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadFile {
    /// What becomes part of the graph.
    pub graph: GraphHead,
    /// Names of the classes that its outputs speak of, in their order.
    pub classes: Vec<String>,
}

/// Of a linear head, and of one with layers.
const FORMATS: [&str; 2] = ["standoff-head-1", "standoff-head-2"];
/// More layers than any head has: what claims more is no head.
const MOST_LAYERS: usize = 16;

impl HeadFile {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Not safetensors, another format, a missing tensor, shapes that do not fit each other, or a value that is not
    /// finite.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self, HeadError> {
        let bad = |problem: String| HeadError::File { name: file.to_owned(), problem };
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| bad(format!("not safetensors: {e}")))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(format!("not safetensors: {e}")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry =
            |key: &str| metadata.get(key).cloned().ok_or_else(|| bad(format!("metadata '{key}' is missing")));
        let format = entry("format")?;
        if !FORMATS.contains(&format.as_str()) {
            return Err(bad(format!("its format '{format}' is none of {}", FORMATS.join(", "))));
        }
        let tensor =
            |name: &str| tensors.tensor(name).map_err(|_| bad(format!("tensor '{name}' is missing")));
        let halves = |name: &str| -> Result<(Vec<usize>, Vec<f32>), HeadError> {
            let view = tensor(name)?;
            if view.dtype() != Dtype::F16 {
                return Err(bad(format!("'{name}' is {:?} instead of F16", view.dtype())));
            }
            let values = view.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
            Ok((view.shape().to_vec(), values.collect()))
        };
        let floats = |name: &str, count: usize| -> Result<Vec<f32>, HeadError> {
            let view = tensor(name)?;
            if view.dtype() != Dtype::F32 || view.shape() != [count] {
                return Err(bad(format!("'{name}' is not F32 of shape [{count}]")));
            }
            Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let (shape, weight) = halves("weight")?;
        let [first, inputs] = shape[..] else {
            return Err(bad(format!("'weight' has shape {shape:?} instead of [outputs, inputs]")));
        };
        let bias = floats("bias", first)?;
        let mut layers = Vec::new();
        let mut width = first;
        while layers.len() < MOST_LAYERS && tensors.tensor(&format!("layer{}.weight", layers.len())).is_ok() {
            let name = format!("layer{}", layers.len());
            let (shape, weight) = halves(&format!("{name}.weight"))?;
            let [outputs, patches @ (1 | 9), inputs] = shape[..] else {
                return Err(bad(format!(
                    "'{name}.weight' has shape {shape:?} instead of [outputs, 1 or 9, inputs]"
                )));
            };
            if inputs != width {
                return Err(bad(format!("'{name}' takes {inputs} values, the one below gives {width}")));
            }
            let bias = floats(&format!("{name}.bias"), outputs)?;
            layers.push(HeadLayer { neighbours: patches == 9, weight, bias });
            width = outputs;
        }
        if layers.is_empty() != (format == FORMATS[0]) {
            return Err(bad(format!("it has {} layers, which is not format '{format}'", layers.len())));
        }
        let tail = match entry("tail")?.as_str() {
            "logits" => HeadTail::Logits,
            "bin_moments" => HeadTail::BinMoments { values: floats("values", width)? },
            other => return Err(bad(format!("tail '{other}' is unknown"))),
        };
        let above = layers.iter().flat_map(|layer| layer.weight.iter().chain(&layer.bias));
        if inputs == 0 || width == 0 || !weight.iter().chain(&bias).chain(above).all(|v| v.is_finite()) {
            return Err(bad("it is empty or has values that are not finite".to_owned()));
        }
        let classes =
            entry("classes")?.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        Ok(Self { graph: GraphHead { name: entry("name")?, weight, bias, layers, tail }, classes })
    }

    /// The file's bytes. `about` is added to the metadata (what it was trained on, what it reaches).
    ///
    /// # Errors
    /// When weight and bias do not fit each other or the writer fails.
    pub fn write(&self, about: &[(String, String)]) -> Result<Vec<u8>, HeadError> {
        let bad = |problem: String| HeadError::File { name: self.graph.name.clone(), problem };
        let outputs = self.graph.bias.len();
        if outputs == 0 || !self.graph.weight.len().is_multiple_of(outputs) {
            return Err(bad(format!("{} weights do not fit {outputs} outputs", self.graph.weight.len())));
        }
        let inputs = self.graph.weight.len() / outputs;
        let halves = |v: &[f32]| v.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect::<Vec<u8>>();
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut parts = vec![
            ("weight".to_owned(), Dtype::F16, vec![outputs, inputs], halves(&self.graph.weight)),
            ("bias".to_owned(), Dtype::F32, vec![outputs], bytes(&self.graph.bias)),
        ];
        for (i, layer) in self.graph.layers.iter().enumerate() {
            let (outputs, patches) = (layer.bias.len(), layer.patches());
            if outputs == 0 || !layer.weight.len().is_multiple_of(outputs * patches) {
                return Err(bad(format!("{} weights do not fit layer {i}", layer.weight.len())));
            }
            let shape = vec![outputs, patches, layer.weight.len() / (outputs * patches)];
            parts.push((format!("layer{i}.weight"), Dtype::F16, shape, halves(&layer.weight)));
            parts.push((format!("layer{i}.bias"), Dtype::F32, vec![outputs], bytes(&layer.bias)));
        }
        let tail = match &self.graph.tail {
            // A published head has no outputs of its own and was refused above.
            HeadTail::Logits | HeadTail::Official(_) => "logits",
            HeadTail::BinMoments { values } => {
                parts.push(("values".to_owned(), Dtype::F32, vec![values.len()], bytes(values)));
                "bin_moments"
            }
        };
        let mut tensors = Vec::with_capacity(parts.len());
        for (name, dtype, shape, data) in &parts {
            let view = TensorView::new(*dtype, shape.clone(), data);
            tensors.push((name.as_str(), view.map_err(|e| bad(format!("writing {name}: {e}")))?));
        }
        let format = FORMATS[usize::from(!self.graph.layers.is_empty())];
        let mut metadata: HashMap<String, String> = about.iter().cloned().collect();
        for (key, value) in [
            ("format", format),
            ("name", self.graph.name.as_str()),
            ("tail", tail),
            ("classes", self.classes.join(",").as_str()),
        ] {
            metadata.insert(key.to_owned(), value.to_owned());
        }
        let bytes = safetensors::tensor::serialize(tensors, Some(metadata));
        let bytes = bytes.map_err(|e| bad(format!("writing: {e}")))?;
        sorted(bytes).ok_or_else(|| bad("its header cannot be sorted".to_owned()))
    }
}

/// A file's header, in the order in which it is written.
#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, serde_json::Value>,
}

/// The library writes the metadata in a hash map's order, another one each time: sorted, the same head is the same file.
fn sorted(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let place = bytes.get_mut(8..8usize.checked_add(length)?)?;
    let header: Header = serde_json::from_slice(place).ok()?;
    let text = serde_json::to_vec(&header).ok()?;
    place.fill(b' ');
    place.get_mut(..text.len())?.copy_from_slice(&text);
    Some(bytes)
}

/// Folds a standardisation into a linear map and rounds the weight to what the file holds: returns the rounded weight
/// (`outputs * inputs`) and the bias that makes the rounded map right at the inputs' mean. Tokens have a few channels
/// that are hundreds of times larger than the others; with the bias of the unrounded weight their rounding would shift
/// every output.
pub fn fold(weight: &[f32], bias: &[f32], mean: &[f32], sigma: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let inputs = mean.len();
    let mut folded = Vec::with_capacity(weight.len());
    let mut out_bias = Vec::with_capacity(bias.len());
    for (row, b) in weight.chunks_exact(inputs).zip(bias) {
        let mut b = f64::from(*b);
        for ((w, m), s) in row.iter().zip(mean).zip(sigma) {
            let rounded = f16::from_f32(w / s).to_f32();
            folded.push(rounded);
            b -= f64::from(rounded) * f64::from(*m);
        }
        out_bias.push(b as f32);
    }
    (folded, out_bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> HeadFile {
        HeadFile {
            graph: GraphHead {
                name: "depth".to_owned(),
                weight: vec![0.5, -1.25, 2.0, 0.0, 1.0, -0.75],
                bias: vec![0.1, -0.2],
                layers: vec![],
                tail: HeadTail::BinMoments { values: vec![1.0, 2.0] },
            },
            classes: vec!["a".to_owned(), "b".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = head().write(&[("trained_on".to_owned(), "nothing".to_owned())]).unwrap();
        assert_eq!(HeadFile::read("x", &bytes).unwrap(), head());
        let deep = deep();
        let bytes = deep.write(&[]).unwrap();
        assert_eq!(HeadFile::read("x", &bytes).unwrap(), deep);
    }

    #[test]
    fn the_same_head_is_the_same_file() {
        let about: Vec<_> = (0..12).map(|i| (format!("key{i}"), format!("value \"{i}\""))).collect();
        let first = deep().write(&about).unwrap();
        assert!((0..8).all(|_| deep().write(&about).unwrap() == first));
    }

    /// Two values, a layer of three over nine patches, a layer of one.
    fn deep() -> HeadFile {
        let mut deep = head();
        let near = (0..3 * 9 * 2).map(|i| i as f32 / 64.0).collect();
        let near = HeadLayer { neighbours: true, weight: near, bias: vec![1.0, 2.0, 3.0] };
        let last = HeadLayer { neighbours: false, weight: vec![0.5, -0.5, 0.25], bias: vec![4.0] };
        deep.graph.layers = vec![near, last];
        deep.graph.tail = HeadTail::Logits;
        deep
    }

    #[test]
    fn layers_that_do_not_fit_each_other_are_refused() {
        let mut wide = deep();
        wide.graph.layers[1].weight = vec![0.5; 4];
        let error = HeadFile::read("x", &wide.write(&[]).unwrap()).unwrap_err().to_string();
        assert!(error.contains("'layer1' takes 4 values, the one below gives 3"), "{error}");
        let mut odd = deep();
        odd.graph.layers[0].weight.pop();
        assert!(odd.write(&[]).is_err());
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes = head().write(&[]).unwrap();
        let error = |bytes: &[u8]| HeadFile::read("depth.safetensors", bytes).unwrap_err().to_string();
        assert!(error(&bytes[..bytes.len() - 4]).contains("not safetensors"));
        assert!(error(b"hello").contains("depth.safetensors"));
        let mut nan = head();
        nan.graph.bias[0] = f32::NAN;
        assert!(error(&nan.write(&[]).unwrap()).contains("not finite"));
        let mut odd = head();
        odd.graph.weight.pop();
        assert!(odd.write(&[]).is_err());
    }

    #[test]
    fn folding_is_exact_at_the_mean() {
        let (w, b) = fold(&[3.0, 1.0 / 3.0], &[0.25], &[1000.0, -2.0], &[7.0, 0.1]);
        let at_mean = w[0] * 1000.0 + w[1] * -2.0 + b[0];
        assert!((at_mean - 0.25).abs() < 1e-4, "{at_mean}");
        assert!((w[1] - 10.0 / 3.0).abs() < 2e-3);
    }
}

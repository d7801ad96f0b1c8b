//! A head's file: safetensors with the weight in half precision and everything else about it.
//!
//! | Entry | What |
//! | --- | --- |
//! | `weight` | F16, `[outputs, inputs]`, over the raw tokens of the four tapped blocks; standardisation folded in |
//! | `bias` | F32, `[outputs]`, computed from the rounded weight, so that rounding does not shift the outputs |
//! | `values` | F32, `[outputs]`, only when the tail is `bin_moments`: the value of each bin |
//! | metadata `format` | `standoff-head-1` |
//! | metadata `name`, `tail`, `classes` | output's name, `logits` or `bin_moments`, class names separated by commas |

use std::collections::HashMap;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::HeadError;
use crate::model::graph::{GraphHead, HeadTail};

/// A head as it lies in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadFile {
    /// What becomes part of the graph.
    pub graph: GraphHead,
    /// Names of the classes that its outputs speak of, in their order.
    pub classes: Vec<String>,
}

const FORMAT: &str = "standoff-head-1";

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
        if entry("format")? != FORMAT {
            return Err(bad(format!("its format is not '{FORMAT}'")));
        }
        let tensor =
            |name: &str| tensors.tensor(name).map_err(|_| bad(format!("tensor '{name}' is missing")));
        let weight = tensor("weight")?;
        let [outputs, inputs] = *weight.shape() else {
            return Err(bad(format!("'weight' has shape {:?} instead of [outputs, inputs]", weight.shape())));
        };
        if weight.dtype() != Dtype::F16 {
            return Err(bad(format!("'weight' is {:?} instead of F16", weight.dtype())));
        }
        let weight: Vec<f32> =
            weight.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        let floats = |name: &str| -> Result<Vec<f32>, HeadError> {
            let view = tensor(name)?;
            if view.dtype() != Dtype::F32 || view.shape() != [outputs] {
                return Err(bad(format!("'{name}' is not F32 of shape [{outputs}]")));
            }
            Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let bias = floats("bias")?;
        let tail = match entry("tail")?.as_str() {
            "logits" => HeadTail::Logits,
            "bin_moments" => HeadTail::BinMoments { values: floats("values")? },
            other => return Err(bad(format!("tail '{other}' is unknown"))),
        };
        if inputs == 0 || outputs == 0 || !weight.iter().chain(&bias).all(|v| v.is_finite()) {
            return Err(bad("it is empty or has values that are not finite".to_owned()));
        }
        let classes =
            entry("classes")?.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        Ok(Self { graph: GraphHead { name: entry("name")?, weight, bias, tail }, classes })
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
        let weight: Vec<u8> =
            self.graph.weight.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let bias = bytes(&self.graph.bias);
        let values = match &self.graph.tail {
            // A published head has no outputs of its own and was refused above.
            HeadTail::Logits | HeadTail::Official(_) => None,
            HeadTail::BinMoments { values } => Some(bytes(values)),
        };
        let view = |dtype, shape, data| {
            TensorView::new(dtype, shape, data).map_err(|e| bad(format!("writing: {e}")))
        };
        let mut tensors = vec![
            ("weight", view(Dtype::F16, vec![outputs, inputs], &weight)?),
            ("bias", view(Dtype::F32, vec![outputs], &bias)?),
        ];
        if let Some(values) = &values {
            tensors.push(("values", view(Dtype::F32, vec![outputs], values)?));
        }
        let tail = if values.is_some() { "bin_moments" } else { "logits" };
        let mut metadata: HashMap<String, String> = about.iter().cloned().collect();
        for (key, value) in [
            ("format", FORMAT),
            ("name", self.graph.name.as_str()),
            ("tail", tail),
            ("classes", self.classes.join(",").as_str()),
        ] {
            metadata.insert(key.to_owned(), value.to_owned());
        }
        safetensors::tensor::serialize(tensors, Some(metadata)).map_err(|e| bad(format!("writing: {e}")))
    }
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
                tail: HeadTail::BinMoments { values: vec![1.0, 2.0] },
            },
            classes: vec!["a".to_owned(), "b".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = head().write(&[("trained_on".to_owned(), "nothing".to_owned())]).unwrap();
        assert_eq!(HeadFile::read("x", &bytes).unwrap(), head());
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

//! The ONNX file of a whole depth network: Depth Anything V2 (Yang et al. 2024, arXiv 2406.09414) as its users export
//! it. One picture normalised with ImageNet's mean and deviation goes in, one map comes out.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use crate::model::onnx::{Dim, FLOAT, ModelProto, ValueInfoProto};
use crate::types::DepthUnit;

/// Names of the output: of the exports that follow the original code, and of Hugging Face's.
const OUTPUTS: [&str; 2] = ["depth", "predicted_depth"];

/// A depth network: one input `[1, 3, height, width]`, one output `[1, height, width]` or `[1, 1, height, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepthNetwork {
    /// Its file.
    pub file: PathBuf,
    /// Name of its input.
    pub input: String,
    /// Name of its output.
    pub output: String,
    /// Width and height of its input in pixels; none when it takes any multiple of 14.
    pub size: Option<[u32; 2]>,
    /// What its values are: the file does not say.
    pub unit: DepthUnit,
}

impl DepthNetwork {
    pub(super) fn parse(file: &Path, bytes: Bytes, unit: DepthUnit) -> Result<Self, String> {
        let model =
            ModelProto::decode(bytes).map_err(|error| format!("it is no whole ONNX file ({error})"))?;
        let graph = model.graph.ok_or("the ONNX file has no graph")?;
        // Old exporters name the weights among the inputs.
        let is_weight =
            |input: &&ValueInfoProto| graph.initializer.iter().any(|weight| weight.name == input.name);
        let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !is_weight(input)).collect();
        let [input] = inputs.as_slice() else {
            return Err(format!("it has the inputs {}, expected a single one", names(&inputs)));
        };
        let all: Vec<&ValueInfoProto> = graph.output.iter().collect();
        let output = all.iter().find(|output| OUTPUTS.contains(&output.name()));
        let output = output.ok_or_else(|| {
            format!(
                "it has the outputs {}, expected {}",
                names(&all),
                OUTPUTS.map(|name| format!("'{name}'")).join(" or ")
            )
        })?;
        for value in [input, output] {
            if shape(value).0 != Some(FLOAT) {
                return Err(format!(
                    "'{}' is not of 32-bit floats; export the model in float32",
                    value.name()
                ));
            }
        }
        let size = match shape(input).1.as_slice() {
            [batch, channels, height, width] if fits(batch, 1) && fits(channels, 3) => {
                match (height, width) {
                    (Some(Dim::Value(height)), Some(Dim::Value(width))) => {
                        let side = |side: i64| u32::try_from(side).ok().filter(|side| *side > 0);
                        Some(
                            side(*width)
                                .zip(side(*height))
                                .map(<[u32; 2]>::from)
                                .ok_or("its input has no size")?,
                        )
                    }
                    (None | Some(Dim::Param(_)), None | Some(Dim::Param(_))) => None,
                    _ => {
                        return Err(
                            "its input's height is fixed and its width is not, or the other way round"
                                .to_owned(),
                        );
                    }
                }
            }
            other => {
                return Err(format!(
                    "its input '{}' has the shape {}, expected [1, 3, height, width]",
                    input.name(),
                    sides(other)
                ));
            }
        };
        let out = shape(output).1;
        if !matches!(out.len(), 3 | 4) {
            return Err(format!(
                "its output '{}' has the shape {}, expected [1, height, width]",
                output.name(),
                sides(&out)
            ));
        }
        let [input, output] = [input.name(), output.name()].map(str::to_owned);
        Ok(Self { file: file.to_owned(), input, output, size, unit })
    }
}

/// Type of the values, and the shape.
fn shape(value: &ValueInfoProto) -> (Option<i32>, Vec<Option<Dim>>) {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let dims =
        tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.as_slice()).unwrap_or_default();
    (tensor.and_then(|tensor| tensor.elem_type), dims.iter().map(|dim| dim.value.clone()).collect())
}

fn fits(dim: &Option<Dim>, wanted: i64) -> bool {
    !matches!(dim, Some(Dim::Value(found)) if *found != wanted)
}

fn names(values: &[&ValueInfoProto]) -> String {
    let names: Vec<String> = values.iter().map(|value| format!("'{}'", value.name())).collect();
    if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
}

fn sides(dims: &[Option<Dim>]) -> String {
    let side = |dim: &Option<Dim>| match dim {
        Some(Dim::Value(side)) => side.to_string(),
        Some(Dim::Param(name)) => name.clone(),
        None => "?".to_owned(),
    };
    format!("[{}]", dims.iter().map(side).collect::<Vec<_>>().join(", "))
}

//! From the namings that DINOv2's weights travel in to the official one (that of the state dict of
//! github.com/facebookresearch/dinov2).

use bytes::Bytes;
use prost::Message;

use super::onnx::{EXTERNAL, FLOAT, FLOAT16, GraphProto, ModelProto, TensorProto};
use super::weights::{Tensor, Tensors, WeightsError, f16_values, f32_values};

/// Renames tensors of the Hugging Face naming (`embeddings.cls_token`, `encoder.layer.0...`), joins their
/// query, key and value, and takes off a prefix such as `backbone.`; the official naming passes through.
pub(super) fn official(tensors: Tensors) -> Result<Tensors, WeightsError> {
    const HUGGING_FACE: &str = "embeddings.cls_token";
    if let Some(prefix) = tensors.keys().find_map(|name| name.strip_suffix(HUGGING_FACE)).map(str::to_owned) {
        return join_qkv(renamed(tensors, &prefix, from_hugging_face));
    }
    if let Some(prefix) = tensors.keys().find_map(|name| name.strip_suffix("cls_token")).map(str::to_owned) {
        return Ok(renamed(tensors, &prefix, |name| Some(name.to_owned())));
    }
    let some: Vec<&str> = tensors.keys().take(3).map(String::as_str).collect();
    let problem = format!(
        "it has no tensor 'cls_token' (Hugging Face: 'embeddings.cls_token'); its first of {} are {some:?}",
        tensors.len()
    );
    Err(WeightsError::Architecture { problem })
}

fn renamed(tensors: Tensors, prefix: &str, rename: impl Fn(&str) -> Option<String>) -> Tensors {
    let rest = |(name, tensor): (String, Tensor)| Some((rename(name.strip_prefix(prefix)?)?, tensor));
    tensors.into_iter().filter_map(rest).collect()
}

/// The official name of a tensor in Hugging Face's naming. Query, key and value stay three, as `attn.query`...
fn from_hugging_face(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("encoder.layer.") {
        let (block, rest) = rest.split_once('.')?;
        let rest = rest
            .replace("attention.attention.", "attn.")
            .replace("attention.output.dense.", "attn.proj.")
            .replace("layer_scale1.lambda1", "ls1.gamma")
            .replace("layer_scale2.lambda1", "ls2.gamma")
            .replace("mlp.weights_in.", "mlp.w12.")
            .replace("mlp.weights_out.", "mlp.w3.");
        return Some(format!("blocks.{block}.{rest}"));
    }
    if let Some(rest) = name.strip_prefix("embeddings.") {
        let rest = rest
            .replace("patch_embeddings.projection.", "patch_embed.proj.")
            .replace("position_embeddings", "pos_embed");
        return Some(rest);
    }
    name.strip_prefix("layernorm.").map(|rest| format!("norm.{rest}"))
}

fn join_qkv(mut tensors: Tensors) -> Result<Tensors, WeightsError> {
    let queries: Vec<String> = tensors.keys().filter(|name| name.contains(".attn.query.")).cloned().collect();
    for query in queries {
        let mut joined = Tensor { shape: vec![], values: vec![] };
        for part in ["query", "key", "value"] {
            let name = query.replace(".attn.query.", &format!(".attn.{part}."));
            let expected = tensors.get(&query).map(|t| t.shape.clone()).unwrap_or(joined.shape.clone());
            let Some(tensor) = tensors.remove(&name) else {
                return Err(WeightsError::Missing { tensor: name, expected });
            };
            if joined.shape.is_empty() {
                joined.shape = tensor.shape;
            } else if tensor.shape.get(1..) == joined.shape.get(1..) && !tensor.shape.is_empty() {
                joined.shape[0] = joined.shape[0].saturating_add(tensor.shape[0]);
            } else {
                return Err(WeightsError::Shape {
                    tensor: name,
                    expected: joined.shape,
                    found: tensor.shape,
                });
            }
            joined.values.extend(tensor.values);
        }
        tensors.insert(query.replace(".attn.query.", ".attn.qkv."), joined);
    }
    Ok(tensors)
}

/// The initialisers of an exported graph. An exporter folds transposed weights into nameless constants
/// (`onnx::MatMul_1966`); the nodes that use them still carry the module's name
/// (`/backbone/encoder/layer.0/mlp/fc1/MatMul`), and so name them here.
pub(super) fn tensors_from_onnx(bytes: Vec<u8>) -> Result<Tensors, WeightsError> {
    let length = bytes.len();
    let model = ModelProto::decode(Bytes::from(bytes)).map_err(|error| WeightsError::Truncated {
        bytes: length,
        problem: format!("not readable as ONNX: {error}"),
    })?;
    let Some(graph) = model.graph.filter(|graph| !graph.initializer.is_empty()) else {
        return Err(WeightsError::Format { problem: "the file is ONNX without weights".to_owned() });
    };
    let mut tensors = Tensors::new();
    for initializer in &graph.initializer {
        if let Some(tensor) = tensor_from_onnx(initializer)? {
            tensors.insert(initializer.name().to_owned(), tensor);
        }
    }
    name_matmuls(&graph, &mut tensors);
    name_position_embedding(&graph, &mut tensors);
    Ok(tensors)
}

/// `None` for integers, which are shapes and indices.
fn tensor_from_onnx(initializer: &TensorProto) -> Result<Option<Tensor>, WeightsError> {
    let name = initializer.name();
    if initializer.data_location() == EXTERNAL {
        let problem = format!("tensor '{name}' lies in another file");
        return Err(WeightsError::Format { problem });
    }
    let raw = initializer.raw_data.as_deref();
    let values = match (initializer.data_type(), raw) {
        (FLOAT, Some(raw)) => f32_values(raw),
        (FLOAT, None) => initializer.float_data.clone(),
        (FLOAT16, Some(raw)) => f16_values(raw),
        _ => return Ok(None),
    };
    let shape: Vec<usize> = initializer.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
    let expected = shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
    if expected != Some(values.len()) {
        let problem = format!("tensor '{name}' of shape {shape:?} has {} values", values.len());
        return Err(WeightsError::Truncated { bytes: values.len() * 4, problem });
    }
    Ok(Some(Tensor { shape, values }))
}

fn name_matmuls(graph: &GraphProto, tensors: &mut Tensors) {
    for node in graph.node.iter().filter(|node| node.op_type() == "MatMul") {
        let Some(module) = node.name().strip_prefix('/').and_then(|name| name.rsplit_once('/')) else {
            continue;
        };
        let weight = format!("{}.weight", module.0.replace('/', "."));
        let Some(constant) = node.input.get(1) else { continue };
        if tensors.contains_key(&weight) {
            continue;
        }
        if let Some(tensor) = tensors.get(constant).filter(|t| t.shape.len() == 2 && !t.values.is_empty()) {
            let transposed = transposed(tensor);
            tensors.insert(weight, transposed);
        }
    }
}

/// `[rows, columns]` to `[columns, rows]`.
pub(super) fn transposed(tensor: &Tensor) -> Tensor {
    let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
    let mut values = vec![0.0; tensor.values.len()];
    for (row, from) in tensor.values.chunks_exact(columns).enumerate() {
        for (column, value) in from.iter().enumerate() {
            values[column * rows + row] = *value;
        }
    }
    Tensor { shape: vec![columns, rows], values }
}

/// An exporter cuts the position embedding into its CLS part (joined by a Concat) and its patch part (shaped
/// to a grid by a Reshape): puts them together again.
fn name_position_embedding(graph: &GraphProto, tensors: &mut Tensors) {
    let Some(cls) = tensors.keys().find(|name| name.ends_with("embeddings.cls_token")).cloned() else {
        return;
    };
    let prefix = cls.trim_end_matches("cls_token");
    let name = format!("{prefix}position_embeddings");
    let place = format!("/{}", prefix.replace('.', "/"));
    if tensors.contains_key(&name) {
        return;
    }
    let part = |op: &str| {
        let nodes = graph.node.iter().filter(|node| node.op_type() == op && node.name().starts_with(&place));
        let mut inputs = nodes.flat_map(|node| &node.input).filter(|input| **input != cls);
        inputs.find_map(|input| tensors.get(input).filter(|t| t.shape.len() == 3))
    };
    if let (Some(cls_part), Some(patches)) = (part("Concat"), part("Reshape")) {
        let shape = vec![1, cls_part.shape[1].saturating_add(patches.shape[1]), patches.shape[2]];
        let values = [cls_part.values.as_slice(), patches.values.as_slice()].concat();
        tensors.insert(name, Tensor { shape, values });
    }
}

//! Writes an ONNX graph node by node; each method is one step of a network.

use bytes::Bytes;

use super::onnx::{AttributeProto, FLOAT, GraphProto, INT64, NodeProto, TensorProto};
use super::weights::{Linear, Norm, Tensor, le_bytes};

/// Epsilon of every layer norm in DINOv2.
const NORM_EPSILON: f32 = 1e-6;

/// A value inside the graph: its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(pub(super) String);

/// A graph being written.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    /// What is written so far; inputs and outputs are for whoever finishes it.
    pub(super) graph: GraphProto,
    scope: Vec<String>,
}

impl GraphBuilder {
    /// Runs `write` with `name` before the names of all that it writes.
    pub fn scope<T>(&mut self, name: &str, write: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.to_owned());
        let result = write(self);
        self.scope.pop();
        result
    }

    fn scoped(&self, name: &str) -> String {
        self.scope.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".")
    }

    /// A node with one output, named after the scope.
    pub fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        let output = format!("{}:{}", self.scoped(name), self.graph.node.len());
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: vec![output.clone()],
            name: Some(output.clone()),
            op_type: Some(op.to_owned()),
            attribute: attributes,
            domain: None,
        });
        Value(output)
    }

    fn initializer(&mut self, name: &str, shape: &[usize], data_type: i32, raw: Vec<u8>) -> Value {
        let name = format!("{}#{}", self.scoped(name), self.graph.initializer.len());
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|side| *side as i64).collect(),
            data_type: Some(data_type),
            name: Some(name.clone()),
            raw_data: Some(Bytes::from(raw)),
            ..TensorProto::default()
        });
        Value(name)
    }

    /// A constant of floats.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        self.initializer(name, shape, FLOAT, le_bytes(values))
    }

    /// A constant tensor.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Value {
        self.floats(name, &tensor.shape, &tensor.values)
    }

    /// A constant number.
    pub fn scalar(&mut self, name: &str, value: f32) -> Value {
        self.floats(name, &[], &[value])
    }

    /// A constant list of integers: shapes, axes, bounds.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> Value {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, &[values.len()], INT64, raw)
    }

    /// `a + b`.
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", "add", &[a, b], vec![])
    }

    /// `a * b`, value by value.
    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", "mul", &[a, b], vec![])
    }

    /// Matrix product over the last two axes.
    pub fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("MatMul", "matmul", &[a, b], vec![])
    }

    /// `x W^T + b` over the last axis.
    pub fn linear(&mut self, name: &str, x: &Value, linear: &Linear) -> Value {
        self.scope(name, |g| {
            let weight = g.tensor("weight", &super::naming::transposed(&linear.weight));
            let bias = g.tensor("bias", &linear.bias);
            let product = g.matmul(x, &weight);
            g.add(&product, &bias)
        })
    }

    /// Layer norm over the last axis.
    pub fn layer_norm(&mut self, name: &str, x: &Value, norm: &Norm) -> Value {
        self.scope(name, |g| {
            let scale = g.tensor("weight", &norm.weight);
            let shift = g.tensor("bias", &norm.bias);
            let attributes =
                vec![AttributeProto::int("axis", -1), AttributeProto::float("epsilon", NORM_EPSILON)];
            g.node("LayerNormalization", "norm", &[x, &scale, &shift], attributes)
        })
    }

    /// Softmax over the last axis.
    pub fn softmax(&mut self, x: &Value) -> Value {
        self.node("Softmax", "softmax", &[x], vec![AttributeProto::int("axis", -1)])
    }

    /// The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, in the shape that ONNX Runtime knows and fuses.
    pub fn gelu(&mut self, x: &Value) -> Value {
        self.scope("gelu", |g| {
            let (root, one, half) =
                (g.scalar("root", std::f32::consts::SQRT_2), g.scalar("one", 1.0), g.scalar("half", 0.5));
            let scaled = g.node("Div", "div", &[x, &root], vec![]);
            let erf = g.node("Erf", "erf", &[&scaled], vec![]);
            let shifted = g.add(&erf, &one);
            let product = g.mul(x, &shifted);
            g.mul(&product, &half)
        })
    }

    /// `x * sigmoid(x)`.
    pub fn silu(&mut self, x: &Value) -> Value {
        let gate = self.node("Sigmoid", "sigmoid", &[x], vec![]);
        self.mul(x, &gate)
    }

    /// Another shape; 0 keeps the size of that axis, -1 takes what is left.
    pub fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.ints("shape", shape);
        self.node("Reshape", "reshape", &[x, &shape], vec![])
    }

    /// Another order of the axes.
    pub fn transpose(&mut self, x: &Value, order: &[i64]) -> Value {
        self.node("Transpose", "transpose", &[x], vec![AttributeProto::ints("perm", order)])
    }

    /// `x[..., start..end, ...]` along `axis`.
    pub fn slice(&mut self, x: &Value, axis: i64, start: usize, end: usize) -> Value {
        let (starts, ends) = (self.ints("start", &[start as i64]), self.ints("end", &[end as i64]));
        let axes = self.ints("axis", &[axis]);
        self.node("Slice", "slice", &[x, &starts, &ends, &axes], vec![])
    }

    /// Values after each other along `axis`.
    pub fn concat(&mut self, values: &[&Value], axis: i64) -> Value {
        self.node("Concat", "concat", values, vec![AttributeProto::int("axis", axis)])
    }

    /// Gives a value the name under which it leaves the graph.
    pub fn output(&mut self, value: &Value, name: &str) {
        self.graph.node.push(NodeProto {
            input: vec![value.0.clone()],
            output: vec![name.to_owned()],
            name: Some(format!("output:{name}")),
            op_type: Some("Identity".to_owned()),
            attribute: vec![],
            domain: None,
        });
    }
}

//! Writes an ONNX graph node by node; each method is one step of a network.

use bytes::Bytes;
use half::f16;

use super::onnx::{AttributeProto, FLOAT, FLOAT16, GraphProto, INT64, NodeProto, TensorProto};
use super::weights::{Linear, Norm, Tensor, le_bytes};

/// Epsilon of every layer norm in DINOv2.
const NORM_EPSILON: f32 = 1e-6;

/// Domain of ONNX Runtime's own operators.
pub(super) const ONNX_RUNTIME_DOMAIN: &str = "com.microsoft";

/// In which floats a graph computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    Full,
    /// The input, the weights and the products in 16 bits; layer norms, softmaxes and heads in 32; every output in 32.
    Mixed,
}

/// For whom a graph is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// ONNX's own operators: for everybody.
    #[default]
    Onnx,
    /// ONNX Runtime's CUDA provider. Attention is one `MultiHeadAttention`, the activation one `Gelu`, and in
    /// [`Precision::Mixed`] a layer norm takes and gives 16 bits, because that provider's kernel sums in 32 by itself.
    OnnxRuntime,
}

/// A value inside the graph: its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(pub(super) String);

/// A graph being written.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    /// What is written so far; inputs and outputs are for whoever finishes it.
    pub(super) graph: GraphProto,
    pub(super) dialect: Dialect,
    precision: Precision,
    scope: Vec<String>,
    /// The first weight that 16 bits cannot hold: its name and value.
    pub(super) too_large: Option<(String, f32)>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(precision: Precision, dialect: Dialect) -> Self {
        Self { precision, dialect, ..Self::default() }
    }

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
        self.push(None, op, output.clone(), inputs, vec![output.clone()], attributes);
        Value(output)
    }

    fn push(
        &mut self,
        domain: Option<&str>,
        op: &str,
        name: String,
        inputs: &[&Value],
        output: Vec<String>,
        attribute: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output,
            name: Some(name),
            op_type: Some(op.to_owned()),
            attribute,
            domain: domain.map(str::to_owned),
        });
    }

    /// The same with an operator of ONNX Runtime.
    fn onnx_runtime_node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        let output = format!("{}:{}", self.scoped(name), self.graph.node.len());
        self.push(Some(ONNX_RUNTIME_DOMAIN), op, output.clone(), inputs, vec![output.clone()], attributes);
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

    /// A constant of 32-bit floats.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        self.initializer(name, shape, FLOAT, le_bytes(values))
    }

    /// A constant in the floats that the products are made of.
    pub fn weight(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        if self.precision == Precision::Full {
            return self.floats(name, shape, values);
        }
        let rounded = |value: &f32| f16::from_f32(*value);
        if self.too_large.is_none() {
            let beyond = values.iter().find(|value| !rounded(value).is_finite());
            self.too_large = beyond.map(|value| (self.scoped(name), *value));
        }
        let raw = values.iter().flat_map(|value| rounded(value).to_le_bytes()).collect();
        self.initializer(name, shape, FLOAT16, raw)
    }

    /// A tensor in the floats that the products are made of.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Value {
        self.weight(name, &tensor.shape, &tensor.values)
    }

    /// A number in the floats that the products are made of.
    pub fn scalar(&mut self, name: &str, value: f32) -> Value {
        self.weight(name, &[], &[value])
    }

    /// Type of the values between the layers, as ONNX counts them.
    pub(super) fn working_type(&self) -> i32 {
        match self.precision {
            Precision::Full => FLOAT,
            Precision::Mixed => FLOAT16,
        }
    }

    /// A value of the layers in 32 bits.
    pub fn to_full(&mut self, x: &Value) -> Value {
        self.cast("full", x, FLOAT)
    }

    /// A value of 32 bits as the layers take it.
    pub fn to_working(&mut self, x: &Value) -> Value {
        self.cast("working", x, self.working_type())
    }

    /// Between the layers' floats and 32 bits; nothing where these are the same.
    fn cast(&mut self, name: &str, x: &Value, to: i32) -> Value {
        match self.precision {
            Precision::Full => x.clone(),
            Precision::Mixed => self.node("Cast", name, &[x], vec![AttributeProto::int("to", i64::from(to))]),
        }
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

    /// Layer norm over the last axis, summed in 32 bits: a token's squares go beyond what 16 hold.
    pub fn layer_norm(&mut self, name: &str, x: &Value, norm: &Norm) -> Value {
        let attributes =
            vec![AttributeProto::int("axis", -1), AttributeProto::float("epsilon", NORM_EPSILON)];
        self.scope(name, |g| {
            if g.dialect == Dialect::OnnxRuntime {
                let (scale, shift) = (g.tensor("weight", &norm.weight), g.tensor("bias", &norm.bias));
                return g.node("LayerNormalization", "norm", &[x, &scale, &shift], attributes);
            }
            let scale = g.floats("weight", &norm.weight.shape, &norm.weight.values);
            let shift = g.floats("bias", &norm.bias.shape, &norm.bias.values);
            let x = g.to_full(x);
            let normed = g.node("LayerNormalization", "norm", &[&x, &scale, &shift], attributes);
            g.to_working(&normed)
        })
    }

    /// Multi-head attention of ONNX Runtime: `softmax(q k^T / sqrt d) v` of values `[batch, tokens, heads * d]`.
    pub fn multi_head_attention(&mut self, [q, k, v]: [&Value; 3], heads: usize) -> Value {
        let heads = vec![AttributeProto::int("num_heads", heads as i64)];
        self.onnx_runtime_node("MultiHeadAttention", "attention", &[q, k, v], heads)
    }

    /// `N` equal parts along `axis`.
    pub fn split<const N: usize>(&mut self, x: &Value, axis: i64) -> [Value; N] {
        let name = format!("{}:{}", self.scoped("split"), self.graph.node.len());
        let parts: [Value; N] = std::array::from_fn(|part| Value(format!("{name}.{part}")));
        let outputs = parts.iter().map(|part| part.0.clone()).collect();
        self.push(None, "Split", name, &[x], outputs, vec![AttributeProto::int("axis", axis)]);
        parts
    }

    /// Softmax over the last axis, of values of 32 bits.
    pub fn softmax(&mut self, x: &Value) -> Value {
        self.node("Softmax", "softmax", &[x], vec![AttributeProto::int("axis", -1)])
    }

    /// The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, in the shape that ONNX Runtime knows and fuses.
    pub fn gelu(&mut self, x: &Value) -> Value {
        if self.dialect == Dialect::OnnxRuntime {
            return self.onnx_runtime_node("Gelu", "gelu", &[x], vec![]);
        }
        self.scope("gelu", |g| {
            let (root, one, half) =
                (g.scalar("root", std::f32::consts::SQRT_2), g.scalar("one", 1.0), g.scalar("half", 0.5));
            g.gelu_of(x, [&root, &one, &half])
        })
    }

    /// The same of values of 32 bits, whatever the precision of the layers.
    pub fn gelu_full(&mut self, x: &Value) -> Value {
        if self.dialect == Dialect::OnnxRuntime {
            return self.onnx_runtime_node("Gelu", "gelu", &[x], vec![]);
        }
        self.scope("gelu", |g| {
            let number = |g: &mut Self, name: &str, value: f32| g.floats(name, &[], &[value]);
            let root = number(g, "root", std::f32::consts::SQRT_2);
            let (one, half) = (number(g, "one", 1.0), number(g, "half", 0.5));
            g.gelu_of(x, [&root, &one, &half])
        })
    }

    /// GELU spelled out, with the numbers that it needs.
    fn gelu_of(&mut self, x: &Value, [root, one, half]: [&Value; 3]) -> Value {
        let scaled = self.node("Div", "div", &[x, root], vec![]);
        let erf = self.node("Erf", "erf", &[&scaled], vec![]);
        let shifted = self.add(&erf, one);
        let product = self.mul(x, &shifted);
        self.mul(&product, half)
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

    /// Gives a value of 32 bits the name under which it leaves the graph.
    pub fn output(&mut self, value: &Value, name: &str) {
        let output = vec![name.to_owned()];
        self.push(None, "Identity", format!("output:{name}"), &[value], output, vec![]);
    }
}

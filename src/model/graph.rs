//! Writes the ONNX graph of a DINOv2 for one input size and batch, heads included.

/// A head that becomes part of the graph: one linear map over the patch tokens of the four tapped blocks,
/// concatenated (`4 * dim` inputs, block order, NO final layer norm; a standardisation of the inputs is
/// folded into weight and bias).
#[derive(Debug, Clone, PartialEq)]
pub struct GraphHead {
    /// Name of the graph's output and of the entry in `Features::dense`.
    pub name: String,
    /// `outputs * 4 * dim` values, row-major, one row an output.
    pub weight: Vec<f32>,
    /// One value an output.
    pub bias: Vec<f32>,
    /// What follows the linear map.
    pub tail: HeadTail,
}

/// What follows a head's linear map in the graph.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadTail {
    /// Nothing: the logits come out, `channels = outputs`.
    Logits,
    /// A softmax over the outputs as bins; out come the mean and the standard deviation of the bins'
    /// values, `channels = 2`.
    BinMoments {
        /// Value of each bin.
        values: Vec<f32>,
    },
}

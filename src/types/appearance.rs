//! What a frame and the things in it look like to the backbone.

/// Embeddings of one frame: vectors of length 1 whose scalar product (cosine) says how alike two frames or two things
/// look. Only those of one model and input size can be compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Appearance {
    /// The whole frame: the CLS token. Empty when the backend gave none.
    pub frame: Vec<f32>,
    /// The things of the scene, in the scene's order. Empty for a thing whose tokens the backend did not give.
    pub things: Vec<Vec<f32>>,
}

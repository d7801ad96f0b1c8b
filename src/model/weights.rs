//! The weights of a DINOv2, read from a file in any of the namings they travel in, checked, and written back
//! in the official one.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use super::naming;

/// Side of a patch in pixels; every DINOv2 has 14.
pub const PATCH_PX: usize = 14;
/// Width of an attention head; every DINOv2 has 64.
pub const HEAD_DIM: usize = 64;

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file ends before its tensors do.
    #[error("the file is cut off or damaged after {bytes} bytes ({problem}); fetch it again")]
    Truncated {
        /// Length of the file.
        bytes: usize,
        /// What the parser met.
        problem: String,
    },
    /// Neither safetensors nor ONNX.
    #[error("{problem}; give safetensors (official or Hugging Face naming) or an ONNX file")]
    Format {
        /// What it is instead.
        problem: String,
    },
    /// Not a DINOv2.
    #[error("this is no DINOv2: {problem}")]
    Architecture {
        /// What gives it away.
        problem: String,
    },
    /// A tensor is missing.
    #[error("tensor '{tensor}' is missing (expected shape {expected:?})")]
    Missing {
        /// Official name of the tensor.
        tensor: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A tensor has another shape.
    #[error("tensor '{tensor}' has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Official name of the tensor.
        tensor: String,
        /// Shape that the architecture asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error(
        "tensor '{tensor}' holds {value} at index {index} of shape {shape:?}; every weight must be finite"
    )]
    NotFinite {
        /// Official name of the tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Where, in row-major order.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// A tensor holds something else than floats.
    #[error("tensor '{tensor}' holds {found}, expected F32, F16 or BF16")]
    Type {
        /// Name of the tensor in the file.
        tensor: String,
        /// Type in the file.
        found: String,
    },
}

/// A tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Shape.
    pub shape: Vec<usize>,
    /// Product of the shape many values.
    pub values: Vec<f32>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// `y = W x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
}

/// Scale and shift of a layer norm, `[dim]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Scale.
    pub weight: Tensor,
    /// Shift.
    pub bias: Tensor,
}

/// The two-layer network of a block.
#[derive(Debug, Clone, PartialEq)]
pub enum Ffn {
    /// `fc2(gelu(fc1(x)))`: S, B and L.
    Mlp {
        /// `[hidden, dim]`.
        fc1: Linear,
        /// `[dim, hidden]`.
        fc2: Linear,
    },
    /// `w3(silu(a) * b)` with `a, b = w12(x)`: g.
    SwiGlu {
        /// `[2 * hidden, dim]`.
        w12: Linear,
        /// `[dim, hidden]`.
        w3: Linear,
    },
}

/// One transformer block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Before attention.
    pub norm1: Norm,
    /// Queries, keys and values: `[3 * dim, dim]`.
    pub qkv: Linear,
    /// After attention: `[dim, dim]`.
    pub proj: Linear,
    /// Layer scale of the attention branch, `[dim]`.
    pub ls1: Tensor,
    /// Before the two-layer network.
    pub norm2: Norm,
    /// The two-layer network.
    pub ffn: Ffn,
    /// Layer scale of its branch, `[dim]`.
    pub ls2: Tensor,
}

/// The weights of a DINOv2, every shape checked and every value finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Width of a token.
    pub dim: usize,
    /// Side of the position embedding's grid.
    pub pos_side: usize,
    /// CLS token, `[1, 1, dim]`.
    pub cls_token: Tensor,
    /// Position embedding of CLS and patches, `[1, 1 + pos_side^2, dim]`.
    pub pos_embed: Tensor,
    /// Register tokens, `[1, registers, dim]`.
    pub register_tokens: Option<Tensor>,
    /// Patch embedding, weight `[dim, 3, 14, 14]`.
    pub patch_embed: Linear,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The final norm.
    pub norm: Norm,
}

impl Weights {
    /// Attention heads of a block.
    pub fn heads(&self) -> usize {
        self.dim / HEAD_DIM
    }

    /// Register tokens.
    pub fn registers(&self) -> usize {
        self.register_tokens.as_ref().map_or(0, |tokens| tokens.shape[1])
    }

    /// Blocks (counted from 1) whose output is tapped: a quarter, half, three quarters and all of the way, and
    /// for 24 blocks the paper's 5, 12, 18, 24.
    pub fn taps(&self) -> [usize; 4] {
        match self.blocks.len() {
            24 => [5, 12, 18, 24],
            depth => [1, 2, 3, 4].map(|quarter| depth * quarter / 4),
        }
    }

    /// Name for people: "ViT-S/14, 12 blocks, 4 registers".
    pub fn describe(&self) -> String {
        let size = match self.dim {
            384 => "S",
            768 => "B",
            1024 => "L",
            _ => "g",
        };
        let registers = match self.registers() {
            0 => String::new(),
            n => format!(", {n} registers"),
        };
        format!("ViT-{size}/{PATCH_PX}, {} blocks{registers}", self.blocks.len())
    }

    /// Reads a safetensors or ONNX file. Returns the weights and the SHA-256 of the file.
    pub fn read(path: &Path) -> Result<(Self, String), WeightsError> {
        let bytes = std::fs::read(path)?;
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok((Self::parse(bytes)?, sha256))
    }

    /// The same from the bytes of a file.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, WeightsError> {
        let tensors = match bytes.get(8) {
            None => {
                return Err(WeightsError::Truncated { bytes: bytes.len(), problem: "no header".to_owned() });
            }
            Some(b'{') => read_safetensors(&bytes)?,
            Some(_) if bytes.starts_with(b"PK") || bytes.starts_with(b"\x80\x02") => {
                let problem = "this is a pickled PyTorch checkpoint".to_owned();
                return Err(WeightsError::Format { problem });
            }
            // The first field of every ONNX file is the format's version.
            Some(_) if bytes.starts_with(b"\x08") => naming::tensors_from_onnx(bytes)?,
            Some(_) => {
                let problem = "this is neither safetensors nor ONNX".to_owned();
                return Err(WeightsError::Format { problem });
            }
        };
        Self::from_tensors(naming::official(tensors)?)
    }

    /// From tensors in the official naming; checks that all are there, their shapes and that every value is
    /// finite. `mask_token` and what does not belong to the backbone is ignored.
    pub fn from_tensors(tensors: Tensors) -> Result<Self, WeightsError> {
        let mut taker = Taker { tensors };
        let dim = taker.dim()?;
        let pos_side = taker.pos_side()?;
        let registers = taker.tensors.get("register_tokens").and_then(|t| t.shape.get(1).copied());
        let depth = taker.depth()?;
        let weights = Self {
            dim,
            pos_side,
            cls_token: taker.take("cls_token", &[1, 1, dim])?,
            pos_embed: taker.take("pos_embed", &[1, 1 + pos_side * pos_side, dim])?,
            register_tokens: match registers {
                Some(n) => Some(taker.take("register_tokens", &[1, n, dim])?),
                None => None,
            },
            patch_embed: Linear {
                weight: taker.take("patch_embed.proj.weight", &[dim, 3, PATCH_PX, PATCH_PX])?,
                bias: taker.take("patch_embed.proj.bias", &[dim])?,
            },
            blocks: (0..depth).map(|i| taker.block(&format!("blocks.{i}"), dim)).collect::<Result<_, _>>()?,
            norm: taker.norm("norm", dim)?,
        };
        match taker.tensors.keys().find(|name| name.starts_with("blocks.")) {
            Some(name) => Err(WeightsError::Architecture {
                problem: format!("tensor '{name}' has no place in its blocks"),
            }),
            None => Ok(weights),
        }
    }

    /// Every tensor by its official name.
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        let mut all: Vec<(String, &Tensor)> = vec![
            ("cls_token".to_owned(), &self.cls_token),
            ("pos_embed".to_owned(), &self.pos_embed),
            ("patch_embed.proj.weight".to_owned(), &self.patch_embed.weight),
            ("patch_embed.proj.bias".to_owned(), &self.patch_embed.bias),
            ("norm.weight".to_owned(), &self.norm.weight),
            ("norm.bias".to_owned(), &self.norm.bias),
        ];
        all.extend(self.register_tokens.as_ref().map(|tokens| ("register_tokens".to_owned(), tokens)));
        for (i, block) in self.blocks.iter().enumerate() {
            let mut pair = |name: &str, weight, bias| {
                all.push((format!("blocks.{i}.{name}.weight"), weight));
                all.push((format!("blocks.{i}.{name}.bias"), bias));
            };
            pair("norm1", &block.norm1.weight, &block.norm1.bias);
            pair("attn.qkv", &block.qkv.weight, &block.qkv.bias);
            pair("attn.proj", &block.proj.weight, &block.proj.bias);
            pair("norm2", &block.norm2.weight, &block.norm2.bias);
            match &block.ffn {
                Ffn::Mlp { fc1, fc2 } => {
                    pair("mlp.fc1", &fc1.weight, &fc1.bias);
                    pair("mlp.fc2", &fc2.weight, &fc2.bias);
                }
                Ffn::SwiGlu { w12, w3 } => {
                    pair("mlp.w12", &w12.weight, &w12.bias);
                    pair("mlp.w3", &w3.weight, &w3.bias);
                }
            }
            all.push((format!("blocks.{i}.ls1.gamma"), &block.ls1));
            all.push((format!("blocks.{i}.ls2.gamma"), &block.ls2));
        }
        all
    }

    /// Writes safetensors in the official naming, f32, with `metadata` in the header.
    pub fn write(&self, path: &Path, metadata: HashMap<String, String>) -> Result<(), WeightsError> {
        let tensors = self.tensors();
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, t)| le_bytes(&t.values)).collect();
        let mut views = Vec::with_capacity(tensors.len());
        for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes);
            views.push((name.clone(), view.map_err(std::io::Error::other)?));
        }
        safetensors::serialize_to_file(views, Some(metadata), path).map_err(std::io::Error::other)?;
        // The crate makes it private; the daemon may run as another user than the one who installs.
        Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o644))?)
    }
}

/// Hands out checked tensors, each once.
pub(super) struct Taker {
    /// Those that were not taken yet.
    pub tensors: Tensors,
}

impl Taker {
    /// The tensor of that name, of that shape, every value finite.
    pub fn take(&mut self, name: &str, expected: &[usize]) -> Result<Tensor, WeightsError> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(WeightsError::Missing { tensor: name.to_owned(), expected: expected.to_vec() });
        };
        if tensor.shape != expected {
            let (tensor, found) = (name.to_owned(), tensor.shape);
            return Err(WeightsError::Shape { tensor, expected: expected.to_vec(), found });
        }
        if let Some(index) = tensor.values.iter().position(|v| !v.is_finite()) {
            let value = tensor.values[index];
            return Err(WeightsError::NotFinite {
                tensor: name.to_owned(),
                shape: tensor.shape,
                index,
                value,
            });
        }
        Ok(tensor)
    }

    fn dim(&self) -> Result<usize, WeightsError> {
        let shape = self.tensors.get("cls_token").map(|t| t.shape.clone()).unwrap_or_default();
        match shape.as_slice() {
            [1, 1, dim @ (384 | 768 | 1024 | 1536)] => Ok(*dim),
            _ => Err(WeightsError::Architecture {
                problem: format!(
                    "tensor 'cls_token' has shape {shape:?}, expected [1, 1, 384] (S), [1, 1, 768] (B), [1, 1, 1024] (L) or [1, 1, 1536] (g)"
                ),
            }),
        }
    }

    fn pos_side(&self) -> Result<usize, WeightsError> {
        let shape = self.tensors.get("pos_embed").map(|t| t.shape.clone()).unwrap_or_default();
        let tokens = shape.get(1).copied().unwrap_or(0);
        let side = tokens.saturating_sub(1).isqrt();
        if side > 0 && side * side + 1 == tokens {
            return Ok(side);
        }
        let problem = format!("tensor 'pos_embed' has shape {shape:?}, expected [1, 1 + side * side, dim]");
        Err(WeightsError::Architecture { problem })
    }

    fn depth(&self) -> Result<usize, WeightsError> {
        let depth = (0..)
            .take_while(|i| self.tensors.keys().any(|name| name.starts_with(&format!("blocks.{i}."))))
            .count();
        if depth >= 4 {
            return Ok(depth);
        }
        Err(WeightsError::Architecture { problem: format!("it has {depth} blocks, expected at least 4") })
    }

    fn norm(&mut self, name: &str, dim: usize) -> Result<Norm, WeightsError> {
        Ok(Norm {
            weight: self.take(&format!("{name}.weight"), &[dim])?,
            bias: self.take(&format!("{name}.bias"), &[dim])?,
        })
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, WeightsError> {
        Ok(Linear {
            weight: self.take(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: self.take(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn block(&mut self, at: &str, dim: usize) -> Result<Block, WeightsError> {
        Ok(Block {
            norm1: self.norm(&format!("{at}.norm1"), dim)?,
            qkv: self.linear(&format!("{at}.attn.qkv"), 3 * dim, dim)?,
            proj: self.linear(&format!("{at}.attn.proj"), dim, dim)?,
            ls1: self.take(&format!("{at}.ls1.gamma"), &[dim])?,
            norm2: self.norm(&format!("{at}.norm2"), dim)?,
            ffn: self.ffn(&format!("{at}.mlp"), dim)?,
            ls2: self.take(&format!("{at}.ls2.gamma"), &[dim])?,
        })
    }

    fn ffn(&mut self, at: &str, dim: usize) -> Result<Ffn, WeightsError> {
        match self.tensors.get(&format!("{at}.w12.weight")) {
            Some(w12) => {
                let hidden = w12.shape.first().copied().unwrap_or(0) / 2;
                Ok(Ffn::SwiGlu {
                    w12: self.linear(&format!("{at}.w12"), 2 * hidden, dim)?,
                    w3: self.linear(&format!("{at}.w3"), dim, hidden)?,
                })
            }
            None => Ok(Ffn::Mlp {
                fc1: self.linear(&format!("{at}.fc1"), 4 * dim, dim)?,
                fc2: self.linear(&format!("{at}.fc2"), dim, 4 * dim)?,
            }),
        }
    }
}

/// All tensors of a safetensors file, as 32-bit floats.
pub(super) fn read_safetensors(bytes: &[u8]) -> Result<Tensors, WeightsError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => WeightsError::Truncated {
            bytes: bytes.len(),
            problem: "safetensors with fewer bytes than its header says".to_owned(),
        },
        other => WeightsError::Format { problem: format!("the safetensors header is wrong: {other}") },
    })?;
    file.iter()
        .map(|(name, view)| {
            let values = floats(name, view.dtype(), view.data())?;
            Ok((name.to_owned(), Tensor { shape: view.shape().to_vec(), values }))
        })
        .collect()
}

fn floats(name: &str, dtype: Dtype, data: &[u8]) -> Result<Vec<f32>, WeightsError> {
    match dtype {
        Dtype::F32 => Ok(f32_values(data)),
        Dtype::F16 => Ok(f16_values(data)),
        Dtype::BF16 => {
            Ok(data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect())
        }
        other => Err(WeightsError::Type { tensor: name.to_owned(), found: format!("{other:?}") }),
    }
}

/// Little-endian bytes as 32-bit floats.
pub(super) fn f32_values(data: &[u8]) -> Vec<f32> {
    data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Little-endian bytes as 16-bit floats.
pub(super) fn f16_values(data: &[u8]) -> Vec<f32> {
    data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
}

/// 32-bit floats as little-endian bytes.
pub(super) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

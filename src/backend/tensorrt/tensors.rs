//! Inputs and outputs of a plan, and whether they are the ones that we need. A plan that comes from elsewhere
//! (`trtexec`) is accepted or refused by this alone.

use std::fmt;

use crate::model::graph::{CLS, INPUT, TAPS};
use crate::model::weights::PATCH_PX;

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Another one, by its number in `nvinfer1::DataType`.
    Other(i32),
}

impl Element {
    /// From `nvinfer1::DataType`.
    pub(super) fn from_number(number: i32) -> Self {
        match number {
            0 => Self::F32,
            1 => Self::F16,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Other(number) => write!(f, "type {number}"),
        }
    }
}

/// An input or output of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Type of its values.
    pub element: Element,
    /// Input or output.
    pub is_input: bool,
    /// Its sides, outermost first; -1 for one that is chosen at run time.
    pub shape: Vec<i64>,
    /// Of an input: the largest shape that the plan takes.
    pub largest: Option<Vec<i64>>,
}

impl Tensor {
    /// Its sides, `1x3x224x392`.
    pub fn sides(&self) -> String {
        sides_of(&self.shape)
    }
}

fn sides_of(shape: &[i64]) -> String {
    shape.iter().map(i64::to_string).collect::<Vec<_>>().join("x")
}

/// What a plan must have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wanted {
    /// Pictures at once.
    pub batch: usize,
    /// Width of the input in pixels.
    pub input_width: u32,
    /// Height of the input in pixels.
    pub input_height: u32,
    /// Width of a token; none to take it from the plan.
    pub dim: Option<usize>,
    /// Whether the four tapped layers are read.
    pub layers: bool,
    /// Heads with the values that they give a patch.
    pub heads: Vec<(String, usize)>,
}

/// Why a plan is not the one that is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// It lacks one.
    #[error("the plan has no {kind} '{name}'; it has {has}")]
    Missing {
        /// "input" or "output".
        kind: &'static str,
        /// Its name.
        name: String,
        /// What there is.
        has: String,
    },
    /// It has another input, which nobody would fill.
    #[error("the plan has an input '{0}' that nobody fills")]
    Extra(String),
    /// Of another size.
    #[error("'{name}' of the plan is {found}, {wanted} is needed")]
    Shape {
        /// Its name.
        name: String,
        /// Its sides.
        found: String,
        /// The sides that are needed.
        wanted: String,
    },
    /// Of a type that we do not read.
    #[error("'{name}' of the plan holds {found}, {wanted} is needed")]
    Type {
        /// Its name.
        name: String,
        /// Its type.
        found: Element,
        /// Types that are read.
        wanted: &'static str,
    },
}

/// Checks the inputs and outputs of a plan. Outputs that nobody asked for are no fault. Returns the width of a
/// token.
///
/// # Errors
/// The first thing that does not fit.
pub fn check(tensors: &[Tensor], wanted: &Wanted) -> Result<usize, TensorError> {
    let find = |name: &str, is_input: bool| {
        let found = tensors.iter().find(|tensor| tensor.name == name && tensor.is_input == is_input);
        found.ok_or_else(|| {
            let alike = tensors.iter().filter(|tensor| tensor.is_input == is_input);
            let has: Vec<_> = alike.map(|tensor| format!("'{}'", tensor.name)).collect();
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            TensorError::Missing {
                kind: if is_input { "input" } else { "output" },
                name: name.to_owned(),
                has,
            }
        })
    };
    let shaped = |tensor: &Tensor, sides: &[usize]| {
        let wanted: Vec<i64> = sides.iter().map(|side| *side as i64).collect();
        match tensor.shape == wanted {
            true => Ok(()),
            false => Err(TensorError::Shape {
                name: tensor.name.clone(),
                found: tensor.sides(),
                wanted: sides_of(&wanted),
            }),
        }
    };
    let [width, height] = [wanted.input_width, wanted.input_height].map(|side| side as usize);
    let patches = (width / PATCH_PX) * (height / PATCH_PX);
    let input = find(INPUT, true)?;
    if let Some(other) = tensors.iter().find(|tensor| tensor.is_input && tensor.name != INPUT) {
        return Err(TensorError::Extra(other.name.clone()));
    }
    shaped(input, &[wanted.batch, 3, height, width])?;
    let cls = find(CLS, false)?;
    let dim =
        wanted.dim.or_else(|| cls.shape.get(1).and_then(|side| usize::try_from(*side).ok())).unwrap_or(0);
    shaped(cls, &[wanted.batch, dim])?;
    let mut used = vec![input, cls];
    let layers = TAPS.iter().filter(|_| wanted.layers).map(|name| (*name, dim));
    let heads = wanted.heads.iter().map(|(name, channels)| (name.as_str(), *channels));
    for (name, channels) in layers.chain(heads) {
        let tensor = find(name, false)?;
        shaped(tensor, &[wanted.batch, patches, channels])?;
        used.push(tensor);
    }
    // Our kernels write either; what comes out is read as it is.
    let readable =
        |tensor: &Tensor| tensor.element == Element::F32 || tensor.is_input && tensor.element == Element::F16;
    match used.into_iter().find(|tensor| !readable(tensor)) {
        Some(tensor) => Err(TensorError::Type {
            name: tensor.name.clone(),
            found: tensor.element,
            wanted: if tensor.is_input { "f32 or f16" } else { "f32" },
        }),
        None => Ok(dim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, is_input: bool, shape: &[i64]) -> Tensor {
        let largest = is_input.then(|| shape.to_vec());
        Tensor { name: name.to_owned(), element: Element::F32, is_input, shape: shape.to_vec(), largest }
    }

    fn plan() -> Vec<Tensor> {
        let mut plan = vec![tensor(INPUT, true, &[2, 3, 28, 42]), tensor(CLS, false, &[2, 384])];
        plan.extend(TAPS.iter().map(|name| tensor(name, false, &[2, 6, 384])));
        plan.push(tensor("depth", false, &[2, 6, 2]));
        plan
    }

    fn wanted() -> Wanted {
        Wanted {
            batch: 2,
            input_width: 42,
            input_height: 28,
            dim: None,
            layers: true,
            heads: vec![("depth".to_owned(), 2)],
        }
    }

    #[test]
    fn the_right_plan_is_taken() {
        assert_eq!(check(&plan(), &wanted()), Ok(384));
        let mut halves = plan();
        halves[0].element = Element::F16;
        halves.push(tensor("tokens", false, &[2, 7, 384]));
        assert_eq!(check(&halves, &wanted()), Ok(384), "f16, and an output that nobody asked for");
        halves.retain(|tensor| !TAPS.contains(&tensor.name.as_str()));
        assert_eq!(check(&halves, &Wanted { layers: false, ..wanted() }), Ok(384));
    }

    #[test]
    fn each_fault_is_named() {
        type Change = fn(&mut Vec<Tensor>);
        let faults: [(Change, &str); 9] = [
            (|plan| plan[0].name = "images".to_owned(), "the plan has no input 'pixels'; it has 'images'"),
            (
                |plan| plan.push(tensor("mask", true, &[2, 6])),
                "the plan has an input 'mask' that nobody fills",
            ),
            (|plan| plan[0].shape[0] = -1, "'pixels' of the plan is -1x3x28x42, 2x3x28x42 is needed"),
            (|plan| plan[0].shape[3] = 56, "'pixels' of the plan is 2x3x28x56, 2x3x28x42 is needed"),
            (|plan| plan[1].shape[0] = 1, "'cls' of the plan is 1x384, 2x384 is needed"),
            (|plan| plan[3].shape[2] = 768, "'tap1' of the plan is 2x6x768, 2x6x384 is needed"),
            (
                |plan| drop(plan.pop()),
                "the plan has no output 'depth'; it has 'cls', 'tap0', 'tap1', 'tap2', 'tap3'",
            ),
            (
                |plan| plan[0].element = Element::Other(7),
                "'pixels' of the plan holds type 7, f32 or f16 is needed",
            ),
            (|plan| plan[6].element = Element::F16, "'depth' of the plan holds f16, f32 is needed"),
        ];
        for (change, said) in faults {
            let mut wrong = plan();
            change(&mut wrong);
            assert_eq!(check(&wrong, &wanted()).unwrap_err().to_string(), said);
        }
        let other = Wanted { dim: Some(768), ..wanted() };
        assert_eq!(
            check(&plan(), &other).unwrap_err().to_string(),
            "'cls' of the plan is 2x384, 2x768 is needed"
        );
    }
}

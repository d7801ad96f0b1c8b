//! All that was taught, and its file: safetensors, format `standoff-taught-1`. Pure.
//!
//! | Entry | What |
//! | --- | --- |
//! | `standard` | F32, `[2, inputs]`: mean and deviation of the tokens of taps 3 and 4 |
//! | `class.N.weight`, `class.N.bank` | F32 `[inputs + 1]` (bias last), or F32 `[examples, inputs]` |
//! | `state.N.bank`, `.standard`, `.lines` | F32 `[examples, pooled]`, `[2, pooled]`, `[values, pooled + 1]` |
//! | metadata `about` | JSON: the backbone, and of each class and state all that is no tensor |

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::super::HeadError;
use super::choose::{Method, Validation};
use super::class::{Standard, TaughtClass};
use super::knn::{BANK_MAX, Knn};
use super::logistic::Logistic;
use super::state::{StateMethod, StateValidation, TaughtState};
use crate::model::matrix::Matrix;
use crate::types::{CameraId, ClassName, StateName, StateValue};

const FORMAT: &str = "standoff-taught-1";
/// A larger file is none of ours.
pub const MAX_BYTES: u64 = 256 << 20;

/// All that was taught.
#[derive(Debug, Clone, PartialEq)]
pub struct Taught {
    /// The backbone whose tokens it reads.
    pub backbone: Backbone,
    /// Of the tokens of all examples.
    pub standard: Standard,
    /// Classes that become things.
    pub classes: Vec<TaughtClass>,
    /// States.
    pub states: Vec<TaughtState>,
}

/// Which backbone made the tokens, and on which input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backbone {
    /// SHA-256 of the model's weights, hexadecimal.
    pub sha256: String,
    /// Width of the input in pixels.
    pub input_width: u32,
    /// Height of the input in pixels.
    pub input_height: u32,
}

#[derive(Serialize, Deserialize)]
struct About {
    backbone: Backbone,
    classes: Vec<AboutClass>,
    states: Vec<AboutState>,
}

#[derive(Serialize, Deserialize)]
struct AboutClass {
    name: ClassName,
    threshold: f32,
    /// Folds, nearest neighbours, linear.
    validation: Option<(usize, f32, f32)>,
    /// Of the neighbours; none for a line.
    targets: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct AboutState {
    name: StateName,
    values: Vec<StateValue>,
    camera: Option<CameraId>,
    zone: Option<Vec<[f64; 2]>>,
    targets: Vec<u8>,
    far: Vec<f32>,
    validation: Option<(usize, f32, f32)>,
    linear: bool,
}

type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

fn put(tensors: &mut Tensors, name: String, shape: Vec<usize>, values: impl Iterator<Item = f32>) {
    tensors.push((name, shape, values.flat_map(f32::to_le_bytes).collect()));
}

impl Taught {
    /// Bounds what neighbours cost a frame, over all classes together.
    pub fn bounded(mut self) -> Self {
        let banks = self.classes.iter().filter(|class| matches!(class.method, Method::Knn(_))).count();
        for class in &mut self.classes {
            let line = Logistic { weight: vec![], bias: 0.0 };
            class.method = match std::mem::replace(&mut class.method, Method::Linear(line)) {
                Method::Knn(knn) => Method::Knn(knn.thinned(BANK_MAX / banks)),
                linear => linear,
            };
        }
        self
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn write(&self) -> Result<Vec<u8>, HeadError> {
        let inputs = self.standard.mean.len();
        let mut tensors: Tensors = vec![];
        let Standard { mean, sigma } = &self.standard;
        put(&mut tensors, "standard".into(), vec![2, inputs], mean.iter().chain(sigma).copied());
        let mut classes = vec![];
        for (n, class) in self.classes.iter().enumerate() {
            let targets = match &class.method {
                Method::Linear(line) => {
                    let values = line.weight.iter().copied().chain([line.bias]);
                    put(&mut tensors, format!("class.{n}.weight"), vec![inputs + 1], values);
                    None
                }
                Method::Knn(knn) => {
                    let shape = vec![knn.bank.rows, inputs];
                    put(&mut tensors, format!("class.{n}.bank"), shape, knn.bank.data.iter().copied());
                    Some(knn.targets.clone())
                }
            };
            let validation = class.validation.map(|v| (v.folds, v.knn_iou, v.linear_iou));
            classes.push(AboutClass {
                name: class.name.clone(),
                threshold: class.threshold,
                validation,
                targets,
            });
        }
        let mut states = vec![];
        for (n, state) in self.states.iter().enumerate() {
            let (rows, cols) = (state.bank.rows, state.bank.cols);
            put(&mut tensors, format!("state.{n}.bank"), vec![rows, cols], state.bank.data.iter().copied());
            let standard = state.mean.iter().chain(&state.sigma).copied();
            put(&mut tensors, format!("state.{n}.standard"), vec![2, cols], standard);
            if let StateMethod::Linear(lines) = &state.method {
                let values = lines.iter().flat_map(|line| line.weight.iter().copied().chain([line.bias]));
                put(&mut tensors, format!("state.{n}.lines"), vec![lines.len(), cols + 1], values);
            }
            states.push(AboutState {
                name: state.name.clone(),
                values: state.values.clone(),
                camera: state.camera.clone(),
                zone: state.zone.clone(),
                targets: state.targets.clone(),
                far: state.far.clone(),
                validation: state.validation.map(|v| (v.folds, v.knn_right, v.linear_right)),
                linear: matches!(state.method, StateMethod::Linear(_)),
            });
        }
        let about = About { backbone: self.backbone.clone(), classes, states };
        let about = serde_json::to_string(&about).map_err(|e| bad(format!("writing: {e}")))?;
        let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned()), ("about".to_owned(), about)]);
        let views: Vec<(String, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
                Ok((name.clone(), view.map_err(|e| bad(format!("writing: {e}")))?))
            })
            .collect::<Result<_, HeadError>>()?;
        safetensors::tensor::serialize(views, Some(metadata)).map_err(|e| bad(format!("writing: {e}")))
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Not safetensors, another format, a missing tensor, shapes that do not fit each other, values that are not
    /// finite.
    pub fn read(bytes: &[u8]) -> Result<Self, HeadError> {
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| bad(format!("not safetensors: {e}")))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(format!("not safetensors: {e}")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(bad(format!("its format is not '{FORMAT}'")));
        }
        let about = metadata.get("about").ok_or_else(|| bad("metadata 'about' is missing".to_owned()))?;
        let about: About = serde_json::from_str(about).map_err(|e| bad(format!("metadata 'about': {e}")))?;
        let matrix = |name: &str, wanted_cols: Option<usize>| -> Result<Matrix, HeadError> {
            let view = tensors.tensor(name).map_err(|_| bad(format!("tensor '{name}' is missing")))?;
            let (rows, cols) = match *view.shape() {
                [cols] => (1, cols),
                [rows, cols] => (rows, cols),
                _ => return Err(bad(format!("tensor '{name}' has shape {:?}", view.shape()))),
            };
            if view.dtype() != Dtype::F32 || cols == 0 || wanted_cols.is_some_and(|wanted| wanted != cols) {
                return Err(bad(format!("tensor '{name}' is {:?} {:?}", view.dtype(), view.shape())));
            }
            let data: Vec<f32> =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            if !data.iter().all(|v| v.is_finite()) {
                return Err(bad(format!("tensor '{name}' has values that are not finite")));
            }
            Ok(Matrix { rows, cols, data })
        };
        let standard_of = |name: &str, cols: Option<usize>| -> Result<Standard, HeadError> {
            let both = matrix(name, cols)?;
            if both.rows != 2 || both.row(1).iter().any(|sigma| *sigma <= 0.0) {
                return Err(bad(format!("tensor '{name}' is no mean and deviation")));
            }
            Ok(Standard { mean: both.row(0).to_vec(), sigma: both.row(1).to_vec() })
        };
        let line = |values: &[f32]| -> Option<Logistic> {
            let (bias, weight) = values.split_last()?;
            Some(Logistic { weight: weight.to_vec(), bias: *bias })
        };
        let fits = |targets: &[u8], rows: usize, values: usize| {
            targets.len() == rows && targets.iter().all(|t| usize::from(*t) < values)
        };
        let standard = standard_of("standard", None)?;
        let inputs = standard.mean.len();
        let mut classes = vec![];
        for (n, class) in about.classes.into_iter().enumerate() {
            let method = match class.targets {
                None => {
                    let values = matrix(&format!("class.{n}.weight"), Some(inputs + 1))?;
                    Method::Linear(line(values.row(0)).ok_or_else(|| bad("an empty line".to_owned()))?)
                }
                Some(targets) => {
                    let bank = matrix(&format!("class.{n}.bank"), Some(inputs))?;
                    if !fits(&targets, bank.rows, 2) {
                        return Err(bad(format!("the examples of '{}' do not fit their values", class.name)));
                    }
                    Method::Knn(Knn { bank, targets })
                }
            };
            if !class.threshold.is_finite() {
                return Err(bad(format!("'{}' has no threshold", class.name)));
            }
            let validation = class.validation.map(|(folds, knn_iou, linear_iou)| Validation {
                folds,
                knn_iou,
                linear_iou,
            });
            classes.push(TaughtClass { name: class.name, method, threshold: class.threshold, validation });
        }
        let neighbours = classes.iter().map(|class| match &class.method {
            Method::Knn(knn) => knn.bank.rows,
            Method::Linear(_) => 0,
        });
        if neighbours.sum::<usize>() > BANK_MAX {
            return Err(bad(format!(
                "it has more than {BANK_MAX} neighbours, which a frame has no time for"
            )));
        }
        let mut states = vec![];
        for (n, state) in about.states.into_iter().enumerate() {
            let bank = matrix(&format!("state.{n}.bank"), None)?;
            let Standard { mean, sigma } = standard_of(&format!("state.{n}.standard"), Some(bank.cols))?;
            let far = state.far.len() == state.values.len() && state.far.iter().all(|far| far.is_finite());
            if !fits(&state.targets, bank.rows, state.values.len()) || !far {
                return Err(bad(format!("the examples of '{}' do not fit their values", state.name)));
            }
            let method = if state.linear {
                let lines = matrix(&format!("state.{n}.lines"), Some(bank.cols + 1))?;
                let lines: Vec<_> = (0..lines.rows).filter_map(|row| line(lines.row(row))).collect();
                if lines.len() != state.values.len() {
                    return Err(bad(format!("the lines of '{}' do not fit its values", state.name)));
                }
                StateMethod::Linear(lines)
            } else {
                StateMethod::Knn
            };
            let validation = state.validation.map(|(folds, knn_right, linear_right)| StateValidation {
                folds,
                knn_right,
                linear_right,
            });
            states.push(TaughtState {
                name: state.name,
                values: state.values,
                camera: state.camera,
                zone: state.zone,
                bank,
                targets: state.targets,
                mean,
                sigma,
                far: state.far,
                method,
                validation,
            });
        }
        Ok(Self { backbone: about.backbone, standard, classes, states })
    }
}

fn bad(problem: String) -> HeadError {
    HeadError::File { name: "taught".to_owned(), problem }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A class `car` over two inputs.
    pub(crate) fn car_class() -> TaughtClass {
        taught().classes.swap_remove(0)
    }

    /// The states `door` and `bay`, both closed or open, of one camera.
    pub(crate) fn door(camera: &str) -> Taught {
        let mut taught = taught();
        let camera = Some(CameraId::new(camera).unwrap());
        taught.states.iter_mut().for_each(|state| state.camera.clone_from(&camera));
        taught
    }

    fn taught() -> Taught {
        let row = |data: &[f32], cols: usize| Matrix { rows: data.len() / cols, cols, data: data.to_vec() };
        let state = |name: &str, method| TaughtState {
            name: StateName::new(name).unwrap(),
            values: ["closed", "open"].map(|v| StateValue::new(v).unwrap()).to_vec(),
            camera: Some(CameraId::new("yard").unwrap()),
            zone: Some(vec![[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]]),
            bank: row(&[1.0, 0.0, 0.0, 1.0], 2),
            targets: vec![0, 1],
            mean: vec![0.5, 0.5],
            sigma: vec![0.5, 0.5],
            far: vec![0.4, 0.2],
            method,
            validation: Some(StateValidation { folds: 2, knn_right: 0.5, linear_right: 1.0 }),
        };
        let line = |bias: f32| Logistic { weight: vec![1.0, -2.0], bias };
        let class = |name: &str, method| TaughtClass {
            name: ClassName::new(name).unwrap(),
            method,
            threshold: 0.25,
            validation: None,
        };
        Taught {
            backbone: Backbone { sha256: "ab".into(), input_width: 392, input_height: 224 },
            standard: Standard { mean: vec![0.0, 1.0], sigma: vec![1.0, 2.0] },
            classes: vec![
                class("car", Method::Linear(line(0.5))),
                class("cat", Method::Knn(Knn { bank: row(&[0.6, 0.8], 2), targets: vec![1] })),
            ],
            states: vec![
                state("door", StateMethod::Linear(vec![line(0.0), line(1.0)])),
                state("bay", StateMethod::Knn),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let taught = taught();
        assert_eq!(Taught::read(&taught.write().unwrap()).unwrap(), taught);
    }

    #[test]
    fn neighbours_are_bounded_over_all_classes() {
        let mut taught = taught();
        let bank = Matrix { rows: 900, cols: 2, data: vec![1.0; 1800] };
        let class = |name: &str| TaughtClass {
            name: ClassName::new(name).unwrap(),
            method: Method::Knn(Knn { bank: bank.clone(), targets: vec![1; 900] }),
            threshold: 0.0,
            validation: None,
        };
        taught.classes = vec![class("car"), taught.classes[0].clone(), class("cat")];
        let refused = Taught::read(&taught.write().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("more than 1600 neighbours"), "{refused}");
        let bounded = Taught::read(&taught.clone().bounded().write().unwrap()).unwrap();
        let rows = |class: &TaughtClass| match &class.method {
            Method::Knn(knn) => knn.bank.rows,
            Method::Linear(_) => 0,
        };
        assert_eq!(bounded.classes.iter().map(rows).collect::<Vec<_>>(), [800, 0, 800]);
    }

    #[test]
    fn damage_is_refused() {
        let bytes = taught().write().unwrap();
        for length in (0..bytes.len()).step_by(7) {
            assert!(Taught::read(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        let says = |change: &dyn Fn(&mut Taught)| {
            let mut taught = taught();
            change(&mut taught);
            Taught::read(&taught.write().unwrap()).unwrap_err().to_string()
        };
        assert!(says(&|t| t.standard.mean[0] = f32::NAN).contains("not finite"));
        assert!(says(&|t| t.standard.sigma[0] = 0.0).contains("deviation"));
        assert!(says(&|t| t.states[1].targets[0] = 7).contains("do not fit"));
        assert!(says(&|t| t.states[1].far.truncate(1)).contains("do not fit"));
        let head = super::super::super::HeadFile::read("x", &bytes).unwrap_err().to_string();
        assert!(head.contains("format"), "{head}");
    }
}

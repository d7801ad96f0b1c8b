//! TensorRT behind our kernels: a static plan for each size of batch, all on the same input and outputs. A batch
//! runs on the smallest plan that holds it; what lies behind its pictures is computed and not read.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::engine::{Context, Engine, EngineError};
use super::library::Library;
use super::tensors::{self, Element, Tensor, TensorError, Wanted};
use crate::backend::BackendError;
use crate::backend::cuda::pipeline::{Network, Output};
use crate::model::graph::INPUT;

/// Sizes of batch for which plans are built, up to the largest that is asked for.
const SIZES: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// The sizes of batch for which plans are needed so that batches of 1 to `max_batch` waste little.
pub fn batch_sizes(max_batch: usize) -> Vec<usize> {
    let smaller = SIZES.into_iter().filter(|size| *size < max_batch);
    smaller.chain([max_batch]).collect()
}

/// Why plans are no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// TensorRT does not take one.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// One has not what is needed.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// Plans that are not of one model.
    #[error("the plans do not fit together: {0}")]
    Differ(String),
}

/// Plans that are ready to run.
pub struct TensorRt {
    library: Library,
    /// Smallest batch first.
    plans: Vec<(usize, Context)>,
    input: Element,
    outputs: Vec<Output>,
}

impl TensorRt {
    /// Deserialises plans and checks them against what is wanted of each. At least one.
    ///
    /// # Errors
    /// The first plan that is no good.
    pub fn open(library: &Library, plans: &[(Wanted, Vec<u8>)]) -> Result<Self, NetworkError> {
        let mut ready: Vec<(usize, Arc<Engine>, Vec<Tensor>)> = Vec::with_capacity(plans.len());
        for (wanted, plan) in plans {
            let engine = Engine::deserialize(library, plan)?;
            let tensors = engine.tensors();
            tensors::check(&tensors, wanted)?;
            ready.push((wanted.batch, engine, tensors));
        }
        ready.sort_by_key(|(batch, ..)| *batch);
        let shape = |(batch, _, tensors): &(usize, Arc<Engine>, Vec<Tensor>)| {
            let input = tensors.iter().find(|tensor| tensor.name == INPUT).map(|tensor| tensor.element);
            (input, outputs(tensors, *batch))
        };
        let differ = |words: &str| NetworkError::Differ(words.to_owned());
        let Some((Some(input), outputs)) = ready.first().map(shape) else {
            return Err(differ("there is none"));
        };
        if ready.iter().any(|plan| shape(plan) != (Some(input), outputs.clone())) {
            return Err(differ("their inputs or outputs differ in more than the batch"));
        }
        let plans = ready.into_iter().map(|(batch, engine, _)| Ok((batch, engine.context()?)));
        let plans = plans.collect::<Result<_, EngineError>>()?;
        Ok(Self { library: library.clone(), plans, input, outputs })
    }
}

fn outputs(tensors: &[Tensor], batch: usize) -> Vec<Output> {
    let values =
        |tensor: &Tensor| tensor.shape.iter().product::<i64>().unsigned_abs() as usize / batch.max(1);
    let outputs = tensors.iter().filter(|tensor| !tensor.is_input);
    outputs.map(|tensor| Output { name: tensor.name.clone(), values: values(tensor) }).collect()
}

impl Network for TensorRt {
    fn name(&self) -> String {
        let bits = if self.half() { "16 bits" } else { "32 bits" };
        format!("{}, {bits}", self.library.version())
    }

    fn half(&self) -> bool {
        self.input == Element::F16
    }

    fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    fn bind(&mut self, input: u64, outputs: &[u64]) -> Result<(), BackendError> {
        let names = self.outputs.iter().map(|output| output.name.as_str());
        let addresses: Vec<(&str, u64)> =
            std::iter::once((INPUT, input)).chain(names.zip(outputs.iter().copied())).collect();
        for (_, context) in &mut self.plans {
            for (name, address) in &addresses {
                // SAFETY: `Network::bind` says that the memory is there for the largest batch, and for as long as
                // this network is used.
                unsafe { context.set_address(name, *address) }
                    .map_err(|error| BackendError::Open(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, stream: &CudaStream, count: usize) -> Result<(), BackendError> {
        let plan = self.plans.iter_mut().find(|(batch, _)| *batch >= count);
        let (_, context) =
            plan.ok_or_else(|| BackendError::Infer(format!("there is no plan for a batch of {count}")))?;
        // SAFETY: the stream is of the primary context, in which TensorRT deserialised the plan, and the addresses
        // are those of `bind`.
        unsafe { context.enqueue(stream.cu_stream().cast()) }
            .map_err(|error| BackendError::Infer(error.to_string()))
    }

    fn can_be_captured(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_has_a_plan_that_is_less_than_twice_as_large() {
        assert_eq!(batch_sizes(1), [1]);
        assert_eq!(batch_sizes(6), [1, 2, 4, 6]);
        assert_eq!(batch_sizes(16), [1, 2, 4, 8, 16]);
        assert_eq!(batch_sizes(48), [1, 2, 4, 8, 16, 32, 48]);
    }
}

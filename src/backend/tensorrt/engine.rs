//! Runs plans: a deserialised plan ([`Engine`]) and what one thread needs to run it ([`Context`]).

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use super::ffi;
use super::journal::{self, Journal};
use super::library::Library;
use super::refusal::LibraryError;
use super::tensors::{Element, Tensor};

/// Why a plan cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The library lacks something.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// No runtime.
    #[error("{library} gives no runtime: {said}")]
    Runtime {
        /// The library.
        library: String,
        /// Its words.
        said: String,
    },
    /// The plan is damaged, or another version's or GPU's.
    #[error("{library} does not take the plan: {said}; build it anew: standoff engine build")]
    Plan {
        /// The library.
        library: String,
        /// Its words.
        said: String,
    },
    /// Too little memory, most often.
    #[error("the plan cannot be made ready to run: {said} (is there enough GPU memory?)")]
    Context {
        /// TensorRT's words.
        said: String,
    },
    /// A name that the plan does not have, or a null address.
    #[error("'{name}' takes no address: {said}")]
    Address {
        /// The tensor.
        name: String,
        /// TensorRT's words.
        said: String,
    },
    /// The run could not be put on the stream.
    #[error("inference could not be started: {said}")]
    Enqueue {
        /// TensorRT's words.
        said: String,
    },
}

/// TensorRT's runtime; what is made with it keeps it alive.
struct Runtime {
    library: Library,
    pointer: NonNull<c_void>,
    journal: Arc<Journal>,
}

// SAFETY: IRuntime and ICudaEngine may be used from any thread, and from several at once.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: made by runtime_create of the same table, destroyed once, after all engines.
        unsafe { (self.library.table().runtime_destroy)(self.pointer.as_ptr()) }
    }
}

/// A deserialised plan. Its weights lie in GPU memory.
pub struct Engine {
    pointer: NonNull<c_void>,
    runtime: Arc<Runtime>,
}

// SAFETY: see Runtime.
unsafe impl Send for Engine {}
// SAFETY: see Runtime.
unsafe impl Sync for Engine {}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: made by engine_create of the same table, destroyed once, after all contexts.
        unsafe { (self.runtime.library.table().engine_destroy)(self.pointer.as_ptr()) }
    }
}

impl Engine {
    /// Deserialises a plan on the current GPU (the CUDA context that is current on this thread, else the primary
    /// one of the first GPU). `library` must come from [`Library::open`], which has seen a driver.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn deserialize(library: &Library, plan: &[u8]) -> Result<Arc<Self>, EngineError> {
        let table = library.table();
        let create = library.create_runtime()?;
        let journal = Journal::new(None);
        let name = || library.version().to_string();
        // SAFETY: `create` is this library's entry point, the library passed the gates, and the journal lives as
        // long as the runtime.
        let pointer = unsafe { (table.runtime_create)(create, journal::log, journal.user()) };
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| EngineError::Runtime { library: name(), said: journal.last_words() })?;
        let runtime = Arc::new(Runtime { library: library.clone(), pointer, journal });
        // SAFETY: a living runtime and `plan.len()` readable bytes, which TensorRT copies.
        let engine = unsafe { (table.engine_create)(pointer.as_ptr(), plan.as_ptr().cast(), plan.len()) };
        let engine = NonNull::new(engine)
            .ok_or_else(|| EngineError::Plan { library: name(), said: runtime.journal.last_words() })?;
        Ok(Arc::new(Self { pointer: engine, runtime }))
    }

    /// The library that runs it.
    pub fn library(&self) -> &Library {
        &self.runtime.library
    }

    /// Inputs and outputs, in the plan's order.
    pub fn tensors(&self) -> Vec<Tensor> {
        let table = self.runtime.library.table();
        // SAFETY: a living engine.
        let count = unsafe { (table.engine_tensor_count)(self.pointer.as_ptr()) };
        (0..count).filter_map(|index| self.tensor(index)).collect()
    }

    fn tensor(&self, index: i32) -> Option<Tensor> {
        let table = self.runtime.library.table();
        let mut raw = empty();
        // SAFETY: a living engine, and a struct of the layout that shim.cpp fills.
        let found = unsafe { (table.engine_tensor)(self.pointer.as_ptr(), index, &mut raw) };
        if found == 0 || raw.name.is_null() {
            return None;
        }
        // SAFETY: the name is a C string that belongs to the engine.
        let name = unsafe { CStr::from_ptr(raw.name) };
        let mut profile = empty();
        let largest = 2;
        // SAFETY: as above, with the engine's own name.
        let has_profile = raw.is_input != 0
            && unsafe {
                (table.engine_profile_shape)(self.pointer.as_ptr(), raw.name, largest, &mut profile) != 0
            };
        Some(Tensor {
            name: name.to_string_lossy().into_owned(),
            element: Element::from_number(raw.element),
            is_input: raw.is_input != 0,
            shape: sides(&raw),
            largest: has_profile.then(|| sides(&profile)),
        })
    }

    /// What runs the plan: activations in GPU memory. One runs one batch at a time.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn context(self: &Arc<Self>) -> Result<Context, EngineError> {
        // SAFETY: a living engine.
        let pointer = unsafe { (self.runtime.library.table().context_create)(self.pointer.as_ptr()) };
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| EngineError::Context { said: self.runtime.journal.last_words() })?;
        Ok(Context { pointer, engine: self.clone() })
    }
}

/// Runs a plan, one batch at a time. Addresses stay set from run to run, so a run can be captured into a CUDA
/// graph once it has run plainly.
pub struct Context {
    pointer: NonNull<c_void>,
    engine: Arc<Engine>,
}

// SAFETY: IExecutionContext may be used from any one thread at a time, and methods that change it take `&mut`.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by context_create of the same table, destroyed once.
        unsafe { (self.engine.runtime.library.table().context_destroy)(self.pointer.as_ptr()) }
    }
}

impl Context {
    /// The plan that it runs.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Says where an input or output lies in device memory.
    ///
    /// # Errors
    /// A name that the plan does not have.
    ///
    /// # Safety
    /// The memory is as large as the tensor and stays until the runs that use it are done.
    pub unsafe fn set_address(&mut self, name: &str, device: u64) -> Result<(), EngineError> {
        let refused = |said| EngineError::Address { name: name.to_owned(), said };
        let name_c = CString::new(name).map_err(|_| refused("the name holds a zero".to_owned()))?;
        let table = self.engine.runtime.library.table();
        let address = std::ptr::with_exposed_provenance_mut(device as usize);
        // SAFETY: a living context and a C string; TensorRT only notes the address.
        match unsafe { (table.context_set_address)(self.pointer.as_ptr(), name_c.as_ptr(), address) } {
            0 => Err(refused(self.engine.runtime.journal.last_words())),
            _ => Ok(()),
        }
    }

    /// Chooses the shape of an input of a dynamic plan. A static plan needs none of this.
    ///
    /// # Errors
    /// A shape outside the plan's profile.
    pub fn set_shape(&mut self, name: &str, shape: &[i64]) -> Result<(), EngineError> {
        let refused = |said| EngineError::Address { name: name.to_owned(), said };
        let name_c = CString::new(name).map_err(|_| refused("the name holds a zero".to_owned()))?;
        if shape.len() > 8 {
            return Err(refused(format!("{} sides are too many", shape.len())));
        }
        let (table, rank) = (self.engine.runtime.library.table(), shape.len() as i32);
        // SAFETY: a living context, a C string and `rank` numbers.
        match unsafe {
            (table.context_set_shape)(self.pointer.as_ptr(), name_c.as_ptr(), shape.as_ptr(), rank)
        } {
            0 => Err(refused(self.engine.runtime.journal.last_words())),
            _ => Ok(()),
        }
    }

    /// Puts one run on a stream (`CUstream`); returns before it is done.
    ///
    /// # Errors
    /// In TensorRT's words; a missing address, for example.
    ///
    /// # Safety
    /// The stream belongs to the CUDA context in which the plan was deserialised, and what was promised to
    /// [`Context::set_address`] holds.
    pub unsafe fn enqueue(&mut self, stream: *mut c_void) -> Result<(), EngineError> {
        let table = self.engine.runtime.library.table();
        // SAFETY: a living context; the rest is the caller's promise.
        match unsafe { (table.context_enqueue)(self.pointer.as_ptr(), stream) } {
            0 => Err(EngineError::Enqueue { said: self.engine.runtime.journal.last_words() }),
            _ => Ok(()),
        }
    }
}

fn empty() -> ffi::Tensor {
    ffi::Tensor { name: std::ptr::null(), element: 0, is_input: 0, rank: 0, sides: [0; 8] }
}

fn sides(tensor: &ffi::Tensor) -> Vec<i64> {
    let rank = usize::try_from(tensor.rank).unwrap_or(0).min(tensor.sides.len());
    tensor.sides[..rank].to_vec()
}

//! Finds TensorRT's libraries and lets nobody call one that would crash.
//!
//! The order matters: without a driver, `createInferRuntime` of the lean libraries 10.16 and 11.4 returns a wild
//! pointer, and with a library of another major version than our headers every call goes to the wrong function.
//! So: a driver that answers, then the library, then its version, then the first object.

use std::env;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::driver::DriverState;
use super::ffi::{self, Create, CreateParser, Table};
use super::{Kind, LibraryError, Version};
use crate::model::store::Store;

/// Names a library file, or a folder with libraries, to use instead of what the system has.
pub const VARIABLE: &str = "STANDOFF_TENSORRT";

/// A loaded library that has passed its gates. A clone is a reference; the library is never unloaded, because
/// its threads do not end with its objects.
#[derive(Clone)]
pub struct Library(Arc<Inner>);

struct Inner {
    path: PathBuf,
    version: Version,
    table: &'static Table,
    create_runtime: Option<Create>,
    create_builder: Option<Create>,
}

/// Names of the library and of its ONNX parser, for each kind.
fn names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::TensorRt10 => ("libnvinfer.so.10", "libnvonnxparser.so.10"),
        Kind::TensorRt11 => ("libnvinfer.so.11", "libnvonnxparser.so.11"),
        Kind::Rtx => ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
    }
}

/// Where libraries may be, in the order in which they are tried. `setting`, else `$STANDOFF_TENSORRT`, is a file
/// or a folder and then the only place; else each kind in the store and by the system's loader.
pub fn candidates(setting: Option<&Path>, store: &Store) -> Vec<PathBuf> {
    let variable = env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let one = setting.map(Path::to_owned).or(variable);
    let of = |kind| names(kind).0;
    match one {
        Some(folder) if folder.is_dir() => Kind::ALL.iter().map(|kind| folder.join(of(*kind))).collect(),
        Some(file) => vec![file],
        None => Kind::ALL
            .iter()
            .flat_map(|kind| {
                let stored = (*kind == Kind::Rtx).then(|| store.tensorrt_rtx_folder().join(of(*kind)));
                stored.into_iter().chain([PathBuf::from(of(*kind))])
            })
            .collect(),
    }
}

impl Library {
    /// The first candidate that can run plans on this machine's GPU.
    ///
    /// # Errors
    /// [`LibraryError::NoDriver`] before any library is touched; else why the most promising candidate is none.
    pub fn open(driver: &DriverState, candidates: &[PathBuf]) -> Result<Self, LibraryError> {
        if built_for().is_empty() {
            return Err(LibraryError::BuiltWithoutAny);
        }
        let device = match driver {
            DriverState::Ready(device) => device,
            DriverState::Absent(problem) => return Err(LibraryError::NoDriver(problem.clone())),
        };
        Self::first(candidates, |library| {
            let kind = library.version().kind;
            if kind == Kind::Rtx && !kind.targets().contains(&device.capability) {
                return Err(LibraryError::Gpu { library: library.version(), device: device.clone() });
            }
            Ok(())
        })
    }

    /// The first candidate that can build a plan for a GPU that is not here: TensorRT-RTX, which needs no driver
    /// for that. `target` is a compute capability, 86 for sm_86. The library must not be asked to run anything.
    ///
    /// # Errors
    /// Why the most promising candidate cannot.
    pub fn open_for_target(target: u32, candidates: &[PathBuf]) -> Result<Self, LibraryError> {
        Self::first(candidates, |library| match library.version().kind.targets().contains(&target) {
            true => Ok(()),
            false => Err(LibraryError::Target { library: library.version(), target }),
        })
    }

    fn first(
        candidates: &[PathBuf],
        fits: impl Fn(&Self) -> Result<(), LibraryError>,
    ) -> Result<Self, LibraryError> {
        if built_for().is_empty() {
            return Err(LibraryError::BuiltWithoutAny);
        }
        let (mut looked, mut first_problem) = (Vec::new(), None);
        for path in candidates {
            let words = path.display().to_string();
            if path.is_absolute() && !path.exists() {
                looked.push(words);
                continue;
            }
            match Self::load(path).and_then(|library| fits(&library).map(|()| library)) {
                Ok(library) => return Ok(library),
                // A bare name is the loader's to find: that it did not is no fault of a library.
                Err(LibraryError::Load { .. }) if !words.contains('/') => looked.push(words),
                Err(problem) => first_problem = first_problem.or(Some(problem)),
            }
        }
        Err(first_problem.unwrap_or(LibraryError::NotFound { looked }))
    }

    /// Loads one library and checks its version; no object of it is made.
    fn load(path: &Path) -> Result<Self, LibraryError> {
        let (handle, library) = check(path, &built_for())?;
        let table = ffi::table(library.kind).ok_or(LibraryError::BuiltWithoutAny)?;
        // SAFETY: names and signatures are those of NvInferRuntime.h and NvInfer.h.
        let (create_runtime, create_builder) = unsafe {
            (symbol(handle, c"createInferRuntime_INTERNAL"), symbol(handle, c"createInferBuilder_INTERNAL"))
        };
        let path = path.to_owned();
        Ok(Self(Arc::new(Inner { path, version: library, table, create_runtime, create_builder })))
    }

    /// What it is.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The file or the name by which it was found.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn table(&self) -> &'static Table {
        self.0.table
    }

    pub(super) fn create_runtime(&self) -> Result<Create, LibraryError> {
        self.0.create_runtime.ok_or_else(|| self.lacks("createInferRuntime_INTERNAL"))
    }

    /// Entry points of the builder and of the parser, which is a library of its own beside this one.
    pub(super) fn builder(&self) -> Result<(Create, CreateParser), LibraryError> {
        let builder = self.0.create_builder.ok_or_else(|| self.lacks("createInferBuilder_INTERNAL"))?;
        let version = self.0.version;
        let name = names(version.kind).1;
        let (stem, _) = name.rsplit_once('.').unwrap_or((name, ""));
        let full = format!("{stem}.{}.{}.{}", version.major, version.minor, version.patch);
        // Beside the library when that was a path, and by the loader when it was a name.
        let path = self.0.path.with_file_name(name);
        let no_parser = |problem| LibraryError::NoParser { library: version, problem };
        let handle = open(&path).or_else(|_| open(&self.0.path.with_file_name(full)));
        let handle = handle.map_err(|error| no_parser(error.to_string()))?;
        // SAFETY: the signature is that of NvOnnxParser.h.
        let parser = unsafe { symbol(handle, c"createNvOnnxParser_INTERNAL") };
        let parser = parser.ok_or_else(|| no_parser(format!("{} is no ONNX parser", path.display())))?;
        Ok((builder, parser))
    }

    fn lacks(&self, name: &str) -> LibraryError {
        LibraryError::Symbol { path: self.0.path.display().to_string(), name: name.to_owned() }
    }
}

/// Versions of the headers that the program was built with.
pub fn built_for() -> Vec<Version> {
    Kind::ALL.iter().filter_map(|kind| kind.built_for()).collect()
}

/// Loads a library, asks for its version and compares it with those of the headers; makes no object of it.
///
/// # Errors
/// Also when none of the headers is of its kind.
pub fn check_version(path: &Path, built_for: &[Version]) -> Result<Version, LibraryError> {
    check(path, built_for).map(|(_, version)| version)
}

fn check(path: &Path, built_for: &[Version]) -> Result<(&'static Handle, Version), LibraryError> {
    let handle = open(path)?;
    let words = path.display().to_string();
    // SAFETY: the signature is that of NvInferRuntimeBase.h.
    let number: Option<unsafe extern "C" fn() -> i32> = unsafe { symbol(handle, c"getInferLibVersion") };
    let Some(number) = number else {
        return Err(LibraryError::Symbol { path: words, name: "getInferLibVersion".to_owned() });
    };
    // SAFETY: it takes nothing and returns a constant.
    let number = unsafe { number() };
    let Some(kind) = Kind::of_number(number) else {
        return Err(LibraryError::UnknownVersion { path: words, number });
    };
    let library = Version::from_number(kind, number);
    match built_for.iter().any(|headers| library.fits(headers)) {
        true => Ok((handle, library)),
        false => Err(LibraryError::VersionMismatch { path: words, library, built_for: built_for.to_vec() }),
    }
}

fn open(path: &Path) -> Result<&'static Handle, LibraryError> {
    // SAFETY: a library of NVIDIA's, or what the operator named as one; loading runs its constructors.
    let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let handle = handle.map_err(|error| LibraryError::Load {
        path: path.display().to_string(),
        problem: error.to_string(),
    })?;
    Ok(Box::leak(Box::new(handle)))
}

/// # Safety
/// `T` is the type of a pointer to the function of that name.
unsafe fn symbol<T: Copy>(handle: &'static Handle, name: &CStr) -> Option<T> {
    // SAFETY: the caller's promise.
    unsafe { handle.get::<T>(name) }.ok().map(|symbol| *symbol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::NoGpu;

    #[test]
    fn the_setting_is_the_only_place() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let file = folder.path().join("libnvinfer_lean.so.10");
        assert_eq!(candidates(Some(&file), &store), [file]);
        let inside = candidates(Some(folder.path()), &store);
        assert_eq!(inside.len(), 3);
        assert!(inside.iter().all(|path| path.starts_with(folder.path())));
    }

    #[test]
    fn the_store_has_rtx_and_the_loader_the_rest() {
        let candidates = candidates(None, &Store::at("/store"));
        let words: Vec<_> = candidates.iter().map(|path| path.to_str().unwrap()).collect();
        let stored = "/store/lib/tensorrt-rtx/libtensorrt_rtx.so.1";
        assert_eq!(words, ["libnvinfer.so.11", "libnvinfer.so.10", stored, "libtensorrt_rtx.so.1"]);
    }

    #[test]
    fn without_a_driver_no_library_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libnvinfer.so.11");
        std::fs::write(&file, b"loading this would be another error").unwrap();
        let driver = DriverState::Absent(NoGpu::NoDriver);
        let error = Library::open(&driver, &[file]).err().unwrap();
        assert!(matches!(error, LibraryError::NoDriver(NoGpu::NoDriver)), "{error}");
    }

    #[test]
    fn what_is_not_there_and_what_is_broken_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("libnvinfer.so.11");
        let names = [missing.clone(), PathBuf::from("libnvinfer.so.99")];
        let error = Library::open_for_target(86, &names).err().unwrap();
        let LibraryError::NotFound { looked } = &error else { panic!("{error}") };
        assert_eq!(looked, &[missing.display().to_string(), "libnvinfer.so.99".to_owned()]);

        std::fs::write(&missing, b"no library").unwrap();
        let error = Library::open_for_target(86, &names).err().unwrap();
        assert!(matches!(error, LibraryError::Load { .. }), "{error}");
        // Any library that is not TensorRT's.
        let error = Library::open_for_target(86, &[PathBuf::from("libc.so.6")]).err().unwrap();
        assert_eq!(
            error.to_string(),
            "libc.so.6 has no getInferLibVersion: not a TensorRT library, or a broken one"
        );
    }
}

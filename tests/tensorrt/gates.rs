//! NVIDIA's lean runtimes on a machine without a driver: asked for an object they would crash the program, so
//! nobody asks them.

use std::path::PathBuf;

use standoff::backend::cuda::NoGpu;
use standoff::backend::tensorrt::library::{Library, built_for, check_version};
use standoff::backend::tensorrt::{Device, DriverState, Kind, LibraryError, Version};
use standoff::model::store::Store;

use super::support::{OwnStore, said};

const fn version(kind: Kind, major: i32, minor: i32, patch: i32) -> Version {
    Version { kind, major, minor, patch }
}

const LEAN_10: Version = version(Kind::TensorRt10, 10, 16, 1);
const LEAN_11: Version = version(Kind::TensorRt11, 11, 4, 0);

/// Both libraries with their versions, or a skip that CI counts.
fn lean() -> Vec<(PathBuf, Version)> {
    if built_for().is_empty() {
        println!("SKIP: built without TensorRT's headers (docs/engines.md)");
        return vec![];
    }
    let folder = Store::locate().unwrap().root().join("lib/tensorrt-lean");
    let both = [("libnvinfer_lean.so.10", LEAN_10), ("libnvinfer_lean.so.11", LEAN_11)];
    let here = both.map(|(name, version)| (folder.join(name), version));
    if here.iter().any(|(path, _)| !path.is_file()) {
        println!("SKIP: no lean TensorRT in {} (tests/tensorrt/fetch-lean.sh)", folder.display());
        return vec![];
    }
    here.to_vec()
}

#[test]
fn without_a_driver_a_lean_runtime_is_not_touched() {
    let absent = DriverState::Absent(NoGpu::NoDriver);
    for (path, _) in lean() {
        let error = Library::open(&absent, &[path]).err().unwrap();
        assert!(matches!(error, LibraryError::NoDriver(_)), "{error}");
    }
}

#[test]
fn the_program_says_that_there_is_no_driver() {
    let (DriverState::Absent(problem), Some(store)) = (DriverState::probe(), OwnStore::new()) else { return };
    for (path, _) in lean() {
        let output = store.run(&["engine", "build", "--library", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "an exit code, not a signal");
        assert_eq!(said(&output), format!("standoff: {problem}\n"));
    }
}

#[test]
fn headers_of_another_version_are_a_mismatch_before_any_object_is_made() {
    let newer = version(Kind::TensorRt11, 11, 5, 0);
    let rtx = version(Kind::Rtx, 1, 7, 1);
    for (path, library) in lean() {
        // Of another major version, of another kind, and newer than the library.
        let other = if library == LEAN_10 { LEAN_11 } else { LEAN_10 };
        for wrong in [vec![other], vec![rtx], vec![newer], vec![other, rtx], vec![]] {
            let error = check_version(&path, &wrong).unwrap_err();
            let LibraryError::VersionMismatch { library: found, built_for, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((*found, built_for), (library, &wrong));
        }
        assert_eq!(check_version(&path, &[other, library]).unwrap(), library);
        let said = check_version(&path, &[rtx]).unwrap_err().to_string();
        println!("{said}");
        assert!(
            said.contains(&format!("is {library}; standoff was built for TensorRT-RTX 1.7.1, and takes"))
        );
    }
}

#[test]
fn with_a_driver_that_answers_a_wrong_version_still_stops_at_the_gate() {
    // No GPU is needed to get this far, and nothing further is asked of the library.
    let driver = DriverState::Ready(Device { name: "made up".to_owned(), capability: 86 });
    for (path, library) in lean() {
        let built = library.kind.built_for();
        match (Library::open(&driver, &[path]), built) {
            (Err(LibraryError::VersionMismatch { library: found, .. }), None) => assert_eq!(found, library),
            (Ok(opened), Some(_)) => assert_eq!(opened.version(), library),
            (other, built) => panic!("{:?} with headers {built:?}", other.err()),
        }
    }
}

#[test]
fn a_lean_runtime_builds_nothing() {
    for (path, library) in lean() {
        let error = Library::open_for_target(86, &[path]).err().unwrap();
        match error {
            LibraryError::Target { library: found, target: 86 } => assert_eq!(found, library),
            LibraryError::VersionMismatch { library: found, .. } => assert_eq!(found, library),
            other => panic!("{other}"),
        }
    }
}

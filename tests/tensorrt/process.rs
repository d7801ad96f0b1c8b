//! The builder's process dies, hangs or loses its parent: an error with a reason, and nothing left over.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use standoff::backend::tensorrt::child::{self, ChildError, Order};
use standoff::clock;

use super::support::{OwnStore, PATIENCE, PROGRAM, rtx, said};

/// Runs a build that takes seconds, and the process that it starts.
fn building(store: &OwnStore) -> (Child, u32) {
    let mut command = store.command(&["engine", "build", "--target", "sm_86", "--batch", "8"]);
    let parent = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let child = wait_for("the builder's process", || child_of(parent.id()));
    // It is at work when it has loaded the library.
    wait_for("the library", || {
        let maps = fs::read_to_string(format!("/proc/{child}/maps")).unwrap_or_default();
        maps.contains("libtensorrt_onnxparser_rtx").then_some(())
    });
    (parent, child)
}

fn child_of(parent: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.into_iter().find(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    })
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = clock::monotonic();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::monotonic().since(start) < PATIENCE, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn kill(id: u32) {
    kill_process(Pid::from_raw(id.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_builder_that_is_killed_is_an_error_and_leaves_nothing() {
    let (Some(_), Some(store)) = (rtx(), OwnStore::new()) else { return };
    let (parent, child) = building(&store);
    kill(child);
    let output = parent.wait_with_output().unwrap();
    let words = said(&output);
    println!("{words}");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words.contains("batch 8 mixed for any sm_86: the builder's process was killed (signal 9)"),
        "{words}"
    );
    assert!(store.engines().is_empty(), "{:?}", store.engines());
}

#[test]
fn the_builder_dies_with_its_parent() {
    let (Some(_), Some(store)) = (rtx(), OwnStore::new()) else { return };
    let (mut parent, child) = building(&store);
    kill(parent.id());
    parent.wait().unwrap();
    wait_for("the end of the builder's process", || {
        // Dead, or a zombie that nobody has waited for.
        let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
    assert!(store.engines().is_empty(), "it went on and wrote a plan: {:?}", store.engines());
}

fn order(folder: &Path) -> Order {
    Order {
        library: "libtensorrt_rtx.so.1".into(),
        target: Some(86),
        onnx: folder.join("none.onnx"),
        input_shape: None,
        workspace_bytes: 0,
        timings: None,
        plan: folder.join("plan"),
    }
}

/// A program that takes the place of the builder's process.
fn stand_in(folder: &Path, script: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let file = folder.join("program");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

#[test]
fn a_crash_is_told_with_the_last_words() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan"), b"half").unwrap();
    let program = stand_in(folder.path(), "cat >&2; echo 'out of tactics' >&2; kill -SEGV $$");
    let mut ticks = 0;
    let error = child::build(&program, &order(folder.path()), PATIENCE, &mut |_, _| ticks += 1).unwrap_err();
    let words = error.to_string();
    assert!(words.starts_with("the builder's process crashed (signal 11); it said last: "), "{words}");
    assert!(words.ends_with("out of tactics"), "{words}");
    assert!(ticks > 0 && !folder.path().join("plan").exists());
}

#[test]
fn a_lie_about_success_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    for script in ["exit 0", "exit 3", "echo '{\"built\":'", "yes x | head -c 1000000"] {
        let program = stand_in(folder.path(), script);
        let error = child::build(&program, &order(folder.path()), PATIENCE, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, ChildError::Died { .. }), "{script}: {error}");
    }
    let none = folder.path().join("no-such-program");
    let error = child::build(&none, &order(folder.path()), PATIENCE, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, ChildError::Start(_)), "{error}");
}

#[test]
fn a_build_that_hangs_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let program = stand_in(folder.path(), "echo $$ > \"$0.pid\"; exec sleep 1000");
    let limit = Duration::from_secs(1);
    let error = child::build(&program, &order(folder.path()), limit, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "the build was stopped after 1 s; --limit-s allows more");
    let id = fs::read_to_string(folder.path().join("program.pid")).unwrap();
    assert!(!Path::new("/proc").join(id.trim()).exists(), "it was killed and waited for");
}

#[test]
fn without_the_graph_or_the_library_the_child_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = Order { library: folder.path().join("libnvinfer.so.11"), ..order(folder.path()) };
    let error = child::build(Path::new(PROGRAM), &nowhere, PATIENCE, &mut |_, _| {}).unwrap_err();
    let ChildError::Refused(said) = &error else { panic!("{error}") };
    assert!(said.contains("libnvinfer.so.11") || said.contains("without TensorRT's headers"), "{said}");
    if let Some(library) = rtx() {
        let order = Order { library, ..order(folder.path()) };
        let error = child::build(Path::new(PROGRAM), &order, PATIENCE, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("none.onnx: No such file"), "{error}");
    }
}

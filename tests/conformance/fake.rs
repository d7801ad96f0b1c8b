//! Test doubles of NVIDIA's libraries, compiled when they are first needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The C++ compiler.
pub fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

/// The folder of a libcuda.so.1 that is a test double.
pub fn driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = folder("fake-cuda");
        let library = folder.join("libcuda.so.1");
        compile(&["fake_cuda.cpp", "host.cpp"], &["-ffp-contract=off", "-Wl,-soname,libcuda.so.1"], &library);
        // A real driver may be there under this name.
        std::os::unix::fs::symlink(&library, folder.join("libcuda.so")).unwrap();
        folder
    })
}

/// The folder of a libnvcuvid.so.1 that is a test double, for use with the one above.
pub fn decoder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = folder("fake-nvcuvid");
        let driver = format!("-L{}", driver().display());
        let arguments = ["-Wl,-soname,libnvcuvid.so.1", &driver, "-l:libcuda.so.1"];
        compile(&["fake_nvcuvid.cpp"], &arguments, &folder.join("libnvcuvid.so.1"));
        folder
    })
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn compile(sources: &[&str], arguments: &[&str], library: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let output = Command::new(compiler())
        .args(["-std=c++17", "-O2", "-fPIC", "-shared"])
        .args(sources.iter().map(|source| root.join(source)))
        .args(arguments)
        .arg("-o")
        .arg(library)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

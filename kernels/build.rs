//! Builds what is not Rust.

fn main() {
    println!("cargo:rerun-if-changed=kernels/build.rs");
}

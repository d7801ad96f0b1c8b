//! Builds what is not Rust.

#[cfg(feature = "tensorrt")]
mod tensorrt;

fn main() {
    println!("cargo::rerun-if-changed=kernels/build.rs");
    println!("cargo::rustc-check-cfg=cfg(tensorrt_t10, tensorrt_t11, tensorrt_rtx)");
    #[cfg(feature = "tensorrt")]
    tensorrt::build();
}

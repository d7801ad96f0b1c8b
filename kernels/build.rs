//! Compiles what is not Rust: the CPU build of the kernels, the border to TensorRT.

#[cfg(feature = "tensorrt")]
mod tensorrt;

fn main() {
    println!("cargo::rerun-if-changed=kernels/build.rs");
    println!("cargo::rustc-check-cfg=cfg(tensorrt_t10, tensorrt_t11, tensorrt_rtx)");
    #[cfg(feature = "cuda")]
    kernels();
    #[cfg(feature = "tensorrt")]
    tensorrt::build();
}

/// The kernels for the CPU. Contraction is off, so that they round as on the device.
#[cfg(feature = "cuda")]
fn kernels() {
    for file in ["kernels/host.cpp", "kernels/standoff.cu"] {
        println!("cargo::rerun-if-changed={file}");
    }
    cc::Build::new()
        .cpp(true)
        .cpp_link_stdlib(None)
        .std("c++17")
        .opt_level(2)
        .flags(["-ffp-contract=off", "-fno-exceptions", "-fno-rtti"])
        .file("kernels/host.cpp")
        .compile("standoff_kernels");
}

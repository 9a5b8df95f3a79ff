//! Gives the test binaries an rpath to libtorch.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_GRISTMILL_MODEL_LIB_DIR").expect("gristmill-model names the folder");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}

//! Gives the binary an rpath that works after `make install` and where it was built.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_GRISTMILL_MODEL_LIB_DIR").expect("gristmill-model names the folder");
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/gristmill/torch/lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}

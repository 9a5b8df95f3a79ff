//! Compiles the C++ shim against the libtorch that torch-sys links, and tells this crate's tests, and the crates that
//! link it, where that libtorch lies.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/shim.cpp");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch is");
    let lib = std::fs::canonicalize(&lib).unwrap_or_else(|_| PathBuf::from(&lib));
    let include = lib.parent().expect("libtorch's lib folder lies in its root").join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag("-isystem")
        .flag(include.to_str().expect("libtorch lies under a path in UTF-8"))
        .flag("-fvisibility=hidden")
        .debug(false)
        .opt_level(2)
        .warnings(true)
        .file("src/shim.cpp")
        .compile("gristmill_shim");
    println!("cargo::metadata=lib_dir={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

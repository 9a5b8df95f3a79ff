//! Languages by file name: a compact table with the names that GitHub's Linguist uses. A file that it does not know has no
//! language, which is better than a wrong one.

/// The language of a path, by its file name, or else by what follows the last dot in it.
pub(super) fn of(path: &str) -> Option<&'static str> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let by_name = FILE_NAMES.iter().find(|(known, _)| *known == name);
    let known = by_name.or_else(|| {
        // Case matters first: `.C` is C++ and `.R` is R.
        let (_, extension) = name.rsplit_once('.')?;
        let lower = extension.to_ascii_lowercase();
        let find = |wanted: &str| EXTENSIONS.iter().find(|(known, _)| *known == wanted);
        find(extension).or_else(|| find(&lower))
    });
    known.map(|(_, language)| *language)
}

const FILE_NAMES: &[(&str, &str)] = &[
    ("BUILD", "Starlark"),
    ("BUILD.bazel", "Starlark"),
    ("CMakeLists.txt", "CMake"),
    ("Cargo.lock", "TOML"),
    ("Containerfile", "Dockerfile"),
    ("Dockerfile", "Dockerfile"),
    ("GNUmakefile", "Makefile"),
    ("Gemfile", "Ruby"),
    ("Jenkinsfile", "Groovy"),
    ("Justfile", "Just"),
    ("Makefile", "Makefile"),
    ("Pipfile", "TOML"),
    ("Rakefile", "Ruby"),
    ("SConstruct", "Python"),
    ("Vagrantfile", "Ruby"),
    ("WORKSPACE", "Starlark"),
    ("go.mod", "Go Module"),
    ("go.sum", "Go Checksums"),
    ("justfile", "Just"),
    ("makefile", "Makefile"),
    ("meson.build", "Meson"),
    ("poetry.lock", "TOML"),
];

const EXTENSIONS: &[(&str, &str)] = &[
    ("C", "C++"),
    ("S", "Assembly"),
    ("adb", "Ada"),
    ("ads", "Ada"),
    ("asm", "Assembly"),
    ("awk", "Awk"),
    ("bash", "Shell"),
    ("bat", "Batchfile"),
    ("bzl", "Starlark"),
    ("c", "C"),
    ("cc", "C++"),
    ("cjs", "JavaScript"),
    ("clj", "Clojure"),
    ("cljs", "Clojure"),
    ("cmake", "CMake"),
    ("coffee", "CoffeeScript"),
    ("cpp", "C++"),
    ("cr", "Crystal"),
    ("cs", "C#"),
    ("css", "CSS"),
    ("csv", "CSV"),
    ("cts", "TypeScript"),
    ("cu", "Cuda"),
    ("cuh", "Cuda"),
    ("cxx", "C++"),
    ("d", "D"),
    ("dart", "Dart"),
    ("diff", "Diff"),
    ("el", "Emacs Lisp"),
    ("elm", "Elm"),
    ("erl", "Erlang"),
    ("ex", "Elixir"),
    ("exs", "Elixir"),
    ("f", "Fortran"),
    ("f90", "Fortran"),
    ("f95", "Fortran"),
    ("fish", "fish"),
    ("fs", "F#"),
    ("fsx", "F#"),
    ("glsl", "GLSL"),
    ("go", "Go"),
    ("gradle", "Gradle"),
    ("graphql", "GraphQL"),
    ("groovy", "Groovy"),
    ("h", "C"),
    ("hcl", "HCL"),
    ("hh", "C++"),
    ("hpp", "C++"),
    ("hrl", "Erlang"),
    ("hs", "Haskell"),
    ("htm", "HTML"),
    ("html", "HTML"),
    ("hxx", "C++"),
    ("ini", "INI"),
    ("ipynb", "Jupyter Notebook"),
    ("java", "Java"),
    ("jl", "Julia"),
    ("js", "JavaScript"),
    ("json", "JSON"),
    ("jsonl", "JSON"),
    ("jsx", "JavaScript"),
    ("kt", "Kotlin"),
    ("kts", "Kotlin"),
    ("less", "Less"),
    ("lisp", "Common Lisp"),
    ("lua", "Lua"),
    ("markdown", "Markdown"),
    ("md", "Markdown"),
    ("mjs", "JavaScript"),
    ("mk", "Makefile"),
    ("ml", "OCaml"),
    ("mli", "OCaml"),
    ("mm", "Objective-C++"),
    ("mts", "TypeScript"),
    ("nim", "Nim"),
    ("nix", "Nix"),
    ("pas", "Pascal"),
    ("patch", "Diff"),
    ("php", "PHP"),
    ("pl", "Perl"),
    ("pm", "Perl"),
    ("prisma", "Prisma"),
    ("proto", "Protocol Buffer"),
    ("ps1", "PowerShell"),
    ("psm1", "PowerShell"),
    ("py", "Python"),
    ("pyi", "Python"),
    ("pyx", "Cython"),
    ("r", "R"),
    ("rb", "Ruby"),
    ("rkt", "Racket"),
    ("rs", "Rust"),
    ("rst", "reStructuredText"),
    ("s", "Assembly"),
    ("sass", "Sass"),
    ("sbt", "Scala"),
    ("scala", "Scala"),
    ("scm", "Scheme"),
    ("scss", "SCSS"),
    ("sh", "Shell"),
    ("sol", "Solidity"),
    ("sql", "SQL"),
    ("sv", "SystemVerilog"),
    ("svelte", "Svelte"),
    ("svg", "SVG"),
    ("swift", "Swift"),
    ("tcl", "Tcl"),
    ("tex", "TeX"),
    ("tf", "HCL"),
    ("thrift", "Thrift"),
    ("toml", "TOML"),
    ("ts", "TypeScript"),
    ("tsx", "TSX"),
    ("txt", "Text"),
    ("vb", "Visual Basic .NET"),
    ("vhd", "VHDL"),
    ("vhdl", "VHDL"),
    ("vim", "Vim Script"),
    ("vue", "Vue"),
    ("wat", "WebAssembly"),
    ("wgsl", "WGSL"),
    ("xml", "XML"),
    ("yaml", "YAML"),
    ("yml", "YAML"),
    ("zig", "Zig"),
    ("zsh", "Shell"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_name_and_then_by_its_extension() {
        for (path, language) in [
            ("src/main.rs", Some("Rust")),
            ("CMakeLists.txt", Some("CMake")),
            ("a/b.txt", Some("Text")),
            ("a.b/Makefile", Some("Makefile")),
            ("x.PY", Some("Python")),
            ("old.C", Some("C++")),
            ("old.c", Some("C")),
            ("x.R", Some("R")),
            ("LICENSE", None),
            ("a.rs/readme", None),
            ("x.unheard-of", None),
        ] {
            assert_eq!(of(path), language, "{path}");
        }
    }

    #[test]
    fn no_entry_stands_twice() {
        for table in [FILE_NAMES, EXTENSIONS] {
            assert!(table.is_sorted_by(|(a, _), (b, _)| a < b));
        }
    }
}

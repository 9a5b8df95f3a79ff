#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::*;

/// A folder that holds trees, and the output beside them.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(TempDir::new().unwrap())
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn args(&self, trees: &[&str]) -> Args {
        Args {
            trees: trees.iter().map(|tree| self.path(tree)).collect(),
            output: self.path("corpus.parquet"),
            max_file_bytes: 1000,
            force: false,
            json: false,
        }
    }

    fn pack(&self, trees: &[&str]) -> anyhow::Result<Summary> {
        pack(&self.args(trees))
    }

    /// Every row as `repository/path`.
    fn rows(&self) -> Vec<String> {
        let batch = self.batch();
        let column = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (repository, path) = (column("repository"), column("path"));
        (0..batch.num_rows()).map(|i| format!("{}/{}", repository.value(i), path.value(i))).collect()
    }

    fn batch(&self) -> RecordBatch {
        let file = File::open(self.path("corpus.parquet")).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_batch_size(1 << 20).build().unwrap();
        let schema = arrow_array::RecordBatchReader::schema(&reader);
        let mut batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        assert!(batches.len() <= 1);
        batches.pop().unwrap_or_else(|| RecordBatch::new_empty(schema))
    }
}

#[test]
fn a_file_becomes_a_row() {
    let place = Place::new();
    place.file("tree/src/a.rs", "fn main() {}\n");
    place.file("tree/EMPTY", "");
    let summary = place.pack(&["tree"]).unwrap();
    assert_eq!((summary.trees, summary.files, summary.bytes, summary.row_groups), (1, 2, 13, 1));
    assert_eq!(summary.skipped, Skipped::default());

    let batch = place.batch();
    let fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let expected = [
        Field::new("repository", DataType::Utf8, false),
        Field::new("path", DataType::Utf8, false),
        Field::new("language", DataType::Utf8, true),
        Field::new("size", DataType::Int64, false),
        Field::new("hash", DataType::Utf8, false),
        Field::new("content", DataType::Utf8, false),
    ];
    assert_eq!(fields, expected);
    let text = |name: &str| {
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>()
    };
    let some = |values: [&str; 2]| values.map(|v| Some(v.to_owned())).to_vec();
    assert_eq!(text("repository"), some(["tree", "tree"]));
    assert_eq!(text("path"), some(["EMPTY", "src/a.rs"]));
    assert_eq!(text("language"), [None, Some("Rust".to_owned())]);
    assert_eq!(text("content"), some(["", "fn main() {}\n"]));
    let hash = |content: &str| blake3::hash(content.as_bytes()).to_hex().to_string();
    assert_eq!(text("hash"), some([&hash(""), &hash("fn main() {}\n")]));
    assert_eq!(batch.column_by_name("size").unwrap().as_primitive::<Int64Type>().values()[..], [0, 13]);
}

#[test]
fn a_tree_is_ignored_by_its_own_files_alone() {
    let place = Place::new();
    // Above the tree, and beside it in .git: no say.
    place.file(".gitignore", "*.rs\n");
    place.file(".ignore", "*.rs\n");
    place.file("tree/.git/info/exclude", "*.rs\n");
    place.file("tree/.gitignore", "target/\n*.log\n");
    place.file("tree/sub/.ignore", "secret\n!kept.log\n");
    for file in ["a.rs", "x.log", "target/a.rs", "sub/secret", "sub/kept.log", "sub/other.log", ".hidden"] {
        place.file(format!("tree/{file}"), "text");
    }
    place.pack(&["tree"]).unwrap();
    assert_eq!(place.rows(), ["tree/a.rs", "tree/sub/kept.log"]);
}

#[test]
fn what_is_no_text_is_skipped_and_counted() {
    let place = Place::new();
    place.file("tree/good", "gr\u{fc}n");
    place.file("tree/nul", b"a\0b");
    place.file("tree/nul-at-the-end", [&[b'a'; 999][..], b"\0"].concat());
    place.file("tree/latin1", b"gr\xfcn");
    place.file("tree/cut", &"\u{20ac}".as_bytes()[..2]);
    place.file("tree/limit", [b'a'; 1000]);
    place.file("tree/large", [b'a'; 1001]);
    place.file(Path::new("tree").join(OsStr::from_bytes(b"name\xff.rs")), "text");
    place.file(Path::new("tree").join(OsStr::from_bytes(b"\xff")).join("a.rs"), "text");
    symlink(place.path("tree/good"), place.path("tree/link")).unwrap();
    symlink(place.path("tree"), place.path("tree/loop")).unwrap();
    symlink("nowhere", place.path("tree/broken")).unwrap();
    let summary = place.pack(&["tree"]).unwrap();
    assert_eq!(place.rows(), ["tree/good", "tree/limit"]);
    let skipped = Skipped { nul: 2, invalid_utf8: 2, too_large: 1, path_not_utf8: 2, not_regular: 3 };
    assert_eq!(summary.skipped, skipped);
}

#[test]
fn rows_are_sorted_by_the_bytes_of_repository_and_path() {
    let place = Place::new();
    for file in ["b/z", "b/a/x", "b/a.b", "b/a-b", "b/Z", "b/\u{e9}", "a/y", "a.a/y", "B/y"] {
        place.file(file, "text");
    }
    place.pack(&["b", "a.a", "a", "B"]).unwrap();
    let expected = ["B/y", "a/y", "a.a/y", "b/Z", "b/a-b", "b/a.b", "b/a/x", "b/z", "b/\u{e9}"];
    assert_eq!(place.rows(), expected);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let bytes = |names: [&str; 3]| {
        let place = Place::new();
        for name in names {
            place.file(format!("tree/{name}"), name.repeat(50));
        }
        let summary = place.pack(&["tree"]).unwrap();
        assert_eq!(summary.files, 3);
        fs::read(place.path("corpus.parquet")).unwrap()
    };
    assert!(bytes(["a.rs", "b.rs", "c.py"]) == bytes(["c.py", "a.rs", "b.rs"]));
    assert!(bytes(["a.rs", "b.rs", "c.py"]) != bytes(["a.rs", "b.rs", "d.py"]));
}

#[test]
fn row_groups_are_bounded_in_bytes() {
    let place = Place::new();
    let large = vec![b'a'; 12 << 20];
    for i in 0..5 {
        place.file(format!("tree/{i}"), &large);
    }
    place.file("tree/whale", vec![b'a'; 40 << 20]);
    let summary = pack(&Args { max_file_bytes: 64 << 20, ..place.args(&["tree"]) }).unwrap();
    let file = File::open(place.path("corpus.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let rows: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [2, 2, 1, 1]);
    assert_eq!(summary.row_groups, 4);
}

#[test]
fn a_tree_without_files_is_a_corpus_without_rows() {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    assert_eq!(place.pack(&["tree"]).unwrap().files, 0);
    assert_eq!(place.batch().num_columns(), 6);
    assert_eq!(place.batch().num_rows(), 0);
}

#[test]
fn an_output_is_replaced_only_when_told_to() {
    let place = Place::new();
    place.file("tree/a", "text");
    place.file("corpus.parquet", "mine");
    let error = place.pack(&["tree"]).unwrap_err();
    assert_eq!(Fault::exit_of(&error), Exit::Usage);
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(fs::read(place.path("corpus.parquet")).unwrap(), b"mine");
    pack(&Args { force: true, ..place.args(&["tree"]) }).unwrap();
    assert_eq!(place.rows(), ["tree/a"]);
    let mode = fs::metadata(place.path("corpus.parquet")).unwrap().permissions().mode();
    let plain = fs::metadata(place.path("tree/a")).unwrap().permissions().mode();
    assert_eq!(mode, plain, "as readable as any file");
}

#[test]
fn an_output_inside_of_a_tree_is_no_row_of_it() {
    let place = Place::new();
    place.file("tree/a", "text");
    place.file("tree/.ignore", "!.gristmill-pack-*\n");
    place.file("tree/corpus.parquet", "to be replaced");
    let output = place.path("tree/corpus.parquet");
    let args = Args { force: true, output: output.clone(), ..place.args(&["tree"]) };
    let first = (pack(&args).unwrap().files, fs::read(&output).unwrap());
    let again = (pack(&args).unwrap().files, fs::read(&output).unwrap());
    assert!(first == again);
    assert_eq!(first.0, 1);
}

#[test]
fn wrong_trees_and_outputs_are_refused_and_leave_nothing() {
    let place = Place::new();
    place.file("a/tree/x", "text");
    place.file("b/tree/x", "text");
    fs::create_dir(place.path("corpus.parquet")).unwrap();
    let refused = |args: Args, exit: Exit, word: &str| {
        let error = format!("{:#}", pack(&args).map_err(|e| (assert_eq!(Fault::exit_of(&e), exit), e)).unwrap_err().1);
        assert!(error.contains(word), "{error}");
    };
    refused(place.args(&["a/tree", "b/tree"]), Exit::Usage, "both named `tree`");
    refused(place.args(&["a/tree", "a/../a/tree"]), Exit::Usage, "both named `tree`");
    refused(place.args(&["nowhere"]), Exit::Input, "nowhere");
    refused(place.args(&["a/tree/x"]), Exit::Input, "not a folder");
    refused(place.args(&["a/tree"]), Exit::Usage, "is a folder");
    let missing = Args { output: place.path("no/corpus.parquet"), ..place.args(&["a/tree"]) };
    refused(missing, Exit::Usage, "make it first");
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 3, "nothing is left behind");
}

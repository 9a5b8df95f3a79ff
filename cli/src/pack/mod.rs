//! `gristmill pack`: source trees into one Parquet corpus. Owns the order of rows and the life of the output file: it is
//! written under a hidden name beside the output, and renamed when it is whole. The same trees give the same bytes.

mod corpus;
mod language;
mod tree;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueHint;
use gristmill_job::Exit;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::fault::{Fault, OrFault};
use crate::speak::tell;
use corpus::{Corpus, Row};
use tree::{Skipped, Tree};

/// Pack source trees into a Parquet corpus.
///
/// Every DIR is one tree: its files get the folder's name as `repository`, and their path below it as `path`. The other
/// columns are `language` (by file name; null if unknown), `size` (bytes), `hash` (BLAKE3 of the content) and `content`.
/// The ignore files of a tree (.gitignore, .ignore) are respected, and nothing outside of it; hidden files and symbolic
/// links are left out. Files with a NUL byte, files that are not UTF-8 and files that are too large are skipped and
/// counted. Rows are sorted by repository and path, and the same trees give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Source trees. No two of them may have the same name.
    #[arg(required = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    trees: Vec<PathBuf>,
    /// The Parquet file to write.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: PathBuf,
    /// Skip files that are larger than this.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(..=1 << 30))]
    max_file_bytes: u64,
    /// Replace the output where it exists.
    #[arg(long)]
    force: bool,
    /// Print the summary as one JSON line on stdout.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  One tree:
    gristmill pack linux --output linux.parquet
  Every clone in a folder, without huge files:
    gristmill pack clones/* --output corpus.parquet --max-file-bytes 1000000";

/// What was packed.
#[derive(Debug, Serialize)]
struct Summary {
    event: &'static str,
    output: PathBuf,
    trees: usize,
    files: u64,
    bytes: u64,
    row_groups: usize,
    skipped: Skipped,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let summary = pack(args)?;
    let skipped = &summary.skipped;
    tell!("packed {} files, {} bytes, into `{}`", summary.files, summary.bytes, summary.output.display());
    for (reason, count) in skipped.by_reason().into_iter().filter(|(_, count)| *count > 0) {
        tell!("skipped {count}: {reason}");
    }
    if args.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&summary)?)?;
    }
    Ok(Exit::Done)
}

fn pack(args: &Args) -> anyhow::Result<Summary> {
    let trees = open_trees(&args.trees)?;
    let output = Output::create(&args.output, args.force)?;
    let unwritten = || format!("`{}` cannot be written", args.output.display());
    let mut corpus = Corpus::new(output.staged.as_file()).with_context(unwritten)?;
    let mut skipped = Skipped::default();
    for tree in &trees {
        let files = tree.files(&mut skipped).or_fault(Exit::Input)?;
        for file in files.iter().filter(|file| !output.owns(&tree.dir.join(file))) {
            let Some(content) = tree.read(file, args.max_file_bytes, &mut skipped).or_fault(Exit::Input)? else {
                continue;
            };
            let row = Row { repository: &tree.name, path: file, language: language::of(file), content: &content };
            corpus.add(&row).with_context(unwritten)?;
        }
    }
    let totals = corpus.finish().with_context(unwritten)?;
    output.publish(args.force)?;
    Ok(Summary {
        event: "summary",
        output: args.output.clone(),
        trees: trees.len(),
        files: totals.rows,
        bytes: totals.bytes,
        row_groups: totals.row_groups,
        skipped,
    })
}

/// The trees in the order of their names, no two of which are the same.
fn open_trees(dirs: &[PathBuf]) -> anyhow::Result<Vec<Tree>> {
    let mut trees = dirs.iter().map(|dir| Tree::open(dir)).collect::<Result<Vec<_>, _>>().or_fault(Exit::Input)?;
    trees.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some([a, b]) = trees.array_windows().find(|[a, b]| a.name == b.name) {
        let (name, a, b) = (&a.name, a.dir.display(), b.dir.display());
        let message = format!(
            "`{a}` and `{b}` are both named `{name}`, and the column `repository` could not tell them apart; rename one, or \
             pack them into two files"
        );
        return Err(Fault::told(Exit::Usage, message));
    }
    Ok(trees)
}

/// The output under its hidden name, until it is whole.
struct Output {
    path: PathBuf,
    staged: NamedTempFile,
}

impl Output {
    fn create(path: &Path, force: bool) -> anyhow::Result<Output> {
        let usage = |message: String| Fault::told(Exit::Usage, message);
        if path.is_dir() {
            return Err(usage(format!("the output `{}` is a folder; name a file", path.display())));
        }
        if path.exists() && !force {
            return Err(exists(path));
        }
        let Some(name) = path.file_name() else {
            return Err(usage(format!("the output `{}` names no file", path.display())));
        };
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let folder = fs::canonicalize(parent)
            .with_context(|| format!("the folder `{}` of the output cannot be opened; make it first", parent.display()))
            .or_fault(Exit::Usage)?;
        let staged = tempfile::Builder::new()
            .prefix(".gristmill-pack-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&folder)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
        Ok(Output { path: folder.join(name), staged })
    }

    /// Whether a file of a tree is this output, or the one that it replaces.
    fn owns(&self, file: &Path) -> bool {
        file == self.path || file == self.staged.path()
    }

    fn publish(self, force: bool) -> anyhow::Result<()> {
        let unwritten = || format!("`{}` cannot be written", self.path.display());
        self.staged.as_file().sync_all().with_context(unwritten)?;
        let done = if force { self.staged.persist(&self.path) } else { self.staged.persist_noclobber(&self.path) };
        match done.map_err(|e| e.error) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(&self.path)),
            Err(e) => Err(e).with_context(|| format!("`{}` cannot be written", self.path.display())),
        }
    }
}

fn exists(path: &Path) -> anyhow::Error {
    Fault::told(
        Exit::Usage,
        format!("the output `{}` exists; name another, or replace it with --force", path.display()),
    )
}

#[cfg(test)]
mod tests;

//! One source tree: which of its files are packed, and their text. Nothing outside of the tree has a say in it: no global
//! excludes, no ignore files of parent folders, no `.git/info`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;
use serde::Serialize;

/// A tree that cannot be packed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("`{}` cannot be opened; name a folder with sources", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("`{}` is not a folder; name the folder that it lies in", .0.display())]
    NotAFolder(PathBuf),
    #[error("`{}` has no name in UTF-8 that could stand in the column `repository`; rename it", .0.display())]
    NoName(PathBuf),
    #[error("`{}` cannot be listed", .path.display())]
    List { path: PathBuf, source: ignore::Error },
    #[error("`{}` cannot be read; make it readable, or name it in an ignore file of its tree", .path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// Files that were left out although no ignore file says so.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Skipped {
    /// With a NUL byte: binaries, UTF-16.
    pub(super) nul: u64,
    /// Not UTF-8, without a NUL byte.
    pub(super) invalid_utf8: u64,
    /// Larger than the limit.
    pub(super) too_large: u64,
    /// With a path that is not UTF-8.
    pub(super) path_not_utf8: u64,
    /// Symbolic links, pipes, sockets, devices.
    pub(super) not_regular: u64,
}

impl Skipped {
    /// Every reason in words, and how many files it kept out.
    pub(super) fn by_reason(&self) -> [(&'static str, u64); 5] {
        [
            ("with a NUL byte", self.nul),
            ("not UTF-8", self.invalid_utf8),
            ("larger than --max-file-bytes", self.too_large),
            ("with a path that is not UTF-8", self.path_not_utf8),
            ("symbolic links and other irregular files", self.not_regular),
        ]
    }
}

/// A source tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The folder's name.
    pub(super) name: String,
    /// The folder, without symbolic links.
    pub(super) dir: PathBuf,
}

impl Tree {
    pub(super) fn open(path: &Path) -> Result<Tree, TreeError> {
        let dir = fs::canonicalize(path).map_err(|source| TreeError::Open { path: path.to_owned(), source })?;
        if !dir.is_dir() {
            return Err(TreeError::NotAFolder(path.to_owned()));
        }
        let Some(name) = dir.file_name().and_then(|name| name.to_str()) else {
            return Err(TreeError::NoName(dir));
        };
        Ok(Tree { name: name.to_owned(), dir })
    }

    /// The paths of the regular files below the folder that no ignore file excludes, with `/`, by their bytes.
    pub(super) fn files(&self, skipped: &mut Skipped) -> Result<Vec<String>, TreeError> {
        let mut files = Vec::new();
        let walk = WalkBuilder::new(&self.dir)
            .parents(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(false)
            .follow_links(false)
            .build();
        for entry in walk {
            let entry = entry.map_err(|source| TreeError::List { path: self.dir.clone(), source })?;
            if let Some(error) = entry.error() {
                tracing::warn!(%error, "an ignore file has lines that are not understood");
            }
            let Some(kind) = entry.file_type().filter(|kind| !kind.is_dir()) else {
                continue;
            };
            let path = entry.path().strip_prefix(&self.dir).expect("the walk stays below its root");
            match path.to_str() {
                _ if !kind.is_file() => skipped.not_regular += 1,
                None => skipped.path_not_utf8 += 1,
                Some(path) => files.push(path.to_owned()),
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// The text of one of the files, or nothing where it is skipped.
    pub(super) fn read(&self, file: &str, most_bytes: u64, skipped: &mut Skipped) -> Result<Option<String>, TreeError> {
        let path = self.dir.join(file);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|open| open.take(most_bytes + 1).read_to_end(&mut bytes))
            .map_err(|source| TreeError::Read { path, source })?;
        if bytes.len() as u64 > most_bytes {
            skipped.too_large += 1;
            return Ok(None);
        }
        if bytes.contains(&0) {
            skipped.nul += 1;
            return Ok(None);
        }
        let text = String::from_utf8(bytes).ok();
        skipped.invalid_utf8 += u64::from(text.is_none());
        Ok(text)
    }
}

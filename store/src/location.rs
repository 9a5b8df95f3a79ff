//! A place in an object store: the output of a job, or where its corpus lies. Every request of Gristmill goes through
//! here, with a deadline and without hidden retries.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use url::Url;

use crate::outcome::{Created, StoreError};

/// A location that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A scheme that this version does not speak.
    #[error("`{url}`: the scheme `{scheme}` is not supported; name a local path or a file:// URL")]
    Scheme {
        /// What was asked for.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// Not a path that can be made absolute, or not a URL of a file.
    #[error("`{0}` is not a usable path")]
    BadPath(String),
}

/// An object that a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key relative to the location's root.
    pub key: String,
    /// Bytes.
    pub size: u64,
}

/// A root in an object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Location {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: Url,
}

impl Location {
    /// Opens a local path or a `file://` URL. Nothing needs to exist there yet.
    pub fn open(text: &str) -> Result<Self, OpenError> {
        let path = match Url::parse(text) {
            Ok(url) if url.scheme() == "file" => url.to_file_path().map_err(|()| OpenError::BadPath(text.into()))?,
            Ok(url) if text.contains("://") => {
                return Err(OpenError::Scheme { url: text.into(), scheme: url.scheme().into() });
            }
            _ => PathBuf::from(text),
        };
        Self::open_path(&path)
    }

    /// Opens a local path.
    pub fn open_path(path: &FilePath) -> Result<Self, OpenError> {
        let bad = || OpenError::BadPath(path.display().to_string());
        let path = absolute(path).ok_or_else(bad)?;
        let url = Url::from_file_path(&path).map_err(|()| bad())?;
        let root = Path::from_absolute_path(&path).map_err(|_| bad())?;
        Ok(Location { store: Arc::new(LocalFileSystem::new().with_fsync(true)), root, url })
    }

    /// The location's URL.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The folder on this machine, if that is what the location is.
    pub fn local_folder(&self) -> Option<PathBuf> {
        self.url.to_file_path().ok()
    }

    /// The URL of one key, for people and messages.
    pub fn describe(&self, key: &str) -> String {
        if key.is_empty() { self.url.to_string() } else { format!("{}/{key}", self.url) }
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').filter(|part| !part.is_empty()).fold(self.root.clone(), |path, part| path.join(part))
    }

    /// Puts an object where none may stand. The answer `Exists`, and any error that may have happened, must be resolved
    /// by reading back.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let deadline = deadline(bytes.len() as u64);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let path = self.path(key);
        let request = self.store.put_opts(&path, PutPayload::from_bytes(bytes), options);
        match tokio::time::timeout(deadline, request).await {
            Ok(Ok(_)) => Ok(Created::Ours),
            Ok(Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
                Ok(Created::Exists)
            }
            Ok(Err(source)) => Err(StoreError::of_write(self.describe(key), source)),
            Err(_) => Err(self.timed_out(key, deadline)),
        }
    }

    /// The whole object, or `None` where there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let deadline = deadline(256 << 20);
        let path = self.path(key);
        let request = async { self.store.get(&path).await?.bytes().await };
        match tokio::time::timeout(deadline, request).await {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
            Ok(Err(source)) => Err(StoreError::of_read(self.describe(key), source)),
            Err(_) => Err(self.timed_out(key, deadline)),
        }
    }

    /// What the store says of an object, or `None` where there is none.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        match self.store.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::of_read(self.describe(key), source)),
        }
    }

    /// Bytes `range` of an object and what the store says of it, both from one answer. With `e_tag` the store must refuse
    /// any other version.
    pub async fn get_range(
        &self,
        key: &str,
        range: std::ops::Range<u64>,
        e_tag: Option<&str>,
    ) -> Result<(Bytes, ObjectMeta), StoreError> {
        let deadline = deadline(range.end - range.start);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: e_tag.map(str::to_owned),
            ..GetOptions::default()
        };
        let path = self.path(key);
        let request = async {
            let answer = self.store.get_opts(&path, options).await?;
            let meta = answer.meta.clone();
            Ok((answer.bytes().await?, meta))
        };
        match tokio::time::timeout(deadline, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(StoreError::of_read(self.describe(key), source)),
            Err(_) => Err(self.timed_out(key, deadline)),
        }
    }

    /// Removes an object that nothing refers to; that it stays would be untidy, and no more.
    pub async fn remove(&self, key: &str) {
        if let Err(error) = self.store.delete(&self.path(key)).await {
            tracing::debug!(key, %error, "an object that is not needed stays");
        }
    }

    /// Every object under a prefix of whole path components, sorted by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let of_read = |source| StoreError::of_read(self.describe(prefix), source);
        let path = self.path(prefix);
        let mut found: Vec<Listed> = self
            .store
            .list(Some(&path))
            .map_ok(|meta| Listed { key: self.relative(&meta.location), size: meta.size })
            .try_collect()
            .await
            .map_err(of_read)?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn relative(&self, path: &Path) -> String {
        let parts = path.prefix_match(&self.root).expect("a listing stays under its prefix");
        parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
    }

    fn timed_out(&self, key: &str, deadline: Duration) -> StoreError {
        StoreError::TimedOut { object: self.describe(key), deadline_s: deadline.as_secs() }
    }
}

/// How long a request of so many bytes may take: 30 s and a second per MiB.
fn deadline(bytes: u64) -> Duration {
    Duration::from_secs(30 + (bytes >> 20))
}

/// The path without `.`, `..` and symbolic links, as far as it exists: one object has one name.
fn absolute(path: &FilePath) -> Option<PathBuf> {
    if let Ok(real) = path.canonicalize() {
        return Some(real);
    }
    let absolute = std::path::absolute(path).ok()?;
    let (parent, name) = (absolute.parent()?, absolute.file_name()?);
    Some(self::absolute(parent)?.join(name))
}

//! What a storage request may have done. Between "it happened" and "it did not" lies "nobody can tell", and the commit
//! protocol turns on the difference, so it is in the type.

use std::error::Error as _;

/// A storage request that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{object} does not exist")]
    NotFound {
        /// URL of the object.
        object: String,
    },
    /// The request had no effect: it was refused, or it was a read.
    #[error("{object}: {source}")]
    DidNotHappen {
        /// URL of the object.
        object: String,
        /// What the store's client said.
        source: object_store::Error,
    },
    /// The write may have taken effect, or take it later; only reading back tells.
    #[error("{object}: the write may or may not have happened: {source}")]
    MayHaveHappened {
        /// URL of the object.
        object: String,
        /// What the store's client said.
        source: object_store::Error,
    },
    /// No answer within the deadline. A write may have taken effect.
    #[error("{object}: no answer within {deadline_s} s")]
    TimedOut {
        /// URL of the object.
        object: String,
        /// The deadline, seconds.
        deadline_s: u64,
    },
    /// What stands there is not what was expected to.
    #[error("{object}: {why}")]
    Malformed {
        /// URL of the object.
        object: String,
        /// In which way.
        why: String,
    },
}

/// What became of a create-if-absent request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was absent and now holds our bytes.
    Ours,
    /// The store refused: something stands there, which may be our own bytes of an earlier request. Never to be read as
    /// "done".
    Exists,
}

impl StoreError {
    /// The error of a read.
    pub(crate) fn of_read(object: String, source: object_store::Error) -> Self {
        match source {
            object_store::Error::NotFound { .. } => StoreError::NotFound { object },
            source => StoreError::DidNotHappen { object, source },
        }
    }

    /// The error of a write. Only refusals that the store makes before it acts are known to have had no effect.
    pub(crate) fn of_write(object: String, source: object_store::Error) -> Self {
        use object_store::Error as E;
        match source {
            E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::UnknownConfigurationKey { .. } => StoreError::DidNotHappen { object, source },
            source => StoreError::MayHaveHappened { object, source },
        }
    }

    /// Whether no later request will fare better until a person acts: the disk is full, the file too large for it,
    /// or writing is forbidden.
    pub fn is_refusal(&self) -> bool {
        use object_store::Error as E;
        let (StoreError::DidNotHappen { source, .. } | StoreError::MayHaveHappened { source, .. }) = self else {
            return false;
        };
        matches!(source, E::PermissionDenied { .. } | E::Unauthenticated { .. })
            || self.io_kind().is_some_and(|kind| {
                use std::io::ErrorKind as K;
                matches!(
                    kind,
                    K::StorageFull | K::QuotaExceeded | K::FileTooLarge | K::PermissionDenied | K::ReadOnlyFilesystem
                )
            })
    }

    fn io_kind(&self) -> Option<std::io::ErrorKind> {
        let mut source = self.source();
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return Some(io.kind());
            }
            source = error.source();
        }
        None
    }
}

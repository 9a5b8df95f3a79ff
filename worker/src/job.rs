//! The job as the worker reads it, through its own store: what the coordinator says is only where to look.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use gristmill_job::{Blame, Compression, Digest, Failure, Fatal, Plan, Segment};
use gristmill_proto::v1::JoinReply;
use gristmill_store::checkpoint::Checkpoint;
use gristmill_store::documents::{self, JobDocument};
use gristmill_store::input::{InputError, Object};
use gristmill_store::{Location, keys, schema};
use tokio::sync::OnceCell;

/// Everything that stays the same over all shards.
pub(crate) struct Job {
    pub(crate) out: Location,
    pub(crate) document: JobDocument,
    pub(crate) plan: Plan,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) compression: Compression,
    /// Encoded bytes at which a part is committed as a finished prefix.
    pub(crate) part_bytes: usize,
    objects: Vec<OnceCell<Arc<Object>>>,
}

impl Job {
    /// Reads job.json, the plan and the model's config, and compares them with what the coordinator announced.
    pub(crate) async fn open(reply: &JoinReply, model: Option<&Path>) -> anyhow::Result<Self> {
        let out = Location::open(&reply.output)?;
        let Some(document) = documents::read::<JobDocument>(&out, keys::JOB).await? else {
            anyhow::bail!(
                "{} is not there: the output must be a store that the coordinator and every worker share",
                out.describe(keys::JOB)
            );
        };
        let announced: Digest = reply.job.parse()?;
        if document.job != announced {
            anyhow::bail!("{} holds job {}, the coordinator announced {announced}", out.url(), document.job);
        }
        let plan = documents::read_plan(&out, document.plan).await?;
        let folder = model.map_or_else(|| PathBuf::from(&reply.model), Path::to_path_buf);
        let (checkpoint, digest) = tokio::task::spawn_blocking(move || {
            let checkpoint = Checkpoint::open(&folder)?;
            let digest = checkpoint.digest()?;
            anyhow::Ok((checkpoint, digest))
        })
        .await??;
        if digest != document.spec.model {
            anyhow::bail!(
                "{} holds model {digest}, the job needs {}; name the right folder with --model",
                checkpoint.dir.display(),
                document.spec.model
            );
        }
        let objects = plan.objects.iter().map(|_| OnceCell::new()).collect();
        let (compression, part_bytes) = (reply.compression.parse()?, reply.part_bytes as usize);
        Ok(Job { out, document, plan, checkpoint, compression, part_bytes, objects })
    }

    /// An input object, opened and checked against its pin once.
    pub(crate) async fn object(&self, segment: Segment) -> Result<Arc<Object>, InputError> {
        let index = segment.object as usize;
        let open = || async { Object::open(&self.plan.objects[index]).await.map(Arc::new) };
        self.objects[index].get_or_try_init(open).await.cloned()
    }

    /// The output's columns.
    pub(crate) fn schema(&self, object: &Object) -> Result<SchemaRef, schema::SchemaError> {
        schema::of_job(&self.document.spec, &object.pin.object, object.schema())
    }
}

/// A failure to open or read an input object.
pub(crate) fn input_failure(error: &InputError) -> Failure {
    let (blame, fatal) = match error {
        InputError::Changed { .. } => (Blame::Input, Some(Fatal::InputChanged)),
        InputError::NotParquet { .. } => (Blame::Input, Some(Fatal::InputUnreadable)),
        _ => (Blame::Store, None),
    };
    Failure { blame, fatal, message: error.to_string(), in_hand: Vec::new() }
}

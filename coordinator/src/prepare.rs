//! Before the first shard: begins a job in an empty output, or finds the one that stands there and makes sure that it is
//! the same.
//!
//! Order is load-bearing: the probe, then the plan, then job.json, which names the plan. Whoever creates job.json decides;
//! a resume takes plan and pins from it, never from a new listing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gristmill_job::{
    Compute, Difference, Digest, FORMAT, JobSpec, ModelConfig, Pin, Plan, Residual, Selection, SpecialTokens, TextSpec,
    VectorSpec, VectorType,
};
use gristmill_store::documents::{self, JobDocument, Manifest, Written};
use gristmill_store::probe::{ProbeError, probe};
use gristmill_store::{Location, StoreError, keys, schema, staging};

use crate::planner::{Corpus, Estimate, PlanError, Survey, survey};

/// A job that cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The corpus.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store cannot hold an output.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The store failed, or a document is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output holds another job.
    #[error("{output} holds another job; choose another --output, or ask for the same:\n{}", lines(differences))]
    SpecDiffers {
        /// URL of the output.
        output: String,
        /// In what.
        differences: Vec<Difference>,
    },
    /// The corpus is not what was pinned.
    #[error(
        "{object} has changed since the job was planned ({what}); restore it, or start a new job in another output"
    )]
    InputChanged {
        /// URL of the object.
        object: String,
        /// In what.
        what: &'static str,
    },
    /// The output holds Parquet files that no job of Gristmill wrote there.
    #[error("{0} is in the output but no part of this job; an output needs a folder of its own")]
    Foreign(String),
    /// Stale staging files cannot be removed.
    #[error("{output}: stale staging files cannot be removed: {source}")]
    Sweep {
        /// URL of the output.
        output: String,
        /// Why.
        source: std::io::Error,
    },
}

fn lines(differences: &[Difference]) -> String {
    differences.iter().map(|d| format!("  {d}")).collect::<Vec<_>>().join("\n")
}

/// The model as far as the job must know it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its shape.
    pub config: ModelConfig,
    /// Keys of its config that nobody knew.
    pub unknown: Vec<String>,
    /// Its folder.
    pub folder: PathBuf,
}

/// What a person asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which rows and columns.
    pub corpus: Corpus,
    /// By which model.
    pub model: ModelInfo,
    /// The prompt, resolved.
    pub prompt: String,
    /// Special-token strings in texts.
    pub special_tokens: SpecialTokens,
    /// Tokens per row at most.
    pub max_tokens: u32,
    /// Arithmetic.
    pub compute: Compute,
    /// Variant of the pooling.
    pub residual: Residual,
    /// Type of the vectors' components.
    pub dtype: VectorType,
    /// Estimated tokens per shard.
    pub shard_tokens: u64,
}

/// A job that may begin or go on.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Where.
    pub out: Location,
    /// What.
    pub document: JobDocument,
    /// In which shards.
    pub plan: Plan,
    /// Set if it is finished.
    pub sealed: Option<Manifest>,
    /// Files that match the corpus's patterns now and did not when the job was planned: they are not embedded.
    pub new_files: Vec<String>,
    /// Whether the job stood there already.
    pub resumed: bool,
}

/// Begins the job, or finds it begun.
pub async fn prepare(out: &Location, request: &Request) -> Result<Prepared, PrepareError> {
    staging::sweep(out).map_err(|source| PrepareError::Sweep { output: out.url().to_owned(), source })?;
    let survey = survey(&request.corpus).await?;
    if let Some(document) = documents::read::<JobDocument>(out, keys::JOB).await? {
        return resume(out, request, &survey, document).await;
    }
    refuse_foreign(out, None).await?;
    probe(out).await?;
    let plan = survey.plan(&request.estimate(), request.shard_tokens);
    let plan_bytes = documents::encode_plan(&plan);
    let plan_digest = Digest::of(&plan_bytes);
    let spec = request.spec(&survey, snapshot(&plan.objects));
    let document = JobDocument {
        format: FORMAT,
        job: spec.digest(),
        plan: plan_digest,
        spec,
        model: request.model.folder.display().to_string(),
        unknown_config_keys: request.model.unknown.clone(),
        written_by: concat!("gristmill ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let key = keys::plan(plan_digest);
    if let Written::Other(_) = documents::create_bytes(out, &key, plan_bytes).await? {
        let why = "other bytes stand under the plan's digest".to_owned();
        return Err(StoreError::Malformed { object: out.describe(&key), why }.into());
    }
    match documents::create(out, keys::JOB, &document).await? {
        Written::Same => {
            Ok(Prepared { out: out.clone(), document, plan, sealed: None, new_files: Vec::new(), resumed: false })
        }
        // Another job began in the same moment, and has decided.
        Written::Other(bytes) => {
            let document = documents::decode(&out.describe(keys::JOB), &bytes)?;
            resume(out, request, &survey, document).await
        }
    }
}

async fn resume(
    out: &Location,
    request: &Request,
    survey: &Survey,
    document: JobDocument,
) -> Result<Prepared, PrepareError> {
    if document.spec.digest() != document.job {
        let why = "its specification does not have the digest that it states".to_owned();
        return Err(StoreError::Malformed { object: out.describe(keys::JOB), why }.into());
    }
    refuse_foreign(out, Some(document.job)).await?;
    let plan = documents::read_plan(out, document.plan).await?;
    let mut differences = document.spec.differences(&request.spec(survey, document.spec.snapshot));
    let found: BTreeMap<&str, &Pin> = survey.objects.iter().map(|pin| (pin.object.as_str(), pin)).collect();
    for pin in &plan.objects {
        let object = pin.object.clone();
        match found.get(object.as_str()) {
            Some(now) if *now == pin => {}
            Some(_) => return Err(PrepareError::InputChanged { object, what: "its size, time or footer is another" }),
            None if gone(&object) => return Err(PrepareError::InputChanged { object, what: "it is gone" }),
            None => differences.push(Difference {
                name: "corpus".to_owned(),
                ours: object,
                theirs: "no such file".to_owned(),
            }),
        }
    }
    if differences.len() > 1 {
        // The columns follow from what differs elsewhere.
        differences.retain(|difference| difference.name != "schema");
    }
    if !differences.is_empty() {
        return Err(PrepareError::SpecDiffers { output: out.url().to_owned(), differences });
    }
    let planned: std::collections::BTreeSet<&str> = plan.objects.iter().map(|pin| pin.object.as_str()).collect();
    let new_files = found.keys().filter(|object| !planned.contains(*object)).map(|o| (*o).to_owned()).collect();
    let sealed = documents::read::<Manifest>(out, keys::MANIFEST).await?;
    Ok(Prepared { out: out.clone(), document, plan, sealed, new_files, resumed: true })
}

fn gone(object: &str) -> bool {
    let location = Location::open(object).ok();
    location.and_then(|location| location.local_folder()).is_some_and(|path| !path.exists())
}

/// Errs if a Parquet file lies in the output that is no part of `job`.
pub(crate) async fn refuse_foreign(out: &Location, job: Option<Digest>) -> Result<(), PrepareError> {
    let foreign = out.list("").await?.into_iter().find(|listed| {
        listed.key.ends_with(".parquet") && job.and_then(|job| keys::slot_of_part(job, &listed.key)).is_none()
    });
    foreign.map_or(Ok(()), |listed| Err(PrepareError::Foreign(out.describe(&listed.key))))
}

/// The digest of the pinned objects.
fn snapshot(objects: &[Pin]) -> Digest {
    Pin::snapshot(objects)
}

impl Request {
    /// What its rows are estimated by.
    pub fn estimate(&self) -> Estimate {
        Estimate::new(&self.prompt, self.max_tokens, &self.vectors())
    }

    fn vectors(&self) -> VectorSpec {
        VectorSpec {
            width: self.model.config.compressed_dim as u32,
            dtype: self.dtype,
            normalised: true,
            compute: self.compute,
            residual: self.residual,
        }
    }

    fn spec(&self, survey: &Survey, snapshot: Digest) -> JobSpec {
        JobSpec {
            format: FORMAT,
            model: self.model.digest,
            selection: Selection {
                text_column: survey.text_column.clone(),
                columns: survey.carried.iter().map(|field| field.name().clone()).collect(),
                limit: survey.limit,
            },
            text: TextSpec {
                prompt: self.prompt.clone(),
                special_tokens: self.special_tokens,
                max_tokens: self.max_tokens,
            },
            schema: schema::describe(&schema::output(&survey.carried, &self.vectors())),
            vectors: self.vectors(),
            snapshot,
        }
    }
}

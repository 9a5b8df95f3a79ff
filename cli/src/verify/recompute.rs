//! Embeds sampled rows again, by `gristmill-worker query`, and compares the vectors. Nothing else can tell a vector of
//! another text from the right one.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;
use gristmill_coordinator::verify::{Damage, DamageKind, Report, Sample};
use gristmill_job::{Compute, Device, Exit, JobSpec};
use gristmill_store::checkpoint::Checkpoint;
use gristmill_store::documents::{self, JobDocument};
use gristmill_store::{Location, keys};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, OrFault};

/// The lowest cosine between two computations of one vector in other batches.
fn cosine_min(compute: Compute) -> f64 {
    match compute {
        Compute::F32 | Compute::Bf16 => 0.9999,
    }
}

/// What came of computing rows again.
#[derive(Debug, Serialize)]
pub(super) struct Recomputed {
    /// How many rows.
    pub(super) rows: usize,
    /// How many of them differ.
    pub(super) differing: usize,
    /// The lowest cosine; `None` where no row was compared.
    pub(super) cosine_min: Option<f64>,
}

/// A worker that can embed the job's rows again.
pub(super) struct Recomputer {
    spec: JobSpec,
    model: PathBuf,
    device: Device,
    worker: PathBuf,
}

#[derive(Deserialize)]
struct Answer {
    vector: Vec<f32>,
}

impl Recomputer {
    /// Checks that `model` is the job's. `None` where job.json cannot be read: verify says why.
    pub(super) async fn new(
        out: &Location,
        model: &Path,
        device: Device,
        worker: PathBuf,
    ) -> anyhow::Result<Option<Self>> {
        let Ok(Some(job)) = documents::read::<JobDocument>(out, keys::JOB).await else { return Ok(None) };
        let checkpoint = Checkpoint::open(model).or_fault(Exit::Input)?;
        let digest = checkpoint.digest().or_fault(Exit::Input)?;
        if digest != job.spec.model {
            let (dir, wanted) = (model.display(), job.spec.model);
            let message = format!("{dir} holds model {digest}, the job was embedded by {wanted} ({})", job.model);
            return Err(Fault::told(Exit::Usage, format!("{message}; name that one with --model")));
        }
        Ok(Some(Recomputer { spec: job.spec, model: model.to_owned(), device, worker }))
    }

    /// Computes the report's samples again, and adds those that differ to its damages.
    pub(super) fn compare(&self, report: &mut Report) -> anyhow::Result<Recomputed> {
        let samples = std::mem::take(&mut report.samples);
        let mut recomputed = Recomputed { rows: 0, differing: 0, cosine_min: None };
        if samples.is_empty() {
            return Ok(recomputed);
        }
        for (sample, vector) in samples.iter().zip(self.embed(&samples)?) {
            let cosine = cosine(&sample.vector, &vector);
            recomputed.rows += 1;
            recomputed.cosine_min = Some(recomputed.cosine_min.map_or(cosine, |least| cosine.min(least)));
            let least = cosine_min(self.spec.vectors.compute);
            // A cosine that is no number is below every limit.
            if cosine.partial_cmp(&least).is_none_or(std::cmp::Ordering::is_lt) {
                recomputed.differing += 1;
                report.damages_found += 1;
                report.damages.push(Damage {
                    object: sample.part.clone(),
                    kind: DamageKind::Vector,
                    detail: format!(
                        "the vector of row {} of {} has cosine {cosine:.6} with what the model computes now",
                        sample.row, sample.object
                    ),
                });
            }
        }
        Ok(recomputed)
    }

    fn embed(&self, samples: &[Sample]) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut worker = self.command().spawn().with_context(|| format!("{} does not start", self.worker.display()))?;
        let mut stdin = worker.stdin.take().expect("it is piped");
        let lines: Vec<String> =
            samples.iter().map(|sample| serde_json::json!({"text": sample.text}).to_string()).collect();
        // Answers come while lines are still being written.
        let writer = std::thread::spawn(move || lines.iter().try_for_each(|line| writeln!(stdin, "{line}")));
        let answers: Result<Vec<Vec<f32>>, anyhow::Error> = BufReader::new(worker.stdout.take().expect("it is piped"))
            .lines()
            .map(|line| Ok(serde_json::from_str::<Answer>(&line?)?.vector))
            .collect();
        let status = worker.wait()?;
        // What the worker said on stderr tells more than a broken pipe.
        let written = writer.join().expect("it only writes");
        if !status.success() {
            return Err(self.ended(status));
        }
        written?;
        let answers = answers.context("gristmill-worker query answered what is no vector")?;
        if answers.len() != samples.len() {
            anyhow::bail!("gristmill-worker query answered {} of {} rows", answers.len(), samples.len());
        }
        Ok(answers)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.worker);
        let (text, vectors) = (&self.spec.text, &self.spec.vectors);
        command.arg("query").arg("--model").arg(&self.model);
        command.arg(format!("--prompt={}", text.prompt));
        command.args(["--special-tokens", text.special_tokens.word(), "--compute", vectors.compute.word()]);
        command.args(["--residual", vectors.residual.word(), "--device", self.device.word(), "--json-lines"]);
        command.arg("--max-tokens").arg(text.max_tokens.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        let exit = match status.code() {
            Some(2) => Exit::Usage,
            Some(3) => Exit::Input,
            _ => Exit::Device,
        };
        Fault::told(exit, format!("{} query ended ({status}); see its message above", self.worker.display()))
    }
}

/// The cosine between two vectors; not a number where one is zero, not finite, or of another width.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn only_vectors_of_one_direction_have_cosine_one() {
        assert!((cosine(&[3.0, 4.0], &[0.6, 0.8]) - 1.0).abs() < 1e-6);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
        for (a, b) in [(&[1.0f32, 0.0][..], &[1.0f32][..]), (&[0.0], &[1.0]), (&[f32::NAN], &[1.0])] {
            assert!(cosine(a, b).is_nan());
        }
    }
}

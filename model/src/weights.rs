//! A checkpoint's tensors, mapped from its safetensors files. Each is taken exactly once, as a view of its map: nothing is
//! copied here. What is taken must be there in the shape that is asked for; what is left over at the end is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use crate::error::{Error, Files, WeightsError};
use crate::torch;

/// The tensors of a checkpoint that nobody has taken yet, by canonical name.
pub(crate) struct Weights {
    files: Vec<(PathBuf, Arc<Mmap>)>,
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor lies, and as what.
struct Stored {
    name: String,
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: usize,
    bytes: usize,
}

impl Weights {
    /// Maps the files and reads their headers.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, WeightsError> {
        if paths.is_empty() {
            return Err(WeightsError::NoFile);
        }
        let mut weights = Weights { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let map = map(path)?;
            weights.add_header(path, &map)?;
            weights.files.push((path.clone(), Arc::new(map)));
        }
        Ok(weights)
    }

    /// Takes the tensor of this canonical name: a view of the map, in the type that it is stored in.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let Some(stored) = self.tensors.remove(name) else {
            let files = Files(self.files.iter().map(|(path, _)| path.clone()).collect());
            return Err(WeightsError::Missing { tensor: name.to_owned(), files }.into());
        };
        let (path, map) = &self.files[stored.file];
        if stored.shape != shape {
            let (found, expected) = (stored.shape, shape.to_vec());
            return Err(WeightsError::Shape { tensor: stored.name, file: path.clone(), found, expected }.into());
        }
        let kind = match stored.dtype {
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F16 => Kind::Half,
            Dtype::F32 => Kind::Float,
            other => {
                let found = format!("{other:?}");
                return Err(WeightsError::Dtype { tensor: stored.name, file: path.clone(), found }.into());
            }
        };
        let sizes: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let view = torch::tensor_over(map, stored.offset, stored.bytes, &sizes, kind)?;
        // A header of odd length, or numbers of different widths side by side, leave a tensor where its numbers may not lie.
        let aligned = (map.as_ptr() as usize + stored.offset).is_multiple_of(kind.elt_size_in_bytes());
        if aligned {
            return Ok(view);
        }
        let mut copy = view.f_empty_like()?;
        copy.f_copy_(&view)?;
        Ok(copy)
    }

    /// Says that all has been taken. Pages that were read only to be copied leave this process.
    pub(crate) fn finish(mut self) -> Result<(), WeightsError> {
        let others = self.tensors.len().saturating_sub(1);
        if let Some((_, stored)) = self.tensors.pop_first() {
            let file = self.files[stored.file].0.clone();
            return Err(WeightsError::Extra { tensor: stored.name, file, others });
        }
        for (path, map) in &self.files {
            // SAFETY: the map is of a file and is never written to; dropped pages are read again when they are needed.
            if let Err(error) = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) } {
                tracing::debug!(path = %path.display(), %error, "mapped pages stay");
            }
        }
        Ok(())
    }

    fn add_header(&mut self, path: &PathBuf, map: &Mmap) -> Result<(), WeightsError> {
        let corrupt = |cause| WeightsError::Corrupt { file: path.clone(), cause };
        let header = SafeTensors::deserialize(map).map_err(corrupt)?;
        let file = self.files.len();
        for (name, view) in header.iter() {
            let Some(canonical) = canonical(name) else { continue };
            let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().len());
            let offset = view.data().as_ptr() as usize - map.as_ptr() as usize;
            let stored = Stored { name: name.to_owned(), file, dtype, shape, offset, bytes };
            if let Some(first) = self.tensors.insert(canonical, stored) {
                let first_file = self.files.get(first.file).map_or(path, |(path, _)| path).clone();
                let (again, second) = (name.to_owned(), path.clone());
                return Err(WeightsError::Twice { tensor: first.name, first: first_file, again, second });
            }
        }
        Ok(())
    }
}

fn map(path: &PathBuf) -> Result<Mmap, WeightsError> {
    let read = |cause| WeightsError::Read { file: path.clone(), cause };
    let file = File::open(path).map_err(read)?;
    // SAFETY: a checkpoint is not changed while it is in use; whoever truncates it ends this process, and no other.
    unsafe { Mmap::map(&file) }.map_err(read)
}

/// The name by which a tensor is taken: without the wrapper's `plm_model.`, and under `mha_pma.` without whatever the
/// pooling's inner module was called. None for the tensors that the model never reads.
fn canonical(name: &str) -> Option<String> {
    let name = name.strip_prefix("plm_model.").unwrap_or(name);
    if name.starts_with("lm_head.") || name.ends_with("rotary_emb.inv_freq") {
        return None;
    }
    if let Some(inner) = name.strip_prefix("mha_pma.") {
        let parts: Vec<&str> = inner.split('.').collect();
        let own = match parts.as_slice() {
            [.., "S"] => Some("S".to_owned()),
            [.., module @ ("fc_q" | "fc_k" | "fc_v" | "fc_o" | "ln0" | "ln1"), leaf] => {
                Some(format!("{module}.{leaf}"))
            }
            _ => None,
        };
        if let Some(own) = own {
            return Some(format!("mha_pma.{own}"));
        }
    }
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_wrappings_are_one_and_the_head_is_nobodys() {
        let known = |name| canonical(name).expect("a tensor that is read");
        assert_eq!(known("plm_model.model.norm.weight"), known("model.norm.weight"));
        assert_eq!(known("mha_pma.mab.fc_q.bias"), "mha_pma.fc_q.bias");
        assert_eq!(known("mha_pma.mab_post.inner.ln0.weight"), known("mha_pma.ln0.weight"));
        assert_eq!(known("mha_pma.S"), "mha_pma.S");
        assert_eq!(known("mha_pma.mab.fc_x.bias"), "mha_pma.mab.fc_x.bias");
        assert_eq!(canonical("plm_model.lm_head.weight"), None);
        assert_eq!(canonical("plm_model.model.layers.3.self_attn.rotary_emb.inv_freq"), None);
    }
}

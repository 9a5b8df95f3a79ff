//! Every way in which weights can be wrong is told by name; every layout in which they may come makes the same model.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Stored, checkpoint, largest_difference, tiny, write};
use gristmill_job::{Compute, ModelConfig, Residual};
use gristmill_model::{Batch, Device, Error, Model, Options, WeightsError};
use safetensors::Dtype;

const OPTIONS: Options =
    Options { compute: Compute::F32, residual: Residual::Projected, normalise: true, threads: 1, device: Device::Cpu };

fn vector(config: &ModelConfig, files: &[PathBuf], options: &Options) -> Vec<f32> {
    let model = Model::load(config, files, options).unwrap();
    model.encode(&Batch { ids: vec![9, 8, 7, 6, 5, 4], lengths: vec![4, 2] }).unwrap()
}

fn vector_of(tensors: &[Stored], files: usize) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    vector(&tiny(), &write(dir.path(), tensors, files), &OPTIONS)
}

/// Products of matrices that lie at other addresses add up in another order.
#[track_caller]
fn assert_same(expected: &[f32], found: &[f32]) {
    let difference = largest_difference(expected, found);
    assert!(difference < 1e-6, "{difference}");
}

fn refusal(files: &[PathBuf]) -> WeightsError {
    match Model::load(&tiny(), files, &OPTIONS) {
        Err(Error::Weights(error)) => error,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("loaded"),
    }
}

fn refusal_of(tensors: &[Stored]) -> WeightsError {
    let dir = tempfile::tempdir().unwrap();
    refusal(&write(dir.path(), tensors, 2))
}

fn position(tensors: &[Stored], end: &str) -> usize {
    tensors.iter().position(|t| t.name.ends_with(end)).unwrap()
}

#[test]
fn one_file_or_several_are_the_same_model() {
    let tensors = checkpoint(&tiny(), Dtype::F32, 1);
    assert_same(&vector_of(&tensors, 1), &vector_of(&tensors, 5));
}

#[test]
fn the_wrappers_names_may_be_absent_or_other() {
    let tensors = checkpoint(&tiny(), Dtype::F32, 1);
    let renamed = |rename: &dyn Fn(&str) -> String| -> Vec<Stored> {
        tensors.iter().map(|t| Stored { name: rename(&t.name), ..t.clone() }).collect()
    };
    let expected = vector_of(&tensors, 1);
    assert_same(&expected, &vector_of(&renamed(&|name| name.replace("plm_model.", "")), 1));
    assert_same(&expected, &vector_of(&renamed(&|name| name.replace(".mab.", ".mab_post_v2.")), 1));
    assert_same(&expected, &vector_of(&renamed(&|name| name.replace(".mab.", ".")), 1));
}

#[test]
fn the_language_model_head_and_stored_frequencies_are_never_read() {
    let mut tensors = checkpoint(&tiny(), Dtype::F32, 1);
    let expected = vector_of(&tensors, 1);
    for name in ["plm_model.lm_head.weight", "plm_model.model.layers.0.self_attn.rotary_emb.inv_freq"] {
        tensors.insert(0, Stored::new(name, Dtype::F64, &[3], &[f32::NAN; 3]));
    }
    assert_same(&expected, &vector_of(&tensors, 2));
}

#[test]
fn every_stored_type_loads_for_every_arithmetic() {
    let expected = vector_of(&checkpoint(&tiny(), Dtype::F32, 1), 1);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), &checkpoint(&tiny(), dtype, 1), 1);
        for compute in [Compute::F32, Compute::Bf16] {
            let found = vector(&tiny(), &files, &Options { compute, ..OPTIONS });
            for (a, b) in expected.chunks(64).zip(found.chunks(64)) {
                let cosine: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                assert!(cosine > 0.999, "{dtype:?} as {compute}: {cosine}");
            }
        }
    }
}

#[test]
fn numbers_that_lie_askew_in_the_file_are_read_all_the_same() {
    let mut tensors = checkpoint(&tiny(), Dtype::F32, 1);
    let expected = vector_of(&tensors, 1);
    // Safetensors puts wider types first, so an odd number of bf16 can only come before float32 by hand.
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let odd = Stored::new("plm_model.lm_head.weight", Dtype::BF16, &[3], &[0.0; 3]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    write_in_order(&path, std::iter::once(&odd).chain(&tensors));
    assert_same(&expected, &vector(&tiny(), &[path], &OPTIONS));
}

fn write_in_order<'a>(path: &Path, tensors: impl Iterator<Item = &'a Stored>) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for t in tensors {
        let offsets = [data.len(), data.len() + t.bytes.len()];
        let info = serde_json::json!({"dtype": t.dtype.to_string(), "shape": t.shape, "data_offsets": offsets});
        header.insert(t.name.clone(), info);
        data.extend_from_slice(&t.bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

#[test]
fn a_missing_tensor_is_named() {
    for name in ["model.layers.1.self_attn.k_proj.bias", "model.embed_tokens.weight", "S", "ln1.bias", "fc_k.bias"] {
        let mut tensors = checkpoint(&tiny(), Dtype::F32, 1);
        tensors.remove(position(&tensors, name));
        let WeightsError::Missing { tensor, files } = refusal_of(&tensors) else { panic!("{name}") };
        assert!(tensor.ends_with(name) && files.0.len() == 2, "{tensor} {files}");
    }
}

#[test]
fn an_extra_tensor_is_named_with_its_file() {
    let mut tensors = checkpoint(&tiny(), Dtype::F32, 1);
    let extra = "plm_model.model.layers.2.input_layernorm.weight";
    tensors.push(Stored::new(extra, Dtype::F32, &[64], &[1.0; 64]));
    let WeightsError::Extra { tensor, file, others } = refusal_of(&tensors) else { panic!() };
    assert_eq!((tensor.as_str(), others), (extra, 0));
    assert!(file.ends_with(format!("model-0000{}-of-00002.safetensors", (tensors.len() - 1) % 2)));
}

#[test]
fn layer_norms_that_the_config_has_not_are_extra() {
    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), &checkpoint(&tiny(), Dtype::F32, 1), 1);
    let plain = ModelConfig { pma_ln: false, ..tiny() };
    let Err(Error::Weights(WeightsError::Extra { tensor, others, .. })) = Model::load(&plain, &files, &OPTIONS) else {
        panic!()
    };
    assert_eq!((tensor.as_str(), others), ("mha_pma.mab.ln0.bias", 3));
}

#[test]
fn a_tensor_given_twice_is_named_with_both_files() {
    let mut tensors = checkpoint(&tiny(), Dtype::F32, 1);
    tensors
        .push(Stored { name: "model.norm.weight".into(), ..tensors[position(&tensors, "model.norm.weight")].clone() });
    let error = refusal_of(&tensors);
    assert!(matches!(&error, WeightsError::Twice { tensor, again, .. } if tensor != again), "{error}");
}

#[test]
fn another_shape_is_named_with_what_was_expected() {
    let mut tensors = checkpoint(&tiny(), Dtype::F32, 1);
    let index = position(&tensors, "layers.0.mlp.down_proj.weight");
    tensors[index].shape.reverse();
    let WeightsError::Shape { tensor, found, expected, .. } = refusal_of(&tensors) else { panic!() };
    assert!(tensor.ends_with("layers.0.mlp.down_proj.weight"));
    assert_eq!((found, expected), (vec![96, 64], vec![64, 96]));
}

#[test]
fn another_type_is_named() {
    let mut tensors = checkpoint(&tiny(), Dtype::F32, 1);
    let index = position(&tensors, "ln0.weight");
    tensors[index] = Stored::new(&tensors[index].name.clone(), Dtype::F64, &[64], &[1.0; 64]);
    let WeightsError::Dtype { tensor, found, .. } = refusal_of(&tensors) else { panic!() };
    assert_eq!((tensor.as_str(), found.as_str()), ("mha_pma.mab.ln0.weight", "F64"));
}

#[test]
fn a_truncated_or_corrupt_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), &checkpoint(&tiny(), Dtype::F32, 1), 2);
    let whole = std::fs::read(&files[1]).unwrap();
    let mut no_json = whole.clone();
    no_json[8] = b'?';
    for bytes in [&whole[..whole.len() - 1], &whole[..100], &whole[..4], &[][..], &no_json, &[0xff; 64]] {
        std::fs::write(&files[1], bytes).unwrap();
        let error = refusal(&files);
        assert!(matches!(&error, WeightsError::Corrupt { file, .. } if *file == files[1]), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let gone = PathBuf::from("no-such-folder/model.safetensors");
    assert!(matches!(refusal(std::slice::from_ref(&gone)), WeightsError::Read { file, .. } if file == gone));
    assert!(matches!(refusal(&[]), WeightsError::NoFile));
}

//! What holds of vectors whatever the weights are.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Random, checkpoint, largest_difference, tiny, write};
use gristmill_job::{Compute, ModelConfig, Residual};
use gristmill_model::{BUCKET, Batch, BatchError, Device, Error, Model, Options, bucketed};
use proptest::prelude::*;
use safetensors::Dtype;

fn options(compute: Compute) -> Options {
    Options { compute, residual: Residual::Projected, normalise: true, threads: 1, device: Device::Cpu }
}

fn model(config: &ModelConfig, options: &Options, seed: u64) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), &checkpoint(config, Dtype::F32, seed), 1);
    Model::load(config, &files, options).unwrap()
}

fn batch(sequences: &[Vec<u32>]) -> Batch {
    Batch { ids: sequences.concat(), lengths: sequences.iter().map(|s| s.len() as u32).collect() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_text_alone_is_the_same_text_in_any_batch(
        seed in any::<u64>(),
        ratio in prop::sample::select(vec![1usize, 2, 4, 7]),
        kv_heads in 1usize..3,
        lengths in prop::collection::vec(prop_oneof![1usize..9, 60usize..70, 1usize..257], 1..9),
    ) {
        let heads = kv_heads * ratio;
        let config = ModelConfig { heads, kv_heads, hidden_size: heads * 16, ..tiny() };
        let config = ModelConfig { compressed_dim: 24, pma_heads: 3, ..config };
        let model = model(&config, &options(Compute::F32), seed);
        let mut random = Random(seed ^ 1);
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|&n| random.ids(n, config.vocab_size)).collect();
        let together = model.encode(&batch(&sequences)).unwrap();
        for (sequence, vector) in sequences.iter().zip(together.chunks(model.width())) {
            let alone = model.encode(&batch(std::slice::from_ref(sequence))).unwrap();
            prop_assert!(largest_difference(&alone, vector) <= 1e-5, "{} tokens", sequence.len());
        }
    }
}

#[test]
fn different_texts_differ_and_order_counts() {
    let model = model(&tiny(), &options(Compute::F32), 1);
    let sequences = [vec![1, 2, 3, 4], vec![1, 2, 3, 5], vec![4, 3, 2, 1]];
    let vectors = model.encode(&batch(&sequences)).unwrap();
    let vectors: Vec<&[f32]> = vectors.chunks(model.width()).collect();
    assert!(largest_difference(vectors[0], vectors[1]) > 1e-3);
    assert!(largest_difference(vectors[0], vectors[2]) > 1e-3);
}

#[test]
fn bfloat16_is_close_to_float32() {
    let config = ModelConfig { heads: 7, kv_heads: 1, hidden_size: 112, ..tiny() };
    let (wide, narrow) = (model(&config, &options(Compute::F32), 5), model(&config, &options(Compute::Bf16), 5));
    let mut random = Random(9);
    let sequences: Vec<Vec<u32>> = [1, 3, 64, 65, 250].iter().map(|&n| random.ids(n, config.vocab_size)).collect();
    let (a, b) = (wide.encode(&batch(&sequences)).unwrap(), narrow.encode(&batch(&sequences)).unwrap());
    for (x, y) in a.chunks(64).zip(b.chunks(64)) {
        let cosine: f32 = x.iter().zip(y).map(|(x, y)| x * y).sum();
        assert!(cosine > 0.999, "{cosine}");
    }
}

#[test]
fn vectors_have_norm_one_only_where_asked() {
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    let one = Batch { ids: vec![3, 1, 4], lengths: vec![3] };
    let unit = model(&tiny(), &options(Compute::F32), 7).encode(&one).unwrap();
    let plain = Options { normalise: false, ..options(Compute::F32) };
    let plain = model(&tiny(), &plain, 7).encode(&one).unwrap();
    assert!((norm(&unit) - 1.0).abs() < 1e-6);
    assert!((norm(&plain) - 1.0).abs() > 0.1);
    let scaled: Vec<f32> = plain.iter().map(|x| x / norm(&plain)).collect();
    assert!(largest_difference(&unit, &scaled) < 1e-6);
}

#[test]
fn the_residuals_are_two_different_models() {
    let one = Batch { ids: vec![3, 1, 4], lengths: vec![3] };
    let seed = Options { residual: Residual::Seed, ..options(Compute::F32) };
    let (projected, seed) = (model(&tiny(), &options(Compute::F32), 7), model(&tiny(), &seed, 7));
    assert!(largest_difference(&projected.encode(&one).unwrap(), &seed.encode(&one).unwrap()) > 1e-2);
}

#[test]
fn a_batch_that_cannot_be_encoded_is_refused_by_name() {
    let model = model(&tiny(), &options(Compute::F32), 1);
    let refused = |ids: Vec<u32>, lengths: Vec<u32>| match model.encode(&Batch { ids, lengths }) {
        Err(Error::Batch(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(vec![1, 2, 3], vec![2]), BatchError::Lengths { ids: 3, lengths: 2 });
    assert_eq!(refused(vec![1, 2], vec![1, 0, 1]), BatchError::Empty { sequence: 1 });
    assert_eq!(refused(vec![1, 211], vec![2]), BatchError::UnknownId { id: 211, vocab_size: 211 });
    let too_long = refused(vec![1; 258], vec![1, 257]);
    assert_eq!(too_long.to_string(), "sequence 1 of the batch has 257 tokens; the model has 256 positions");
    assert_eq!(model.encode(&Batch::default()).unwrap(), Vec::<f32>::new());
}

#[test]
fn totals_are_filled_up_to_the_bucket() {
    assert_eq!([0, 1, BUCKET, BUCKET + 1].map(bucketed), [0, BUCKET, BUCKET, 2 * BUCKET]);
    // A model with fewer positions than the fill has tokens still encodes.
    let config = ModelConfig { max_positions: 5, ..tiny() };
    let model = model(&config, &options(Compute::F32), 1);
    assert_eq!(model.encode(&Batch { ids: vec![1], lengths: vec![1] }).unwrap().len(), 64);
}

#[test]
fn the_self_test_passes_a_model_and_finds_broken_weights() {
    for compute in [Compute::F32, Compute::Bf16] {
        model(&tiny(), &options(compute), 2).self_test().unwrap();
    }
    let mut tensors = checkpoint(&tiny(), Dtype::F32, 2);
    let norm = tensors.iter_mut().find(|t| t.name.ends_with("model.norm.weight")).unwrap();
    norm.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), &tensors, 1);
    let broken = Model::load(&tiny(), &files, &options(Compute::F32)).unwrap();
    assert!(matches!(broken.self_test(), Err(Error::SelfTest(_))));
}

#[test]
fn a_model_moves_to_another_thread() {
    let model = model(&tiny(), &options(Compute::F32), 2);
    let one = Batch { ids: vec![3, 1, 4], lengths: vec![3] };
    let here = model.encode(&one).unwrap();
    let there = std::thread::spawn(move || model.encode(&one).unwrap()).join().unwrap();
    assert_eq!(here, there);
}

#[test]
fn devices_are_read_by_their_words() {
    assert_eq!("auto".parse::<Device>().unwrap(), Device::Cpu);
    assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
    let error = "tpu".parse::<Device>().unwrap_err();
    assert!(matches!(&error, Error::Device(text) if text.contains("tpu") && text.contains("cpu")), "{error}");
}

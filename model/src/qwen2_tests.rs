//! The decoder's parts against their formulas.

#![allow(clippy::unwrap_used)]

use crate::common::{Random, checkpoint, largest_difference, tiny, write};
use safetensors::Dtype;

use super::*;
use crate::batch::Batch;
use crate::torch::InferenceMode;

const CPU: Place = Place { device: tch::Device::Cpu, kind: Kind::Float };

fn random(shape: [i64; 3], random: &mut Random) -> Tensor {
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| random.number()).collect();
    Tensor::from_slice(&numbers).view(shape)
}

fn numbers(x: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(x.contiguous().view(-1)).unwrap()
}

#[test]
fn a_later_token_changes_no_earlier_state_and_no_other_sequence() {
    let _inference = InferenceMode::begin().unwrap();
    let config = tiny();
    let dir = tempfile::tempdir().unwrap();
    let mut weights = Weights::open(&write(dir.path(), &checkpoint(&config, Dtype::F32, 4), 1)).unwrap();
    let decoder = Qwen2::load(&mut weights, &config, CPU).unwrap();
    let states = |ids: Vec<u32>| {
        let packed = Packed::new(&Batch { ids, lengths: vec![5, 4] }, CPU.device).unwrap();
        decoder.forward(&packed).unwrap() // [64, hidden]
    };
    let (before, after) = (states(vec![1, 2, 3, 4, 5, 6, 7, 8, 9]), states(vec![1, 2, 3, 9, 5, 6, 7, 8, 9]));
    let difference = |start, length| {
        largest_difference(&numbers(&before.narrow(0, start, length)), &numbers(&after.narrow(0, start, length)))
    };
    assert_eq!(difference(0, 3), 0.0);
    assert!(difference(3, 1) > 0.1 && difference(4, 1) > 0.01);
    assert_eq!(difference(5, 4), 0.0);
}

#[test]
fn packed_attention_is_softmax_within_each_sequence_for_every_grouping() {
    let _inference = InferenceMode::begin().unwrap();
    let mut source = Random(11);
    for (heads, kv_heads, width) in [(2, 2, 16), (8, 2, 8), (14, 2, 64), (28, 4, 128), (3, 1, 6)] {
        let lengths = [1i64, 70, 3, 300];
        let tokens = lengths.iter().sum();
        let q = random([tokens, heads, width], &mut source);
        let (k, v) = (random([tokens, kv_heads, width], &mut source), random([tokens, kv_heads, width], &mut source));
        let cumulative = Tensor::from_slice(&[0i32, 1, 71, 74, 374]);
        let packed = torch::attention(&q, &k, &v, &lengths, &cumulative).unwrap();
        let mut start = 0;
        for length in lengths {
            let cut = |x: &Tensor| x.narrow(0, start, length).transpose(0, 1); // [heads, length, width]
            let repeated = |x: &Tensor| cut(x).repeat_interleave_self_int(heads / kv_heads, 0, None);
            let scores = cut(&q).matmul(&repeated(&k).transpose(1, 2)) / (width as f64).sqrt();
            let future = Tensor::ones([length, length], (Kind::Bool, CPU.device)).triu(1);
            let attention = scores.masked_fill(&future, f64::NEG_INFINITY).softmax(-1, Kind::Float);
            let expected = attention.matmul(&repeated(&v)).transpose(0, 1);
            let difference = largest_difference(&numbers(&packed.narrow(0, start, length)), &numbers(&expected));
            assert!(difference < 1e-5, "{heads}:{kv_heads} heads of {width}, {length} tokens: {difference}");
            start += length;
        }
    }
}

#[test]
fn each_pair_of_components_turns_by_its_own_angle() {
    let _inference = InferenceMode::begin().unwrap();
    let config = ModelConfig { hidden_size: 24, heads: 3, rope_theta: 100.0, ..tiny() };
    let x = random([2, 3, 8], &mut Random(3));
    let positions = Tensor::from_slice(&[0i64, 17]);
    let turned = Rotary::new(&config, CPU.device).unwrap().at(&positions).unwrap().rotate(&x).unwrap();
    let at = |x: &Tensor, token, head, i| x.double_value(&[token, head, i]);
    for (token, position) in [(0, 0.0), (1, 17.0)] {
        for (head, i) in (0..3).flat_map(|head| (0..4).map(move |i| (head, i))) {
            let (sin, cos) = (position / 100f64.powf(i as f64 / 4.0)).sin_cos();
            let (a, b) = (at(&x, token, head, i), at(&x, token, head, i + 4));
            assert!((at(&turned, token, head, i) - (a * cos - b * sin)).abs() < 1e-5);
            assert!((at(&turned, token, head, i + 4) - (b * cos + a * sin)).abs() < 1e-5);
        }
    }
}

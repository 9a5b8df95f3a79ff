//! Named sizes, and the `config.json` that goes with them.

use gristmill_job::ModelConfig;
use serde::Serialize;

use super::values::WeightType;

/// The names that [`Shape::named`] knows.
pub const SHAPES: [&str; 3] = ["c2llm-0.5b", "c2llm-7b", "tiny"];

/// The sizes of a model, and what of its layout follows from them no further.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The sizes.
    pub config: ModelConfig,
    /// Whether the files hold `plm_model.lm_head.weight`, which nothing reads, as those of C2LLM-7B do.
    pub language_head: bool,
    /// `tokenizer_name_or_path` in the config.
    pub tokenizer_name: String,
}

impl Shape {
    /// The shape of a name out of [`SHAPES`], for a tokenizer of so many ids. The embedding table has the published rows
    /// where the tokenizer fits into them; otherwise, and for `tiny`, one for each id, rounded up to a multiple of 128.
    pub fn named(name: &str, tokenizer_size: usize) -> Option<Shape> {
        let (language_head, tokenizer_name, published_rows) = match name {
            "c2llm-0.5b" => (false, "codefuse-ai/C2LLM-0.5B", 151_936),
            "c2llm-7b" => (true, "codefuse-ai/C2LLM-7B", 152_064),
            "tiny" => (false, "tiny", 0),
            _ => return None,
        };
        // Hidden and inner width, layers, query heads, key and value heads, pooling heads.
        let (hidden_size, intermediate_size, layers, heads, kv_heads, pma_heads) = match name {
            "c2llm-0.5b" => (896, 4864, 24, 14, 2, 32),
            "c2llm-7b" => (3584, 18_944, 28, 28, 4, 32),
            _ => (64, 192, 2, 4, 2, 4),
        };
        let config = ModelConfig {
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            vocab_size: if tokenizer_size <= published_rows {
                published_rows
            } else {
                tokenizer_size.next_multiple_of(128)
            },
            max_positions: 32_768,
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            compressed_dim: hidden_size,
            pma_heads,
            pma_ln: true,
        };
        Some(Shape { config, language_head, tokenizer_name: tokenizer_name.to_owned() })
    }

    /// The bytes of a `config.json` with exactly the published keys.
    pub fn config_json(&self, dtype: WeightType) -> Vec<u8> {
        let c = &self.config;
        let published = Published {
            architectures: ["C2LLMForEmbedding"],
            attention_dropout: 0.0,
            attn_implementation: "flash_attention_2",
            auto_map: AutoMap { config: "configuration_c2llm.C2LLMConfig", model: "modeling_c2llm.C2LLMForEmbedding" },
            compressed_dim: c.compressed_dim,
            dtype: dtype.torch(),
            embedding_method: "pma",
            hidden_act: "silu",
            hidden_size: c.hidden_size,
            initializer_range: 0.02,
            intermediate_size: c.intermediate_size,
            max_position_embeddings: c.max_positions,
            max_window_layers: c.layers,
            model_type: "c2llm",
            num_attention_heads: c.heads,
            num_hidden_layers: c.layers,
            num_key_value_heads: c.kv_heads,
            padding_side: "left",
            pma_ln: c.pma_ln,
            pma_norm: false,
            pma_norm_mode: "post_normal",
            pma_num_heads: c.pma_heads,
            rms_norm_eps: c.rms_norm_eps,
            rope_theta: c.rope_theta,
            sliding_window: None,
            tokenizer_name_or_path: &self.tokenizer_name,
            torch_dtype: dtype.torch(),
            transformers_version: "4.51.3",
            use_cache: true,
            use_sliding_window: false,
            vocab_size: c.vocab_size,
        };
        let mut json = serde_json::to_vec_pretty(&published).expect("a config is plain data");
        json.push(b'\n');
        json
    }
}

/// The keys in the order in which Hugging Face writes them, which is the alphabet's.
#[derive(Serialize)]
struct Published<'a> {
    architectures: [&'a str; 1],
    attention_dropout: f64,
    attn_implementation: &'a str,
    auto_map: AutoMap<'a>,
    compressed_dim: usize,
    dtype: &'a str,
    embedding_method: &'a str,
    hidden_act: &'a str,
    hidden_size: usize,
    initializer_range: f64,
    intermediate_size: usize,
    max_position_embeddings: usize,
    max_window_layers: usize,
    model_type: &'a str,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    padding_side: &'a str,
    pma_ln: bool,
    pma_norm: bool,
    pma_norm_mode: &'a str,
    pma_num_heads: usize,
    rms_norm_eps: f64,
    rope_theta: f64,
    sliding_window: Option<usize>,
    tokenizer_name_or_path: &'a str,
    torch_dtype: &'a str,
    transformers_version: &'a str,
    use_cache: bool,
    use_sliding_window: bool,
    vocab_size: usize,
}

#[derive(Serialize)]
struct AutoMap<'a> {
    #[serde(rename = "AutoConfig")]
    config: &'a str,
    #[serde(rename = "AutoModel")]
    model: &'a str,
}

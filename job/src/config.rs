//! A checkpoint's `config.json`, as C2LLM and its sisters write it. A known key with a value that Gristmill does not
//! support is refused by name; an unknown key is reported, since a new key may change the function.

use serde_json::{Map, Value};

/// A `config.json` that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("the config is not a JSON object: {0}")]
    NotJson(String),
    /// A key without which there is no model.
    #[error("the config lacks `{0}`")]
    Missing(&'static str),
    /// A key whose value is of another type.
    #[error("the config's `{key}` is {value}; {expected} is expected")]
    WrongType {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// A known key whose value asks for something that is not built.
    #[error("the config's `{key}` is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// The values that are.
        supported: String,
    },
}

/// The shape of a C2LLM model: a Qwen2 decoder with pooling by multi-head attention (PMA) on top.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the decoder's hidden states.
    pub hidden_size: usize,
    /// Inner width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Positions that the rotary embedding was made for.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Width of the pooled vector.
    pub compressed_dim: usize,
    /// Pooling heads; divides `compressed_dim`.
    pub pma_heads: usize,
    /// Whether pooling applies its two layer norms.
    pub pma_ln: bool,
}

/// A config and the keys in it that this version does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedConfig {
    /// The model's shape.
    pub config: ModelConfig,
    /// Keys without a meaning here, to be shown to a person and recorded.
    pub unknown: Vec<String>,
}

/// Keys that are read by nobody or cannot change the function: names, training, generation, where to find Python code.
const INERT: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "_attn_implementation",
    "_name_or_path",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "initializer_range",
    "max_window_layers",
    "model_type",
    "padding_side",
    "sliding_window",
    "tie_word_embeddings",
    "tokenizer_name_or_path",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

impl ModelConfig {
    /// Reads the bytes of a `config.json`.
    pub fn parse(json: &[u8]) -> Result<ParsedConfig, ConfigError> {
        let value: Value = serde_json::from_slice(json).map_err(|e| ConfigError::NotJson(e.to_string()))?;
        let Value::Object(map) = value else {
            return Err(ConfigError::NotJson("it is another JSON value".into()));
        };
        let mut keys = Keys { map: &map, read: INERT.to_vec() };
        let config = keys.model()?;
        keys.refuse_what_is_not_built()?;
        config.check()?;
        let unknown = map.keys().filter(|key| !keys.read.contains(&key.as_str())).cloned().collect();
        Ok(ParsedConfig { config, unknown })
    }

    /// Width of one query, key or value head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Parameters in the decoder and the pooling.
    pub fn parameters(&self) -> usize {
        let (d, c, kv) = (self.hidden_size, self.compressed_dim, self.kv_heads * self.head_dim());
        let attention = 2 * d * d + d + 2 * (kv * d + kv);
        let layer = attention + 3 * d * self.intermediate_size + 2 * d;
        let layer_norms = if self.pma_ln { 4 * c } else { 0 };
        let pooling = 2 * (c * c + c) + 2 * (d * c + c) + layer_norms + c;
        self.vocab_size * d + self.layers * layer + d + pooling
    }

    /// Floating-point operations per token in the decoder's matrix products (two per multiply-add), without attention.
    pub fn flops_per_token(&self) -> f64 {
        let (d, kv) = (self.hidden_size, self.kv_heads * self.head_dim());
        2.0 * (self.layers * (2 * d * d + 2 * kv * d + 3 * d * self.intermediate_size)) as f64
    }

    fn check(&self) -> Result<(), ConfigError> {
        let unsupported = |key, value: usize, supported: String| {
            Err(ConfigError::Unsupported { key, value: value.to_string(), supported })
        };
        if self.heads == 0 || !self.hidden_size.is_multiple_of(self.heads) || !self.head_dim().is_multiple_of(2) {
            return unsupported(
                "num_attention_heads",
                self.heads,
                "heads of an even width that fill hidden_size".into(),
            );
        }
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return unsupported("num_key_value_heads", self.kv_heads, "a divisor of num_attention_heads".into());
        }
        if self.pma_heads == 0 || !self.compressed_dim.is_multiple_of(self.pma_heads) {
            return unsupported("pma_num_heads", self.pma_heads, format!("a divisor of {}", self.compressed_dim));
        }
        if self.layers == 0 {
            return unsupported("num_hidden_layers", 0, "at least 1".into());
        }
        Ok(())
    }
}

struct Keys<'a> {
    map: &'a Map<String, Value>,
    read: Vec<&'static str>,
}

impl Keys<'_> {
    fn model(&mut self) -> Result<ModelConfig, ConfigError> {
        let hidden_size = self.count("hidden_size")?;
        let heads = self.count("num_attention_heads")?;
        let layers = self.count("num_hidden_layers")?;
        let kept = self.optional_count("keep_max_layer")?;
        if kept.is_some_and(|kept| kept > layers) {
            return self.unsupported("keep_max_layer", &format!("at most {layers}"));
        }
        let compressed_dim = match self.optional_count("compressed_dim")? {
            Some(width) => Some(width),
            None => self.optional_count("compress_dim")?,
        };
        if self.optional_count("head_dim")?.is_some_and(|width| width * heads != hidden_size) {
            return self.unsupported("head_dim", "hidden_size / num_attention_heads");
        }
        Ok(ModelConfig {
            hidden_size,
            intermediate_size: self.count("intermediate_size")?,
            layers: kept.unwrap_or(layers),
            heads,
            kv_heads: self.optional_count("num_key_value_heads")?.unwrap_or(heads),
            vocab_size: self.count("vocab_size")?,
            max_positions: self.optional_count("max_position_embeddings")?.unwrap_or(32_768),
            rope_theta: self.number("rope_theta")?.unwrap_or(10_000.0),
            rms_norm_eps: self.number("rms_norm_eps")?.unwrap_or(1e-6),
            compressed_dim: compressed_dim.unwrap_or(hidden_size),
            pma_heads: self.count("pma_num_heads")?,
            pma_ln: self.flag("pma_ln")?.unwrap_or(true),
        })
    }

    fn refuse_what_is_not_built(&mut self) -> Result<(), ConfigError> {
        self.only("model_type", &["c2llm"])?;
        self.only("embedding_method", &["pma"])?;
        self.only("hidden_act", &["silu"])?;
        self.only("pma_norm_mode", &["post_normal"])?;
        if self.flag("pma_norm")? == Some(true) {
            return self.unsupported("pma_norm", "false");
        }
        if self.flag("use_sliding_window")? == Some(true) {
            return self.unsupported("use_sliding_window", "false");
        }
        if !self.value("rope_scaling").is_null() {
            return self.unsupported("rope_scaling", "null");
        }
        let full = |kind: &Value| kind == "full_attention";
        let layer_types = self.value("layer_types");
        if !layer_types.is_null() && !layer_types.as_array().is_some_and(|kinds| kinds.iter().all(full)) {
            return self.unsupported("layer_types", "full_attention in every layer");
        }
        Ok(())
    }

    fn value(&mut self, key: &'static str) -> &Value {
        self.read.push(key);
        self.map.get(key).unwrap_or(&Value::Null)
    }

    fn count(&mut self, key: &'static str) -> Result<usize, ConfigError> {
        self.optional_count(key)?.ok_or(ConfigError::Missing(key))
    }

    fn optional_count(&mut self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a whole number above zero", |v| v.as_u64().filter(|n| (1..1 << 32).contains(n)))
            .map(|n| n.map(|n| n as usize))
    }

    fn number(&mut self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        self.typed(key, "a number above zero", |v| v.as_f64().filter(|n| *n > 0.0 && n.is_finite()))
    }

    fn flag(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn only(&mut self, key: &'static str, supported: &[&str]) -> Result<(), ConfigError> {
        match self.typed(key, "a string", |v| v.as_str().map(str::to_owned))? {
            Some(word) if !supported.contains(&word.as_str()) => self.unsupported(key, &supported.join(", ")),
            _ => Ok(()),
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.value(key) {
            Value::Null => Ok(None),
            value => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(ConfigError::WrongType { key, value: value.to_string(), expected }),
            },
        }
    }

    fn unsupported<T>(&mut self, key: &'static str, supported: &str) -> Result<T, ConfigError> {
        let value = self.value(key).to_string();
        Err(ConfigError::Unsupported { key, value, supported: supported.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published config of C2LLM-0.5B, complete.
    const PUBLISHED: &str = r#"{"architectures": ["C2LLMForEmbedding"], "model_type": "c2llm", "attention_dropout": 0.0,
        "attn_implementation": "flash_attention_2", "auto_map": {"AutoConfig": "configuration_c2llm.C2LLMConfig",
        "AutoModel": "modeling_c2llm.C2LLMForEmbedding"}, "compressed_dim": 896, "dtype": "bfloat16",
        "torch_dtype": "bfloat16", "embedding_method": "pma", "hidden_act": "silu", "hidden_size": 896,
        "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768,
        "max_window_layers": 24, "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "padding_side": "left", "pma_ln": true, "pma_norm": false, "pma_norm_mode": "post_normal",
        "pma_num_heads": 32, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": null,
        "tokenizer_name_or_path": "codefuse-ai/C2LLM-0.5B", "transformers_version": "4.51.3", "use_cache": true,
        "use_sliding_window": false, "vocab_size": 151936}"#;

    fn with(key: &str, value: Value) -> Result<ParsedConfig, ConfigError> {
        let mut config: Map<String, Value> = serde_json::from_str(PUBLISHED).expect("the published config is JSON");
        config.insert(key.into(), value);
        ModelConfig::parse(&serde_json::to_vec(&config).expect("plain data"))
    }

    #[test]
    fn the_published_config_is_understood_whole() {
        let parsed = ModelConfig::parse(PUBLISHED.as_bytes()).expect("the published config");
        assert!(parsed.unknown.is_empty(), "{:?}", parsed.unknown);
        assert_eq!(parsed.config.head_dim(), 64);
        // The parameter count of the published safetensors.
        assert_eq!(parsed.config.parameters(), 497_252_096);
    }

    #[test]
    fn the_large_shape_has_the_published_count_but_for_its_head() {
        let large = ModelConfig {
            hidden_size: 3584,
            intermediate_size: 18944,
            layers: 28,
            heads: 28,
            kv_heads: 4,
            vocab_size: 152_064,
            max_positions: 32_768,
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            compressed_dim: 3584,
            pma_heads: 32,
            pma_ln: true,
        };
        assert_eq!(large.parameters() + 152_064 * 3584, 7_667_028_992);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, value) in [
            ("pma_norm_mode", "pre_normal".into()),
            ("hidden_act", "gelu".into()),
            ("embedding_method", "mean".into()),
            ("model_type", "qwen3".into()),
            ("rope_scaling", serde_json::json!({"type": "yarn"})),
            ("use_sliding_window", true.into()),
            ("pma_norm", true.into()),
            ("num_key_value_heads", 3.into()),
            ("pma_num_heads", 5.into()),
            ("layer_types", serde_json::json!(["sliding_attention"])),
        ] {
            let error = with(key, value).expect_err(key);
            assert!(matches!(&error, ConfigError::Unsupported { key: named, .. } if *named == key), "{error}");
        }
        assert!(matches!(with("hidden_size", "wide".into()), Err(ConfigError::WrongType { .. })));
        assert_eq!(with("hidden_size", Value::Null), Err(ConfigError::Missing("hidden_size")));
    }

    #[test]
    fn an_unknown_key_is_reported_and_the_sisters_spelling_is_read() {
        assert_eq!(with("qk_norm", true.into()).expect("only unknown").unknown, ["qk_norm"]);
        let mut config: Map<String, Value> = serde_json::from_str(PUBLISHED).expect("JSON");
        config.remove("compressed_dim");
        config.insert("compress_dim".into(), 448.into());
        config.insert("keep_max_layer".into(), 20.into());
        let parsed = ModelConfig::parse(&serde_json::to_vec(&config).expect("plain data")).expect("the sisters' keys");
        assert_eq!((parsed.config.compressed_dim, parsed.config.layers), (448, 20));
    }
}

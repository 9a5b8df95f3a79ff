"""C2LLM in plain PyTorch, in float32: the reference that Gristmill's vectors are compared with.

The decoder is transformers' Qwen2Model; the pooling (PMA) is written as the paper has it, with two full projections of
every token. One text at a time, so there is no padding and no mask. It shares no code with the product.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import Qwen2Config, Qwen2Model


class Pma(nn.Module):
    """Pooling by multi-head attention with one seed, post-norm (arXiv 1810.00825, 2512.21332)."""

    def __init__(self, hidden: int, width: int, heads: int, norms: bool):
        super().__init__()
        self.S = nn.Parameter(torch.zeros(1, 1, width))
        self.fc_q = nn.Linear(width, width)
        self.fc_k = nn.Linear(hidden, width)
        self.fc_v = nn.Linear(hidden, width)
        self.fc_o = nn.Linear(width, width)
        self.ln0 = nn.LayerNorm(width) if norms else nn.Identity()
        self.ln1 = nn.LayerNorm(width) if norms else nn.Identity()
        self.heads = heads

    def forward(self, x: torch.Tensor, residual: str) -> torch.Tensor:
        """x: [tokens, hidden]; result: [width]."""
        width = self.S.shape[-1]
        seed = self.S[0]  # [1, width]
        q, k, v = self.fc_q(seed), self.fc_k(x), self.fc_v(x)  # [1, width], [tokens, width], [tokens, width]
        pooled = []
        for q_h, k_h, v_h in zip(*(y.chunk(self.heads, dim=1) for y in (q, k, v))):
            attention = torch.softmax(q_h @ k_h.T / width**0.5, dim=1)  # [1, tokens]: by the full width, not the head's
            pooled.append(attention @ v_h)  # [1, width / heads]
        o = {"projected": q, "seed": seed}[residual] + torch.cat(pooled, dim=1)  # [1, width]
        o = self.ln0(o)
        o = o + torch.relu(self.fc_o(o))
        return self.ln1(o)[0]


class C2LLM:
    """A checkpoint folder in the published layout: config.json, tokenizer.json, model*.safetensors."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        tensors = read_tensors(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        hidden = config["hidden_size"]
        width = config.get("compressed_dim") or config.get("compress_dim") or hidden
        self.pooling = Pma(hidden, width, config["pma_num_heads"], config.get("pma_ln", True)).eval()
        self.decoder = decoder(config)
        load(self.pooling, {name: t for name, t in tensors.items() if name.startswith("mha_pma.")}, pma_name)
        load(self.decoder, {name: t for name, t in tensors.items() if not name.startswith("mha_pma.")}, decoder_name)

    def ids(self, text: str, prompt: str, max_tokens: int) -> list[int]:
        """Prompt and text are one string; no special token is added; the cut is on the right."""
        return self.tokenizer.encode(prompt + text, add_special_tokens=False).ids[:max_tokens]

    @torch.inference_mode()
    def states(self, ids: list[int]) -> torch.Tensor:
        """The states behind the final norm: [tokens, hidden]."""
        return self.decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]

    @torch.inference_mode()
    def vector(self, states: torch.Tensor, residual: str) -> torch.Tensor:
        """The unit vector of one text: [width]."""
        return nn.functional.normalize(self.pooling(states, residual), dim=0, eps=1e-12)


def decoder(config: dict) -> Qwen2Model:
    """An empty decoder in float32, built as float32: a cast to bfloat16 and back would round the rotary frequencies."""
    names = ["vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
             "max_position_embeddings", "rms_norm_eps"]  # fmt: skip
    shape = Qwen2Config(
        **{name: config[name] for name in names},
        num_hidden_layers=config.get("keep_max_layer") or config["num_hidden_layers"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        use_sliding_window=False,
        attn_implementation="sdpa",
        dtype=torch.float32,
    )
    model = Qwen2Model(shape).eval()
    width = shape.hidden_size // shape.num_attention_heads
    exact = config["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    assert torch.allclose(model.rotary_emb.inv_freq.double(), exact, rtol=1e-6, atol=0), "rotary frequencies are rounded"
    return model


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = ["model.safetensors"]
    else:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors = {}
    for file in files:
        with safe_open(folder / file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name).float() for name in opened.keys()}
    return tensors


def pma_name(name: str) -> str:
    parts = name.split(".")
    return parts[-1] if parts[-1] == "S" else ".".join(parts[-2:])


def decoder_name(name: str) -> str | None:
    name = name.removeprefix("plm_model.")
    return None if name.startswith("lm_head.") else name.removeprefix("model.")


def load(module: nn.Module, tensors: dict[str, torch.Tensor], rename) -> None:
    """Strict: every parameter is given, and nothing else is."""
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    renamed.pop(None, None)
    module.load_state_dict(renamed, strict=True)

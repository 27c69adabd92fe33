"""Text decoder: one causal block with cross-attention that is BERT, GPT-2, BART or mBART. Read bottom up.
The families (Devlin et al. 2019; Radford et al. 2019; Lewis et al. 2020; Liu et al. 2020) are the decoder of
Vaswani et al. 2017 with a few knobs, each read in one class. Shapes: B batch, K beams (or targets) of one
utterance, T new tokens, P past tokens, S source frames, H hidden_size, N heads, D head_size, V vocab_size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.wav2vec2 import ACTIVATIONS, MLP, Attention


@dataclass(frozen=True)
class DecoderTraining:
    """Read in training mode only."""

    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0


@dataclass(frozen=True)
class DecoderConfig:
    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    norm_eps: float = 1e-5
    activation: str = "gelu"
    pad_token_id: int | None = 0  # its embedding is 0 and stays so
    init_std: float = 0.02
    training: DecoderTraining = DecoderTraining()
    pre_norm: bool = (
        False  # Block      x + f(norm(x)), and a last norm after the stack    GPT-2, mBART
    )
    embed_norm: bool = (
        True  # Embedding  a norm after the sum                               all but GPT-2
    )
    embed_scale: float = 1.0  # Embedding  sqrt(hidden_size)                                  mBART
    position_offset: int = (
        0  # Embedding  rows skipped in the position table: 2              BART, mBART
    )
    sinusoidal: bool = False  # Embedding  positions are computed, not learned                s2t
    num_token_types: int = 0  # Embedding  segments: 2, of which the first is used            BERT
    mlm_head: bool = False  # Head       dense, activation, norm; a bias at the output      BERT
    tied: bool = True  # Head       the output matrix is the embedding matrix          all but s2t

    @classmethod
    def bert(cls, vocab_size: int = 30522, **fields) -> "DecoderConfig":
        return cls(
            vocab_size, **({"norm_eps": 1e-12, "num_token_types": 2, "mlm_head": True} | fields)
        )

    @classmethod
    def gpt2(cls, vocab_size: int = 50257, **fields) -> "DecoderConfig":
        family = {
            "pre_norm": True,
            "embed_norm": False,
            "activation": "gelu_tanh",
            "pad_token_id": None,
        }
        return cls(vocab_size, **(family | {"max_positions": 1024} | fields))

    @classmethod
    def bart(cls, vocab_size: int = 50265, **fields) -> "DecoderConfig":
        family = {"position_offset": 2, "pad_token_id": 1, "max_positions": 1024, "num_layers": 6}
        return cls(vocab_size, **(family | fields))

    @classmethod
    def mbart(cls, vocab_size: int = 250054, hidden_size: int = 1024, **fields) -> "DecoderConfig":
        family = {
            "pre_norm": True,
            "embed_scale": hidden_size**0.5,
            "num_layers": 12,
            "num_heads": 16,
            "intermediate_size": 4096,
        }
        return cls.bart(vocab_size, hidden_size=hidden_size, **(family | fields))


class KVCache:
    """Keys and values of the tokens that one block has seen: room for `size` of them, `length` filled."""

    def __init__(self, rows: int, config: DecoderConfig, size: int, like: Tensor):
        shape = (rows, config.num_heads, size, config.hidden_size // config.num_heads)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)  # (B, N, size, D)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:  # 2 x (B, N, T, D)
        past, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, past : self.length] = keys
        self.values[:, :, past : self.length] = values
        return self.keys[:, :, : self.length], self.values[
            :, :, : self.length
        ]  # 2 x (B, N, P + T, D)

    def reorder(self, rows: Tensor) -> None:  # (B,)
        self.keys[:, :, : self.length] = self.keys[rows, :, : self.length]
        self.values[:, :, : self.length] = self.values[rows, :, : self.length]


def sinusoidal_positions(positions: Tensor, like: Tensor) -> Tensor:
    """Positions (T,) -> (T, H): sines, then cosines (tensor2tensor; Vaswani et al. 2017, 3.5, mixes them)."""
    half = like.shape[-1] // 2
    rates = torch.exp(
        torch.arange(half, device=like.device).float() * -(math.log(10000) / (half - 1))
    )
    angles = positions.float()[:, None] * rates  # (T, H / 2)
    waves = torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)  # (T, H)
    return F.pad(waves, (0, like.shape[-1] % 2))  # odd H: a 0 behind


class Embedding(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        rows = config.max_positions + config.position_offset
        self.positions = None if config.sinusoidal else nn.Embedding(rows, size)
        self.token_types = (
            nn.Embedding(config.num_token_types, size) if config.num_token_types else None
        )
        self.norm = nn.LayerNorm(size, config.norm_eps) if config.embed_norm else nn.Identity()
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def forward(self, tokens: Tensor, past: int) -> Tensor:  # (B, T)
        end = past + tokens.shape[1]
        if end > self.config.max_positions:
            raise ValueError(
                f"{end} tokens, but the decoder has {self.config.max_positions} positions"
            )
        positions = (
            torch.arange(past, end, device=tokens.device) + self.config.position_offset
        )  # (T,)
        x = self.tokens(tokens) * self.config.embed_scale  # (B, T, H)
        x = x + (
            sinusoidal_positions(positions, x)
            if self.positions is None
            else self.positions(positions)
        )
        if self.token_types is not None:
            x = x + self.token_types.weight[0]  # (B, T, H)
        return self.dropout(self.norm(x))


def causal_mask(T: int, past: int, device: torch.device) -> Tensor:
    """(T, past + T) bool: token t sees every past token, itself and the new tokens before it."""
    return torch.ones(T, past + T, dtype=torch.bool, device=device).tril(past)


class Block(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = Attention(config)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.cross_attn = Attention(config)
        self.cross_attn_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor],
        memory_mask: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:  # (B * K, T, H)
        if self.pre_norm:  # GPT-2, mBART
            x = x + self.attend_past(self.self_attn_norm(x), cache)
            x = x + self.attend_memory(self.cross_attn_norm(x), memory, memory_mask)
            x = x + self.mlp(self.mlp_norm(x))
        else:  # BERT, BART
            x = self.self_attn_norm(x + self.attend_past(x, cache))
            x = self.cross_attn_norm(x + self.attend_memory(x, memory, memory_mask))
            x = self.mlp_norm(x + self.mlp(x))
        return x  # (B * K, T, H)

    def attend_past(self, x: Tensor, cache: KVCache | None) -> Tensor:
        keys, values = self.self_attn.project_keys_values(x)  # 2 x (B * K, N, T, D)
        T, past = x.shape[1], 0 if cache is None else cache.length
        if cache is not None:
            keys, values = cache.append(keys, values)  # 2 x (B * K, N, P + T, D)
        mask = causal_mask(T, past, x.device) if past and T > 1 else None  # one new token sees all
        return self.self_attn(x, keys, values, mask, is_causal=T > 1 and not past)

    def attend_memory(
        self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """The K beams of an utterance stand in one row: its keys and values are never copied."""
        beams = x.reshape(memory[0].shape[0], -1, x.shape[2])  # (B, K * T, H)
        return self.cross_attn(beams, *memory, mask).view_as(x)  # (B * K, T, H)


class Head(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        size, mlm = config.hidden_size, config.mlm_head
        self.dense = nn.Linear(size, size) if mlm else nn.Identity()
        self.activation = ACTIVATIONS[config.activation] if mlm else nn.Identity()
        self.norm = nn.LayerNorm(size, config.norm_eps) if mlm else nn.Identity()
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, size))
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if mlm else None

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:  # (B, T, H), (V, H)
        x = self.norm(self.activation(self.dense(x)))  # (B, T, H)
        return F.linear(
            x, embeddings if self.weight is None else self.weight, self.bias
        )  # (B, T, V)


class Decoder(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = (
            nn.LayerNorm(config.hidden_size, config.norm_eps) if config.pre_norm else nn.Identity()
        )
        self.head = Head(config)

    def project_memory(self, memory: Tensor) -> list[tuple[Tensor, Tensor]]:  # (B, S, H)
        """Keys and values of the encoder's frames, a pair of (B, N, S, D) per block: once per utterance."""
        return [block.cross_attn.project_keys_values(memory) for block in self.blocks]

    def new_cache(self, rows: int, size: int) -> list[KVCache]:
        """Empty caches, one per block, for `rows` sequences of up to `size` tokens."""
        return [KVCache(rows, self.config, size, self.embed.tokens.weight) for _ in self.blocks]

    def forward(
        self,
        tokens: Tensor,
        memory: list[tuple[Tensor, Tensor]],
        memory_mask: Tensor | None = None,
        cache: list[KVCache] | None = None,
    ) -> Tensor:
        """Tokens (B * K, T), keys and values from `read`, real frames (B, 1, 1, S) -> logits (B * K, T, V).
        With a cache, `tokens` are the new ones only, and the cache grows by them."""
        x = self.embed(tokens, 0 if cache is None else cache[0].length)  # (B * K, T, H)
        for i, block in enumerate(self.blocks):
            x = block(x, memory[i], memory_mask, None if cache is None else cache[i])
        return self.head(self.norm(x), self.embed.tokens.weight)  # (B * K, T, V)

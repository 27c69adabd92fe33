"""Text decoder: one causal Transformer with cross-attention that is BERT, GPT-2, BART or mBART.

The families (Devlin et al. 2019; Radford et al. 2019; Lewis et al. 2020; Liu et al. 2020) are the decoder of
Vaswani et al. 2017 with a few knobs, each of which is read in one class. Smallest parts first: start with
`Decoder` at the end to see the data flow.

    tokens -> Embedding -> Blocks (self-attention, cross-attention, MLP) -> norm -> Head -> logits

The encoder's frames (the memory) enter as `cross_keys_values`, their projections in each block, which are
computed once for each utterance: see `Decoder.project_memory`.

Shapes: B utterances, K beams (or targets) of each, T new tokens, P past tokens, S encoder frames,
H hidden_size, N num_heads, D head_size, V vocab_size.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.wav2vec2 import ACTIVATIONS, MLP, Attention


@dataclass(frozen=True)
class DecoderTraining:
    """What only training reads: rates between 0 and 1."""

    hidden_dropout: float = 0.1  # Embedding, Attention, MLP
    attention_dropout: float = 0.1  # Attention
    activation_dropout: float = 0.0  # MLP


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and knobs of a decoder: any combination works, and the presets below are the official ones."""

    # Sizes.
    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    norm_eps: float = 1e-5
    # MLP and MLMTransform: "gelu", "gelu_tanh" (GPT-2) or "relu".
    activation: str = "gelu"
    # Embedding: the token whose embedding is zero and is not trained; None: there is no such token.
    pad_token_id: int | None = 0
    # initialize.py: the standard deviation of new matrices.
    init_std: float = 0.02
    training: DecoderTraining = DecoderTraining()
    # Block: x + f(norm(x)) instead of norm(x + f(x)). Decoder: one more norm at the end. GPT-2, mBART.
    pre_norm: bool = False
    # Embedding: a norm after the sum. All but GPT-2.
    embed_norm: bool = True
    # Embedding: the token embeddings are multiplied by it. mBART: sqrt(hidden_size).
    embed_scale: float = 1.0
    # Embedding: rows to skip at the beginning of the position table. BART, mBART: 2.
    position_offset: int = 0
    # Embedding: positions are computed instead of learned. Speech2Text2, some TrOCRs.
    sinusoidal: bool = False
    # Embedding: number of token types, of which the first is used. BERT: 2.
    num_token_types: int = 0
    # Head: a transform before the output matrix, and an output bias. BERT.
    mlm_head: bool = False
    # Head: the output matrix is the embedding matrix. All but Speech2Text2.
    tied: bool = True

    @classmethod
    def bert(cls, vocab_size: int = 30522, **changes) -> "DecoderConfig":
        """google-bert/bert-base-uncased; `changes` are fields."""
        config = cls(
            vocab_size=vocab_size,
            hidden_size=768,
            num_layers=12,
            num_heads=12,
            intermediate_size=3072,
            max_positions=512,
            norm_eps=1e-12,
            activation="gelu",
            pad_token_id=0,
            pre_norm=False,
            embed_norm=True,
            embed_scale=1.0,
            position_offset=0,
            sinusoidal=False,
            num_token_types=2,
            mlm_head=True,
            tied=True,
        )
        return replace(config, **changes)

    @classmethod
    def gpt2(cls, vocab_size: int = 50257, **changes) -> "DecoderConfig":
        """openai-community/gpt2; `changes` are fields."""
        config = cls(
            vocab_size=vocab_size,
            hidden_size=768,
            num_layers=12,
            num_heads=12,
            intermediate_size=3072,
            max_positions=1024,
            norm_eps=1e-5,
            activation="gelu_tanh",
            pad_token_id=None,
            pre_norm=True,
            embed_norm=False,
            embed_scale=1.0,
            position_offset=0,
            sinusoidal=False,
            num_token_types=0,
            mlm_head=False,
            tied=True,
        )
        return replace(config, **changes)

    @classmethod
    def bart(cls, vocab_size: int = 50265, **changes) -> "DecoderConfig":
        """facebook/bart-base; `changes` are fields."""
        config = cls(
            vocab_size=vocab_size,
            hidden_size=768,
            num_layers=6,
            num_heads=12,
            intermediate_size=3072,
            max_positions=1024,
            norm_eps=1e-5,
            activation="gelu",
            pad_token_id=1,
            pre_norm=False,
            embed_norm=True,
            embed_scale=1.0,
            position_offset=2,
            sinusoidal=False,
            num_token_types=0,
            mlm_head=False,
            tied=True,
        )
        return replace(config, **changes)

    @classmethod
    def mbart(cls, vocab_size: int = 250054, hidden_size: int = 1024, **changes) -> "DecoderConfig":
        """facebook/mbart-large-50; `changes` are fields. The scale of the embedding follows hidden_size."""
        config = cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=12,
            num_heads=16,
            intermediate_size=4096,
            max_positions=1024,
            norm_eps=1e-5,
            activation="gelu",
            pad_token_id=1,
            pre_norm=True,
            embed_norm=True,
            embed_scale=hidden_size**0.5,
            position_offset=2,
            sinusoidal=False,
            num_token_types=0,
            mlm_head=False,
            tied=True,
        )
        return replace(config, **changes)


class KVCache:
    """Keys and values of the past tokens of one block: room for `size` tokens, of which `length` are filled."""

    def __init__(self, rows: int, config: DecoderConfig, size: int, like: Tensor):
        """Make room for `rows` sequences, with the dtype and device of the tensor `like`."""
        head_size = config.hidden_size // config.num_heads
        shape = (rows, config.num_heads, size, head_size)
        self.keys = like.new_empty(shape)  # (B * K, N, size, D)
        self.values = like.new_empty(shape)  # (B * K, N, size, D)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B * K, N, T, D) of new tokens; return those of all tokens so far, as views."""
        start = self.length
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]  # (B * K, N, P + T, D) both

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue the tokens of the former row rows[i]; rows: (B * K,)."""
        self.keys[:, :, : self.length] = self.keys[rows, :, : self.length]
        self.values[:, :, : self.length] = self.values[rows, :, : self.length]


def sinusoidal_positions(positions: Tensor, like: Tensor) -> Tensor:
    """Compute embeddings (T, H) of positions (T,), with the width and dtype of the tensor `like`.

    First all sines, then all cosines, as in tensor2tensor; Vaswani et al. 2017, section 3.5, interleave them.
    """
    width = like.shape[-1]
    half = width // 2
    step = -math.log(10000) / (half - 1)
    rates = torch.exp(torch.arange(half, device=like.device).float() * step)  # (H / 2,)
    angles = positions.float()[:, None] * rates  # (T, H / 2)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (T, H)
    # An odd width ends in a zero.
    return F.pad(waves, (0, width % 2)).to(like.dtype)


class Embedding(nn.Module):
    """What the first block reads: the sum of token, position and token type, and a norm."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.positions = None
        if not config.sinusoidal:
            self.positions = nn.Embedding(config.max_positions + config.position_offset, size)
        self.token_types = None
        if config.num_token_types:
            self.token_types = nn.Embedding(config.num_token_types, size)
        self.norm = nn.Identity()
        if config.embed_norm:
            self.norm = nn.LayerNorm(size, config.norm_eps)
        self.dropout = nn.Dropout(config.training.hidden_dropout)

    def forward(self, tokens: Tensor, past_length: int) -> Tensor:
        """Embed new tokens (B, T) that follow `past_length` others: (B, T, H)."""
        end = past_length + tokens.shape[1]
        if end > self.config.max_positions:
            raise ValueError(
                f"{end} tokens, but the decoder has {self.config.max_positions} positions"
            )
        positions = torch.arange(past_length, end, device=tokens.device)  # (T,)
        positions = positions + self.config.position_offset

        x = self.tokens(tokens) * self.config.embed_scale  # (B, T, H)
        if self.positions is not None:
            x = x + self.positions(positions)
        else:
            x = x + sinusoidal_positions(positions, x)
        # All tokens are of the first type.
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return self.dropout(self.norm(x))  # (B, T, H)


def causal_mask(T: int, past_length: int, device: torch.device) -> Tensor:
    """Make a mask (T, past_length + T): True where new token t may look, at the past and at 0 ... t."""
    mask = torch.ones(T, past_length + T, dtype=torch.bool, device=device)
    return mask.tril(past_length)


class Block(nn.Module):
    """Causal self-attention, cross-attention and MLP, each with a norm and a residual connection."""

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
        cross_keys_values: tuple[Tensor, Tensor],
        memory_mask: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        """Turn x (B * K, T, H) into a tensor of the same shape.

        cross_keys_values: this block's keys and values of the memory, (B, N, S, D) both; memory_mask:
        (B, 1, 1, S) bool, True for real frames; cache: this block's past, to which the new tokens are added.
        """
        if self.pre_norm:  # GPT-2, mBART
            x = x + self.attend_past(self.self_attn_norm(x), cache)
            x = x + self.attend_memory(self.cross_attn_norm(x), cross_keys_values, memory_mask)
            x = x + self.mlp(self.mlp_norm(x))
        else:  # BERT, BART
            x = self.self_attn_norm(x + self.attend_past(x, cache))
            x = self.cross_attn_norm(x + self.attend_memory(x, cross_keys_values, memory_mask))
            x = self.mlp_norm(x + self.mlp(x))
        return x  # (B * K, T, H)

    def attend_past(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """Let each new token of x (B * K, T, H) look at the past tokens, at itself and at new ones before it."""
        T = x.shape[1]
        past_length = 0
        keys, values = self.self_attn.project_keys_values(x)  # (B * K, N, T, D) both
        if cache is not None:
            past_length = cache.length
            keys, values = cache.append(keys, values)  # (B * K, N, P + T, D) both

        # One new token: nothing comes after it, so nothing is masked.
        if T == 1:
            return self.self_attn(x, keys, values)

        # The whole text at once, as in training: the causal mask that attention knows itself.
        if past_length == 0:
            return self.self_attn(x, keys, values, is_causal=True)

        # Several new tokens after past ones: a causal mask that starts after the past.
        mask = causal_mask(T, past_length, x.device)  # (T, P + T)
        return self.self_attn(x, keys, values, mask)

    def attend_memory(
        self, x: Tensor, cross_keys_values: tuple[Tensor, Tensor], memory_mask: Tensor | None
    ) -> Tensor:
        """Let each token of x (B * K, T, H) look at the real frames of its utterance.

        Queries do not see each other. So the K beams of an utterance are laid one after another along the time
        axis, and share its keys and values, instead of copying them K times.
        """
        keys, values = cross_keys_values  # (B, N, S, D) both
        B, H = keys.shape[0], x.shape[2]
        folded = x.reshape(B, -1, H)  # (B, K * T, H)
        y = self.cross_attn(folded, keys, values, memory_mask)  # (B, K * T, H)
        return y.view_as(x)  # (B * K, T, H)


class MLMTransform(nn.Module):
    """What BERT's masked language modelling head does before the output matrix."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]()
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        return self.norm(self.activation(self.dense(x)))  # (B, T, H)


class Head(nn.Module):
    """From the last hidden states to logits over the vocabulary."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.transform = nn.Identity()
        self.weight = None
        self.bias = None
        if config.mlm_head:
            self.transform = MLMTransform(config)
            self.bias = nn.Parameter(torch.empty(config.vocab_size))
        if not config.tied:
            self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """Turn x (B, T, H) into logits (B, T, V). A tied head's matrix is `embeddings` (V, H)."""
        x = self.transform(x)  # (B, T, H)
        weight = embeddings if self.weight is None else self.weight  # (V, H)
        return F.linear(x, weight, self.bias)  # (B, T, V)


class Decoder(nn.Module):
    """Tokens and memory to logits: embedding, blocks, a last norm (if pre_norm), head."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.Identity()
        if config.pre_norm:
            self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.head = Head(config)

    def project_memory(self, memory: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Make each block's cross-attention keys and values, (B, N, S, D) both, of the memory (B, S, H).

        They do not depend on the tokens: compute them once for each utterance, and call `forward` often.
        """
        return [block.cross_attn.project_keys_values(memory) for block in self.blocks]

    def new_caches(self, rows: int, size: int) -> list[KVCache]:
        """Make empty caches, one for each block, for `rows` sequences of at most `size` tokens."""
        weight = self.embed.tokens.weight
        return [KVCache(rows, self.config, size, weight) for _ in self.blocks]

    def forward(
        self,
        tokens: Tensor,
        cross_keys_values: list[tuple[Tensor, Tensor]],
        memory_mask: Tensor | None = None,
        caches: list[KVCache] | None = None,
    ) -> Tensor:
        """Compute the logits (B * K, T, V) of the token after each of `tokens` (B * K, T).

        cross_keys_values: from `project_memory`; memory_mask: (B, 1, 1, S) bool, True for real frames, None if
        nothing is padded. With caches, `tokens` are the new ones only, and the caches grow by them.
        ValueError if there are more tokens than positions.
        """
        past_length = 0 if caches is None else caches[0].length
        x = self.embed(tokens, past_length)  # (B * K, T, H)
        for i, block in enumerate(self.blocks):
            cache = None if caches is None else caches[i]
            x = block(x, cross_keys_values[i], memory_mask, cache)  # (B * K, T, H)
        x = self.norm(x)
        return self.head(x, self.embed.tokens.weight)  # (B * K, T, V)

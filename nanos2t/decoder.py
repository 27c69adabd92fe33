"""Text decoder: one causal Transformer with cross-attention that is BERT, GPT-2, BART or mBART.

    tokens (B * K, T)
        -> Embedding: tokens and positions (B * K, T, H)
        -> Blocks: self-attention, cross-attention and MLP (B * K, T, H)
        -> norm: in the families with pre_norm
        -> Head: logits (B * K, T, V)

The file begins with the smallest parts. `Decoder`, at its end, shows how they work together.

All families are the decoder of Vaswani et al. (2017), with a few differences: BERT (Devlin et al.
2019), GPT-2 (Radford et al. 2019), BART (Lewis et al. 2020), mBART (Liu et al. 2020). The fields of
`DecoderConfig` say which. Official code: in transformers, modeling_bert.py, modeling_gpt2.py,
modeling_bart.py and modeling_mbart.py below models/.

A block does not get the memory (B, S, H), the encoder's output, but its cross_keys_values: the keys
and values for cross-attention. They are computed once for an utterance, and all of its beams and
steps share them.

Shapes: B utterances, K beams (or targets) of each, T new tokens, P past tokens, S frames of the
memory, H hidden_size, N num_heads, D head_size, V vocab_size.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.wav2vec2 import ACTIVATIONS, MLP, Attention, run_block


@dataclass(frozen=True)
class DecoderTraining:
    """Settings that only training uses: probabilities."""

    hidden_dropout: float = 0.1  # Embedding, Attention, MLP
    attention_dropout: float = 0.1  # Attention
    activation_dropout: float = 0.0  # MLP


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and variants of the decoder. Each preset below is the complete list of a family.

    The comment above a field names the class that reads it, and the families with another value.
    Any combination works.
    """

    # Attention, MLP, Block, Embedding: the sizes of the Transformer.
    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    norm_eps: float = 1e-5

    # MLP, MLMTransform. "gelu_tanh" in GPT-2, "relu" in Speech2Text2.
    activation: str = "gelu"

    # Embedding: a new row for this token is zero, and reading the token does not train it (the
    # output matrix does if it is tied). None in GPT-2, 1 in BART, mBART.
    pad_token_id: int | None = 0

    # initialize.py: the standard deviation of new matrices.
    init_std: float = 0.02

    # Embedding, Attention, MLP.
    training: DecoderTraining = DecoderTraining()

    # Block: norms before attention and MLP instead of after them; Decoder: then one more norm at
    # the end. True in GPT-2, mBART.
    pre_norm: bool = False

    # Embedding: whether it ends with a norm. False in GPT-2, Speech2Text2.
    embed_norm: bool = True

    # Embedding: the factor of token embeddings. sqrt(hidden_size) in mBART, Speech2Text2.
    embed_scale: float = 1.0

    # Embedding: the row of the position table for the first token. 2 in BART, mBART, RoBERTa.
    position_offset: int = 0

    # Embedding: positions are computed, not learned. True in Speech2Text2, in some models of TrOCR.
    sinusoidal: bool = False

    # Embedding: the number of token types, of which the first is used. 2 in BERT.
    num_token_types: int = 0

    # Head: whether it has an MLMTransform and a bias. True in BERT, RoBERTa.
    mlm_head: bool = False

    # Head: whether its matrix is that of the token embeddings. False in the models that say so in
    # their config.json (tie_word_embeddings).
    tied: bool = True

    @classmethod
    def bert(cls, vocab_size: int = 30522, **changes) -> "DecoderConfig":
        """Return google-bert/bert-base-uncased, with `changes` to any fields."""
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
        """Return openai-community/gpt2, with `changes` to any fields."""
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
        """Return the decoder of facebook/bart-base, with `changes` to any fields."""
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
        """Return the decoder of facebook/mbart-large-50, with `changes` to any fields.

        embed_scale follows from hidden_size.
        """
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
    """Keys and values of past tokens in the self-attention of one block.

    There is room for `size` tokens; the first `length` places are filled.
    """

    def __init__(self, rows: int, config: DecoderConfig, size: int, like: Tensor):
        """Make room for B * K = `rows` sequences, in the dtype and on the device of `like`."""
        head_size = config.hidden_size // config.num_heads
        shape = (rows, config.num_heads, size, head_size)
        self.keys = like.new_empty(shape)  # (B * K, N, size, D)
        self.values = like.new_empty(shape)  # (B * K, N, size, D)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B * K, N, T, D) of new tokens.

        Return those of all tokens so far, each (B * K, N, P + T, D), as views.
        """
        start = self.length
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reorder(self, rows: Tensor) -> None:
        """Give row i the tokens that row rows[i] had before.

        rows: (B * K,), or fewer: then there are fewer rows from now on.
        """
        keys = self.keys[rows, :, : self.length]  # (rows, N, P, D)
        values = self.values[rows, :, : self.length]  # (rows, N, P, D)
        self.keys = self.keys[: len(rows)]
        self.values = self.values[: len(rows)]
        self.keys[:, :, : self.length] = keys
        self.values[:, :, : self.length] = values


def sinusoidal_positions(positions: Tensor, like: Tensor) -> Tensor:
    """Compute embeddings (T, H) for positions (T,), in the width and dtype of the tensor `like`.

    All sines come first, then all cosines, as in tensor2tensor. In the paper (Vaswani et al. 2017,
    section 3.5) they alternate.
    """
    width = like.shape[-1]
    half = width // 2
    step = -math.log(10000) / (half - 1)
    rates = torch.exp(torch.arange(half, device=like.device).float() * step)  # (H / 2,)
    angles = positions.float()[:, None] * rates  # (T, H / 2)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (T, H)
    # An odd width ends with a zero.
    return F.pad(waves, (0, width % 2)).to(like.dtype)


class Embedding(nn.Module):
    """The sum of the embeddings of token, position and token type, and a norm."""

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
        """Return x (B * K, T, H) for new tokens (B * K, T) that come after `past_length` others.

        Raises ValueError if there are more tokens than positions.
        """
        end = past_length + tokens.shape[1]
        if end > self.config.max_positions:
            raise ValueError(
                f"{end} tokens, but the decoder has {self.config.max_positions} positions"
            )
        positions = torch.arange(past_length, end, device=tokens.device)  # (T,)
        positions = positions + self.config.position_offset

        x = self.tokens(tokens) * self.config.embed_scale  # (B * K, T, H)
        if self.positions is not None:
            x = x + self.positions(positions)
        else:
            x = x + sinusoidal_positions(positions, x)

        # All tokens are of the first type.
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return self.dropout(self.norm(x))  # (B * K, T, H)


def causal_mask(T: int, past_length: int, device: torch.device) -> Tensor:
    """Return a mask (T, past_length + T): True where a new token may look at a token.

    New token t may look at all past tokens and at the new tokens 0 ... t.
    """
    mask = torch.ones(T, past_length + T, dtype=torch.bool, device=device)
    return mask.tril(past_length)


class Block(nn.Module):
    """A decoder layer: causal self-attention, cross-attention and MLP.

    Each has a residual connection and a norm.
    """

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
        """Return x (B * K, T, H) after this block.

        cross_keys_values: this block's keys and values of the memory, each (B, N, S, D).
        memory_mask: (B, 1, 1, S) bool, True for real frames, or None if all are real.
        cache: this block's keys and values of past tokens; those of x are added. None: no past.
        """
        if self.pre_norm:  # GPT-2, mBART
            x = x + self.attend_tokens(self.self_attn_norm(x), cache)
            x = x + self.attend_memory(self.cross_attn_norm(x), cross_keys_values, memory_mask)
            x = x + self.mlp(self.mlp_norm(x))
        else:  # BERT, BART
            x = self.self_attn_norm(x + self.attend_tokens(x, cache))
            x = self.cross_attn_norm(x + self.attend_memory(x, cross_keys_values, memory_mask))
            x = self.mlp_norm(x + self.mlp(x))
        return x  # (B * K, T, H)

    def attend_tokens(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """Attend from each new token of x (B * K, T, H) to itself and to all tokens before it."""
        T = x.shape[1]
        past_length = 0
        keys, values = self.self_attn.project_keys_values(x)  # 2 x (B * K, N, T, D)
        if cache is not None:
            past_length = cache.length
            keys, values = cache.append(keys, values)  # 2 x (B * K, N, P + T, D)

        # Case 1, a step of a search. One new token is the last one, and may look at all.
        if T == 1:
            return self.self_attn(x, keys, values)

        # Case 2, training. The whole text is new: `attend` has this mask built in.
        if past_length == 0:
            return self.self_attn(x, keys, values, is_causal=True)

        # Case 3, for callers that pass several tokens to a cache; no search here does. They need a
        # mask of their own.
        mask = causal_mask(T, past_length, x.device)  # (T, P + T)
        return self.self_attn(x, keys, values, mask)

    def attend_memory(
        self, x: Tensor, cross_keys_values: tuple[Tensor, Tensor], memory_mask: Tensor | None
    ) -> Tensor:
        """Attend from each token of x (B * K, T, H) to the real frames of its utterance.

        In cross-attention, the queries of a row do not depend on each other. So the K beams of an
        utterance are folded into the time axis, into one row of K * T queries: they share the keys
        and values of the utterance, which are never copied K times.
        """
        keys, values = cross_keys_values  # 2 x (B, N, S, D)
        folded = x.reshape(len(keys), -1, x.shape[2])  # (B, K * T, H)
        y = self.cross_attn(folded, keys, values, memory_mask)  # (B, K * T, H)
        return y.view_as(x)  # (B * K, T, H)


class MLMTransform(nn.Module):
    """The layers of BERT's masked language modelling (MLM) head before its output matrix."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]()
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:  # (B * K, T, H)
        return self.norm(self.activation(self.dense(x)))  # (B * K, T, H)


class Head(nn.Module):
    """The output layer: logits over the vocabulary."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        # BERT's head has a transform and a bias, the others have only a matrix.
        self.transform = nn.Identity()
        self.bias = None
        if config.mlm_head:
            self.transform = MLMTransform(config)
            self.bias = nn.Parameter(torch.empty(config.vocab_size))

        # A tied head uses the matrix of the embeddings.
        self.weight = None
        if not config.tied:
            self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """Return logits (B * K, T, V) of x (B * K, T, H); embeddings: the decoder's, (V, H)."""
        x = self.transform(x)  # (B * K, T, H)
        weight = embeddings if self.weight is None else self.weight  # (V, H)
        return F.linear(x, weight, self.bias)  # (B * K, T, V)


class Decoder(nn.Module):
    """The text decoder: tokens (B * K, T) and the projected memory in, logits (B * K, T, V) out."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.recomputes_blocks = False  # see SpeechEncoderDecoder.gradient_checkpointing_enable
        self.embed = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

        # Only the output of a pre-norm block is not normalised yet.
        self.norm = nn.Identity()
        if config.pre_norm:
            self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

        self.head = Head(config)

    def project_memory(self, memory: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of each block's cross-attention for the memory (B, S, H).

        Each is (B, N, S, D). They do not depend on tokens: a search calls this once, and then
        `forward` at every step.
        """
        return [block.cross_attn.project_keys_values(memory) for block in self.blocks]

    def new_caches(self, rows: int, size: int) -> list[KVCache]:
        """Return an empty cache for each block: for B * K = `rows` sequences of `size` tokens."""
        weight = self.embed.tokens.weight
        return [KVCache(rows, self.config, size, weight) for _ in self.blocks]

    def forward(
        self,
        tokens: Tensor,
        cross_keys_values: list[tuple[Tensor, Tensor]],
        memory_mask: Tensor | None = None,
        caches: list[KVCache] | None = None,
    ) -> Tensor:
        """Return the logits (B * K, T, V) of the tokens that follow each of `tokens` (B * K, T).

        cross_keys_values: what `project_memory` returned for B utterances.
        memory_mask: (B, 1, 1, S) bool, True for real frames, or None if all are real.
        caches: what `new_caches` returned. `tokens` are the new ones then, and are added to them.
        Raises ValueError if there are more tokens than positions.
        """
        past_length = 0 if caches is None else caches[0].length
        x = self.embed(tokens, past_length)  # (B * K, T, H)
        recompute = self.training and self.recomputes_blocks
        for i, block in enumerate(self.blocks):
            cache = None if caches is None else caches[i]
            inputs = (x, cross_keys_values[i], memory_mask, cache)
            x = run_block(block, *inputs, recompute=recompute)  # (B * K, T, H)
        x = self.norm(x)
        return self.head(x, self.embed.tokens.weight)  # (B * K, T, V)

"""Decoders of transformers (HF) and ours with the same weights, and how far they are apart.

Our decoder gets K targets for each memory of a padded batch, HF each target and memory alone.
"""

from dataclasses import replace
from functools import cache
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from helpers.encoder_parity import largest, recorded
from helpers.pairs import ours_from, spread_, tiny_pair
from nanos2t import remap
from nanos2t.decoder import Decoder, DecoderConfig
from nanos2t.wav2vec2 import valid_frames

hf = pytest.importorskip("transformers")

# Every size is another number, so that no two dimensions can be confused.
SIZES = {
    "vocab_size": 43,
    "hidden_size": 35,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 51,
    "max_position_embeddings": 37,
    "layer_norm_eps": 1e-3,
}

# Variants of BERT: what is not as in SIZES. They are loaded as a part of a pair.
BERTS = {
    "bert": {},
    "bert, untied": {"tie_word_embeddings": False},
    "bert, relu, 3 types": {"hidden_act": "relu", "type_vocab_size": 3},
    "bert, gelu_tanh": {"hidden_act": "gelu_new", "type_vocab_size": 1},
}

# The configs of the other families, HF's and ours.
GPT2 = hf.GPT2Config(
    vocab_size=43,
    n_embd=35,
    n_layer=2,
    n_head=5,
    n_inner=51,
    n_positions=37,
    layer_norm_epsilon=1e-3,
    add_cross_attention=True,
    bos_token_id=1,
    eos_token_id=2,
)
BART = {
    "vocab_size": 43,
    "d_model": 35,
    "decoder_layers": 2,
    "decoder_attention_heads": 5,
    "decoder_ffn_dim": 51,
    "max_position_embeddings": 37,
    "pad_token_id": 1,
    "is_decoder": True,
    "add_cross_attention": True,
}
OURS = DecoderConfig(
    vocab_size=43,
    hidden_size=35,
    num_layers=2,
    num_heads=5,
    intermediate_size=51,
    max_positions=37,
    pad_token_id=1,
)

# The other variants: HF's class and config, our config.
OTHERS = {
    "gpt2": (
        hf.GPT2LMHeadModel,
        GPT2,
        replace(
            OURS,
            norm_eps=1e-3,
            activation="gelu_tanh",
            pre_norm=True,
            embed_norm=False,
            pad_token_id=None,
        ),
    ),
    "bart": (
        hf.BartForCausalLM,
        hf.BartConfig(**BART),
        replace(OURS, position_offset=2),
    ),
    "mbart": (
        hf.MBartForCausalLM,
        hf.MBartConfig(**BART, scale_embedding=True, activation_function="relu"),
        replace(OURS, activation="relu", pre_norm=True, embed_scale=35**0.5, position_offset=2),
    ),
    "bart, untied, scaled": (
        hf.BartForCausalLM,
        hf.BartConfig(**BART, scale_embedding=True, tie_word_embeddings=False),
        replace(OURS, embed_scale=35**0.5, position_offset=2, tied=False),
    ),
}

# Their weights, by tables of their own: these tests do not rely on weights_map.
GPT2_ROWS = """
    embed.tokens                        transformer.wte
    embed.positions                     transformer.wpe
    blocks.{i}.self_attn_norm           transformer.h.{i}.ln_1
    blocks.{i}.self_attn.{q,k,v}_proj   transformer.h.{i}.attn.c_attn               transpose
    blocks.{i}.self_attn.out_proj       transformer.h.{i}.attn.c_proj               transpose
    blocks.{i}.cross_attn_norm          transformer.h.{i}.ln_cross_attn
    blocks.{i}.cross_attn.q_proj        transformer.h.{i}.crossattention.q_attn     transpose
    blocks.{i}.cross_attn.{k,v}_proj    transformer.h.{i}.crossattention.c_attn     transpose
    blocks.{i}.cross_attn.out_proj      transformer.h.{i}.crossattention.c_proj     transpose
    blocks.{i}.mlp_norm                 transformer.h.{i}.ln_2
    blocks.{i}.mlp.up_proj              transformer.h.{i}.mlp.c_fc                  transpose
    blocks.{i}.mlp.down_proj            transformer.h.{i}.mlp.c_proj                transpose
    norm                                transformer.ln_f
    embed.tokens                        lm_head                                     alias
"""
BART_ROWS = """
    embed.tokens                        model.decoder.embed_tokens
    embed.positions                     model.decoder.embed_positions
    embed.norm                          model.decoder.layernorm_embedding
    blocks.{i}.self_attn                model.decoder.layers.{i}.self_attn
    blocks.{i}.self_attn_norm           model.decoder.layers.{i}.self_attn_layer_norm
    blocks.{i}.cross_attn               model.decoder.layers.{i}.encoder_attn
    blocks.{i}.cross_attn_norm          model.decoder.layers.{i}.encoder_attn_layer_norm
    blocks.{i}.mlp.up_proj              model.decoder.layers.{i}.fc1
    blocks.{i}.mlp.down_proj            model.decoder.layers.{i}.fc2
    blocks.{i}.mlp_norm                 model.decoder.layers.{i}.final_layer_norm
    norm                                model.decoder.layer_norm
    head                                lm_head
    embed.tokens                        lm_head                                     alias
"""

VARIANTS = [*BERTS, *OTHERS]
every_variant = pytest.mark.parametrize("variant", VARIANTS)

# The real frames of each memory in the batch.
FRAMES = 11, 7, 1

# Targets for each memory.
K = 2

# Tokens of each target.
T = 9


@cache
def decoders(variant: str) -> tuple[nn.Module, Decoder]:
    """HF's decoder and ours with the same spread weights, in eval mode.

    All tests get the same two.
    """
    if variant in BERTS:
        theirs = tiny_pair(decoder={**SIZES, **BERTS[variant]})
        with TemporaryDirectory() as folder:
            return theirs.decoder, ours_from(theirs, folder).decoder

    model_class, their_config, our_config = OTHERS[variant]
    theirs = spread_(model_class(their_config).double().eval())
    ours = Decoder(our_config).double().eval()
    state = remap.import_state(rows(variant), theirs.state_dict(), ours.state_dict())
    ours.load_state_dict(state)
    return theirs, ours


def rows(variant: str) -> list[remap.TensorRow]:
    """The table of a variant's weights."""
    if variant in BERTS:
        return remap.read_table("bert").tensors
    text = GPT2_ROWS if variant == "gpt2" else BART_ROWS
    table = []
    for line in text.strip().splitlines():
        table += remap.parse_tensor_rows(line.split())
    return table


def tokens_and_memory(config: DecoderConfig, repeats: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B * K, T), memory (B, S, H) whose padding is zero, mask (B, 1, 1, S)."""
    tokens = torch.randint(config.vocab_size, (len(FRAMES) * repeats, T))
    memory = torch.randn(len(FRAMES), max(FRAMES), config.hidden_size, dtype=torch.float64)
    valid = valid_frames(torch.tensor(FRAMES), max(FRAMES))
    memory = memory.masked_fill(~valid[:, :, None], 0.0)
    return tokens, memory, valid[:, None, None]


# Stages


def their_stages(decoder: nn.Module) -> dict[str, nn.Module]:
    last = {}
    if hasattr(decoder, "bert"):
        embed = decoder.bert.embeddings
        blocks = decoder.bert.encoder.layer
        last["head's transform"] = decoder.cls.predictions.transform
    elif hasattr(decoder, "transformer"):
        embed = decoder.transformer.drop
        blocks = decoder.transformer.h
        last["norm"] = decoder.transformer.ln_f
    else:
        embed = decoder.model.decoder.layernorm_embedding
        blocks = decoder.model.decoder.layers
        if hasattr(decoder.model.decoder, "layer_norm"):
            last["norm"] = decoder.model.decoder.layer_norm

    numbered = {f"block {i}": block for i, block in enumerate(blocks)}
    return {"embeddings": embed, **numbered, **last}


def our_stages(decoder: Decoder) -> dict[str, nn.Module]:
    last = {}
    if decoder.config.mlm_head:
        last["head's transform"] = decoder.head.transform
    if decoder.config.pre_norm:
        last["norm"] = decoder.norm
    numbered = {f"block {i}": block for i, block in enumerate(decoder.blocks)}
    return {"embeddings": decoder.embed, **numbered, **last}


# Differences


@torch.no_grad()
def stage_differences(variant: str) -> dict[str, float]:
    """Ours with K targets for each memory against HF alone, {stage: largest difference}."""
    theirs, ours = decoders(variant)
    tokens, memory, mask = tokens_and_memory(ours.config)
    with recorded(our_stages(ours)) as got:
        logits = ours(tokens, ours.project_memory(memory), mask)
    got["logits"] = logits

    differences = dict.fromkeys(got, 0.0)
    for i, row in enumerate(tokens):
        b = i // K
        with recorded(their_stages(theirs)) as wanted:
            item = memory[b : b + 1, : FRAMES[b]]
            output = theirs(input_ids=row[None], encoder_hidden_states=item)
        wanted["logits"] = output.logits
        assert wanted.keys() == got.keys()
        for name in got:
            differences[name] = max(differences[name], largest(got[name][i], wanted[name][0]))
    return differences


@torch.no_grad()
def leak_of_the_future(variant: str) -> float:
    """How much logits before a token move when it changes."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    cross_keys_values = ours.project_memory(memory)
    before = ours(tokens, cross_keys_values, mask)

    moved = 0.0
    for t in range(1, T):
        other = tokens.clone()
        other[:, t] = (other[:, t] + 1) % ours.config.vocab_size
        after = ours(other, cross_keys_values, mask)
        assert largest(after[:, t:], before[:, t:]) > 1e-2
        moved = max(moved, largest(after[:, :t], before[:, :t]))
    return moved


@torch.no_grad()
def cache_difference(variant: str, sizes: list[int]) -> float:
    """The largest difference between logits of cached chunks of these sizes, and of all at once."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    cross_keys_values = ours.project_memory(memory)
    caches = ours.new_caches(len(tokens), T)
    assert [layer.length for layer in caches] == [0] * len(ours.blocks)

    logits = []
    for chunk in tokens.split(sizes, dim=1):
        logits.append(ours(chunk, cross_keys_values, mask, caches))
    assert [layer.length for layer in caches] == [T] * len(ours.blocks)
    return largest(torch.cat(logits, dim=1), ours(tokens, cross_keys_values, mask))


@torch.no_grad()
def reorder_difference(variant: str) -> float:
    """Cached against uncached logits while beams go on from others: some twice, some not at all."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    cross_keys_values = ours.project_memory(memory)
    caches = ours.new_caches(len(tokens), T + 5)  # more room than is used

    worst = 0.0
    for t, parents in enumerate([[1, 0, 3, 3, 4, 5], [0, 0, 2, 3, 5, 4], [1, 0, 3, 2, 4, 4]] * 3):
        got = ours(tokens[:, t : t + 1], cross_keys_values, mask, caches)
        want = ours(tokens[:, : t + 1], cross_keys_values, mask)
        worst = max(worst, largest(got, want[:, -1:]))

        # Each row goes on with what its parent has read, and with its own next tokens.
        tokens = torch.cat([tokens[parents, : t + 1], tokens[:, t + 1 :]], dim=1)
        for block_cache in caches:
            block_cache.reorder(torch.tensor(parents))
    return worst


@torch.no_grad()
def leak_of_padding(variant: str) -> float:
    """How much logits move when padded frames of the memory change."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    other = memory.masked_fill(~mask[:, 0, 0, :, None], 1e3)
    before = ours(tokens, ours.project_memory(memory), mask)
    after = ours(tokens, ours.project_memory(other), mask)
    return largest(before, after)

"""Shared by tests."""

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


SIZES = {
    "vocab_size": 43, "hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5,
    "intermediate_size": 51, "max_position_embeddings": 37, "layer_norm_eps": 1e-3,
}  # fmt: skip


BERTS = {
    "bert": {},
    "bert, untied": {"tie_word_embeddings": False},
    "bert, relu, 3 types": {"hidden_act": "relu", "type_vocab_size": 3},
    "bert, gelu_tanh": {"hidden_act": "gelu_new", "type_vocab_size": 1},
}


GPT2 = hf.GPT2Config(
    vocab_size=43, n_embd=35, n_layer=2, n_head=5, n_inner=51, n_positions=37, layer_norm_epsilon=1e-3,
    add_cross_attention=True, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


BART = {
    "vocab_size": 43, "d_model": 35, "decoder_layers": 2, "decoder_attention_heads": 5,
    "decoder_ffn_dim": 51, "max_position_embeddings": 37, "pad_token_id": 1, "is_decoder": True,
    "add_cross_attention": True,
}  # fmt: skip


OURS = DecoderConfig(43, 35, 2, 5, 51, 37, pad_token_id=1)


OTHERS = {  # HF's class and config, our config
    "gpt2": (
        hf.GPT2LMHeadModel, GPT2,
        replace(OURS, norm_eps=1e-3, activation="gelu_tanh", pre_norm=True, embed_norm=False,
                pad_token_id=None),
    ),
    "bart": (hf.BartForCausalLM, hf.BartConfig(**BART), replace(OURS, position_offset=2)),
    "mbart": (
        hf.MBartForCausalLM,
        hf.MBartConfig(**BART, scale_embedding=True, activation_function="relu"),
        replace(OURS, activation="relu", pre_norm=True, embed_scale=35**0.5, position_offset=2),
    ),
    "bart, untied, scaled": (
        hf.BartForCausalLM, hf.BartConfig(**BART, scale_embedding=True, tie_word_embeddings=False),
        replace(OURS, embed_scale=35**0.5, position_offset=2, tied=False),
    ),
}  # fmt: skip


ROWS = """
    gpt2   embed.tokens                        transformer.wte
    gpt2   embed.positions                     transformer.wpe
    gpt2   blocks.{i}.self_attn_norm           transformer.h.{i}.ln_1
    gpt2   blocks.{i}.self_attn.{q,k,v}_proj   transformer.h.{i}.attn.c_attn               transpose
    gpt2   blocks.{i}.self_attn.out_proj       transformer.h.{i}.attn.c_proj               transpose
    gpt2   blocks.{i}.cross_attn_norm          transformer.h.{i}.ln_cross_attn
    gpt2   blocks.{i}.cross_attn.q_proj        transformer.h.{i}.crossattention.q_attn     transpose
    gpt2   blocks.{i}.cross_attn.{k,v}_proj    transformer.h.{i}.crossattention.c_attn     transpose
    gpt2   blocks.{i}.cross_attn.out_proj      transformer.h.{i}.crossattention.c_proj     transpose
    gpt2   blocks.{i}.mlp_norm                 transformer.h.{i}.ln_2
    gpt2   blocks.{i}.mlp.up_proj              transformer.h.{i}.mlp.c_fc                  transpose
    gpt2   blocks.{i}.mlp.down_proj            transformer.h.{i}.mlp.c_proj                transpose
    gpt2   norm                                transformer.ln_f
    gpt2   embed.tokens                        lm_head                                     alias
    bart   embed.tokens                        model.decoder.embed_tokens
    bart   embed.positions                     model.decoder.embed_positions
    bart   embed.norm                          model.decoder.layernorm_embedding
    bart   blocks.{i}.self_attn                model.decoder.layers.{i}.self_attn
    bart   blocks.{i}.self_attn_norm           model.decoder.layers.{i}.self_attn_layer_norm
    bart   blocks.{i}.cross_attn               model.decoder.layers.{i}.encoder_attn
    bart   blocks.{i}.cross_attn_norm          model.decoder.layers.{i}.encoder_attn_layer_norm
    bart   blocks.{i}.mlp.up_proj              model.decoder.layers.{i}.fc1
    bart   blocks.{i}.mlp.down_proj            model.decoder.layers.{i}.fc2
    bart   blocks.{i}.mlp_norm                 model.decoder.layers.{i}.final_layer_norm
    bart   norm                                model.decoder.layer_norm
    bart   head                                lm_head
    bart   embed.tokens                        lm_head                                     alias
"""


VARIANTS = [*BERTS, *OTHERS]


every_variant = pytest.mark.parametrize("variant", VARIANTS)


FRAMES = 11, 7, 1  # real frames of each memory


K, T = 2, 9  # targets for each, tokens


@cache
def decoders(variant: str) -> tuple[nn.Module, Decoder]:
    """HF's decoder and ours with the same spread weights, in eval mode; all tests get the same two."""
    if variant in BERTS:
        theirs = tiny_pair(decoder={**SIZES, **BERTS[variant]})
        with TemporaryDirectory() as folder:
            return theirs.decoder, ours_from(theirs, folder).decoder
    model, config, ours = OTHERS[variant]
    theirs, ours = spread_(model(config).double().eval()), Decoder(ours).double().eval()
    ours.load_state_dict(remap.import_state(rows(variant), theirs.state_dict(), ours.state_dict()))
    return theirs, ours


def rows(variant: str) -> list[remap.TensorRow]:
    if variant in BERTS:
        return remap.read_table("bert").tensors
    family = "gpt2" if variant == "gpt2" else "bart"
    lines = [line.split()[1:] for line in ROWS.splitlines() if line.split()[:1] == [family]]
    return [row for line in lines for row in remap.parse_tensor_rows(line)]


def tokens_and_memory(config: DecoderConfig, repeats: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B * K, T), memory (B, S, H) with zeros behind the end, mask (B, 1, 1, S)."""
    tokens = torch.randint(config.vocab_size, (len(FRAMES) * repeats, T))
    memory = torch.randn(len(FRAMES), max(FRAMES), config.hidden_size, dtype=torch.float64)
    valid = valid_frames(torch.tensor(FRAMES), max(FRAMES))
    return tokens, memory * valid[..., None], valid[:, None, None]


def their_stages(decoder: nn.Module) -> dict[str, nn.Module]:
    if hasattr(decoder, "bert"):
        embed, blocks = decoder.bert.embeddings, decoder.bert.encoder.layer
        last = {"head's transform": decoder.cls.predictions.transform}
    elif hasattr(decoder, "transformer"):
        embed, blocks = decoder.transformer.drop, decoder.transformer.h
        last = {"norm": decoder.transformer.ln_f}
    else:
        embed, blocks = decoder.model.decoder.layernorm_embedding, decoder.model.decoder.layers
        norm = getattr(decoder.model.decoder, "layer_norm", None)
        last = {} if norm is None else {"norm": norm}
    return {"embeddings": embed, **{f"block {i}": block for i, block in enumerate(blocks)}, **last}


def our_stages(decoder: Decoder) -> dict[str, nn.Module]:
    blocks = {f"block {i}": block for i, block in enumerate(decoder.blocks)}
    last = {"head's transform": decoder.head.transform} if decoder.config.mlm_head else {}
    return {
        "embeddings": decoder.embed,
        **blocks,
        **({"norm": decoder.norm} if decoder.config.pre_norm else last),
    }


@torch.no_grad()
def stage_differences(variant: str) -> dict[str, float]:
    """Ours with K targets for each memory of a batch against HF alone, {stage: largest difference}."""
    theirs, ours = decoders(variant)
    tokens, memory, mask = tokens_and_memory(ours.config)
    with recorded(our_stages(ours)) as got:
        logits = ours(tokens, ours.project_memory(memory), mask)
    got["logits"] = logits
    differences = dict.fromkeys(got, 0.0)
    for i, row in enumerate(tokens):
        b = i // K
        with recorded(their_stages(theirs)) as wanted:
            output = theirs(
                input_ids=row[None], encoder_hidden_states=memory[b : b + 1, : FRAMES[b]]
            )
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
    memory = ours.project_memory(memory)
    before, moved = ours(tokens, memory, mask), 0.0
    for t in range(1, T):
        other = tokens.clone()
        other[:, t] = (other[:, t] + 1) % ours.config.vocab_size
        after = ours(other, memory, mask)
        assert largest(after[:, t:], before[:, t:]) > 1e-2
        moved = max(moved, largest(after[:, :t], before[:, :t]))
    return moved


@torch.no_grad()
def cache_difference(variant: str, sizes: list[int]) -> float:
    """The largest difference between logits of chunks of these sizes, with a cache, and of all at once."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    memory = ours.project_memory(memory)
    cache = ours.new_caches(len(tokens), T)
    assert [layer.length for layer in cache] == [0] * len(ours.blocks)
    logits = [ours(chunk, memory, mask, cache) for chunk in tokens.split(sizes, dim=1)]
    assert [layer.length for layer in cache] == [T] * len(ours.blocks)
    return largest(torch.cat(logits, dim=1), ours(tokens, memory, mask))


@torch.no_grad()
def reorder_difference(variant: str) -> float:
    """Cached against uncached logits while beams go over into each other: some continue twice, some end."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    memory = ours.project_memory(memory)
    cache, worst = ours.new_caches(len(tokens), T + 5), 0.0  # more room than is used
    for t, parents in enumerate([[1, 0, 3, 3, 4, 5], [0, 0, 2, 3, 5, 4], [1, 0, 3, 2, 4, 4]] * 3):
        got = ours(tokens[:, t : t + 1], memory, mask, cache)
        worst = max(worst, largest(got, ours(tokens[:, : t + 1], memory, mask)[:, -1:]))
        tokens = torch.cat([tokens[parents, : t + 1], tokens[:, t + 1 :]], dim=1)
        for layer in cache:
            layer.reorder(torch.tensor(parents))
    return worst


@torch.no_grad()
def leak_of_padding(variant: str) -> float:
    """How much logits move when padded frames of the memory change."""
    ours = decoders(variant)[1]
    tokens, memory, mask = tokens_and_memory(ours.config)
    other = memory.masked_fill(~mask[:, 0, 0, :, None], 1e3)
    return largest(
        ours(tokens, ours.project_memory(memory), mask),
        ours(tokens, ours.project_memory(other), mask),
    )

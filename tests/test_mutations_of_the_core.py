# pytest -m slow tests/test_mutations_of_the_core.py
"""Do the parity tests notice mistakes? Break a function of the core: its difference must be large.

Each mistake is made by a function that patches the core for one test. With the weights of a new
model (std 0.02) most of them would change the numbers by less than 1e-3: that is why the helpers of
the parity tests spread the weights. test_mutations.py breaks lines of the source instead.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import decoder_parity, encoder_parity, model_parity
from helpers.encoder_parity import TOLERANCE
from pytest import MonkeyPatch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import decoder, wav2vec2
from nanos2t import model as nanos2t_model

pytestmark = pytest.mark.slow

# A mistake moves the numbers by more than this; a right model is below TOLERANCE.
FAR = 1e-3


# Checks: each returns the largest difference that a parity test would find.


def check_encoder(variant: str) -> float:
    return max(encoder_parity.stage_differences(variant).values())


def check_decoder(variant: str) -> float:
    return max(decoder_parity.stage_differences(variant).values())


def check_model(pair: str) -> float:
    return max(model_parity.differences(pair).values())


def check_encoder_batch(variant: str) -> float:
    return encoder_parity.batch_difference(variant)


def check_future(variant: str) -> float:
    return decoder_parity.leak_of_the_future(variant)


def check_padding(variant: str) -> float:
    return decoder_parity.leak_of_padding(variant)


def check_reorder(variant: str) -> float:
    return decoder_parity.reorder_difference(variant)


def check_cache(variant: str) -> float:
    """Feed nine tokens in chunks of several sizes to a decoder with a cache."""
    chunk_sizes = ([1] * 9, [2, 2, 2, 2, 1], [3, 3, 3])
    return max(decoder_parity.cache_difference(variant, sizes) for sizes in chunk_sizes)


# Mistakes of attention


def attend_with(patch: MonkeyPatch, change: Callable) -> None:
    """Give attention the mask that `change(queries, keys, mask, is_causal)` returns."""
    attend = wav2vec2.attend

    def broken(queries, keys, values, mask=None, is_causal=False, dropout=0.0):
        mask = change(queries, keys, mask, is_causal)
        return attend(queries, keys, values, mask, False, dropout)

    patch.setattr(wav2vec2, "attend", broken)


def tril_mask(queries: Tensor, keys: Tensor, diagonal: int) -> Tensor:
    """Return a mask (T, S) that is True up to this diagonal."""
    return torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool).tril(diagonal)


def no_causal_mask(patch):
    def change(queries, keys, mask, is_causal):
        return mask

    attend_with(patch, change)


def mask_peeks_one_ahead(patch):
    def change(queries, keys, mask, is_causal):
        return tril_mask(queries, keys, 1) if is_causal else mask

    attend_with(patch, change)


def no_key_mask(patch):
    def change(queries, keys, mask, is_causal):
        return tril_mask(queries, keys, 0) if is_causal else None

    attend_with(patch, change)


def mask_of_a_chunk_peeks_one_ahead(patch):
    def broken(T, past_length, device):
        return torch.ones(T, past_length + T).bool().tril(past_length + 1)

    patch.setattr(decoder, "causal_mask", broken)


def mask_of_a_chunk_forgets_the_past(patch):
    def broken(T, past_length, device):
        return torch.ones(T, past_length + T).bool().tril()

    patch.setattr(decoder, "causal_mask", broken)


def scale_by_all_heads(patch):
    attend = wav2vec2.attend

    def broken(queries, *rest):
        return attend(queries / queries.shape[1] ** 0.5, *rest)

    patch.setattr(wav2vec2, "attend", broken)


def heads_interleaved(patch):
    def split(self, x):
        return x.unflatten(2, (-1, self.num_heads)).permute(0, 3, 1, 2)

    patch.setattr(wav2vec2.Attention, "split_heads", split)


def heads_cut_across_time(patch):
    def split(self, x):
        return x.reshape(x.shape[0], self.num_heads, x.shape[1], -1)

    patch.setattr(wav2vec2.Attention, "split_heads", split)


# Mistakes of the encoder


def no_gain(patch):
    conv = wav2vec2.position_conv

    def broken(x, gain, direction, bias, groups):
        return conv(x, direction.norm(dim=(0, 1), keepdim=True), direction, bias, groups)

    patch.setattr(wav2vec2, "position_conv", broken)


def weight_norm_of_each_output(patch):
    def broken(x, gain, direction, bias, groups):
        weight = direction * (gain / direction.norm(dim=(1, 2), keepdim=True))
        y = F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[2] // 2, groups=groups)
        return y[..., : x.shape[1]].transpose(1, 2)

    patch.setattr(wav2vec2, "position_conv", broken)


def crops_the_first_frame(patch):
    conv = wav2vec2.position_conv

    def broken(x, *rest):
        return conv(F.pad(x, (0, 0, 0, 1)), *rest)[:, 1:]

    patch.setattr(wav2vec2, "position_conv", broken)


def no_zeros_before(patch, widths: set[int]) -> None:
    """Leave the padding as it is where x has one of these widths, which tell the places apart."""
    zero_padding = wav2vec2.zero_padding

    def broken(x, lengths):
        if x.shape[2] in widths:
            return x
        return zero_padding(x, lengths)

    patch.setattr(wav2vec2, "zero_padding", broken)


def no_zeros_before_positions(patch):
    no_zeros_before(patch, {45})


def no_zeros_before_adapter(patch):
    no_zeros_before(patch, {19, 57})


def distances_reversed(patch):
    find_distance_buckets = wav2vec2.find_distance_buckets

    def broken(times, *sizes):
        return find_distance_buckets(times, *sizes).T

    patch.setattr(wav2vec2, "find_distance_buckets", broken)


def distances_not_gated(patch):
    def broken(self, x):
        return torch.full_like(x[..., :1], 2.0)

    patch.setattr(wav2vec2.PositionGate, "forward", broken)


def padding_of_relative_blocks_not_hidden(patch):
    patch.setattr(wav2vec2, "hide_padding", lambda scores, mask: scores)


def group_norm_over_the_padding(patch):
    def broken(x, lengths, weight, bias, eps=1e-5):
        return F.group_norm(x, x.shape[1], weight, bias, eps)

    patch.setattr(wav2vec2, "masked_group_norm", broken)


def group_norm_over_one_frame_more(patch):
    masked_group_norm = wav2vec2.masked_group_norm

    def broken(x, lengths, *rest):
        if lengths is not None:
            lengths = lengths + 1
        return masked_group_norm(x, lengths, *rest)

    patch.setattr(wav2vec2, "masked_group_norm", broken)


def norms_of_the_encoder_swapped(patch):
    for variant in encoder_parity.VARIANTS:
        block = encoder_parity.encoders(variant)[1].blocks[0]
        swap(patch, block, "self_attn_norm", "mlp_norm")


def swap(patch: MonkeyPatch, module: nn.Module, first: str, second: str) -> None:
    """Swap two parts of a module for one test."""
    first_part = getattr(module, first)
    second_part = getattr(module, second)
    put(patch, module, first, second_part)
    put(patch, module, second, first_part)


def put(patch: MonkeyPatch, module: nn.Module, name: str, part: object) -> None:
    """Replace a part of a module for one test."""
    # A module keeps its parts in dictionaries, where the patch must undo the change.
    for parts in (module._modules, module._parameters):
        if name in parts:
            patch.setitem(parts, name, part)
            return
    patch.setattr(module, name, part)


# Mistakes of the decoder


def all_decoders() -> list[decoder.Decoder]:
    pairs = [model_parity.models(pair)[1].decoder for pair in model_parity.PAIRS]
    return pairs + [decoder_parity.decoders(variant)[1] for variant in decoder_parity.VARIANTS]


def no_cross_attention(patch):
    def broken(self, x, cross_keys_values, memory_mask):
        return torch.zeros_like(x)

    patch.setattr(decoder.Block, "attend_memory", broken)


def beams_look_at_other_utterances(patch):
    def broken(self, x, cross_keys_values, memory_mask):
        # As if the rows were ordered by beam, then by utterance.
        keys, values = cross_keys_values
        beams = x.reshape(-1, len(keys), *x.shape[1:])  # (K, B, T, H)
        folded = beams.transpose(0, 1).flatten(1, 2)  # (B, K * T, H)
        y = self.cross_attn(folded, keys, values, memory_mask)
        y = y.unflatten(1, (-1, x.shape[1]))  # (B, K, T, H)
        return y.transpose(0, 1).reshape(x.shape)

    patch.setattr(decoder.Block, "attend_memory", broken)


def norms_of_the_decoder_swapped(patch):
    for model in all_decoders():
        swap(patch, model.blocks[-1], "self_attn_norm", "cross_attn_norm")


def no_last_norm(patch):
    for model in all_decoders():
        put(patch, model, "norm", nn.Identity())


def positions_off_by_one(patch):
    for model in all_decoders():
        config = model.embed.config
        shifted = replace(config, position_offset=config.position_offset + 1)
        patch.setattr(model.embed, "config", shifted)


def positions_start_again(patch):
    forward = decoder.Embedding.forward

    def broken(self, tokens, past_length):
        return forward(self, tokens, 0)

    patch.setattr(decoder.Embedding, "forward", broken)


def no_scale(patch):
    for model in all_decoders():
        patch.setattr(model.embed, "config", replace(model.embed.config, embed_scale=1.0))


def no_token_type(patch):
    for model in all_decoders():
        put(patch, model.embed, "token_types", None)


def no_transform(patch):
    for model in all_decoders():
        put(patch, model.head, "transform", nn.Identity())


def no_output_bias(patch):
    for model in all_decoders():
        put(patch, model.head, "bias", None)


def always_tied(patch):
    for model in all_decoders():
        put(patch, model.head, "weight", None)


def tanh_gelu(patch):
    activation = wav2vec2.ACTIVATIONS["gelu_tanh"]()

    def broken(self, x):
        return self.down_proj(activation(self.up_proj(x)))

    patch.setattr(wav2vec2.MLP, "forward", broken)


def tanh_gelu_in_the_head(patch):
    for model in all_decoders():
        if model.config.mlm_head:
            put(patch, model.head.transform, "activation", wav2vec2.ACTIVATIONS["gelu_tanh"]())


def cache_is_not_reordered(patch):
    def broken(self, rows):
        pass

    patch.setattr(decoder.KVCache, "reorder", broken)


# Mistakes of the whole model


class FirstChannels(nn.Module):
    """In the place of a bridge: of the width that the decoder has, but not projected."""

    def forward(self, x):
        return x[..., :35]


def bridge_skipped(patch):
    for pair in model_parity.PAIRS:
        model = model_parity.models(pair)[1]
        if isinstance(model.bridge, nn.Linear):
            put(patch, model, "bridge", FirstChannels())


def labels_not_shifted(patch):
    def broken(labels, start, pad):
        return labels.masked_fill(labels == -100, pad)

    patch.setattr(nanos2t_model, "shift_right", broken)


def ignored_labels_counted(patch):
    def broken(logits, labels):
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / labels.numel()

    patch.setattr(nanos2t_model, "cross_entropy", broken)


# Each mistake with a check that notices it, and the argument of the check.
NOTICED = [
    (no_causal_mask, check_future, "bert"),
    (no_causal_mask, check_future, "gpt2"),
    (no_causal_mask, check_decoder, "bert"),
    (no_causal_mask, check_model, "base"),
    (mask_peeks_one_ahead, check_future, "bert"),
    (mask_peeks_one_ahead, check_decoder, "mbart"),
    (mask_of_a_chunk_peeks_one_ahead, check_cache, "bert"),
    (mask_of_a_chunk_forgets_the_past, check_cache, "bert"),
    (no_key_mask, check_encoder_batch, "large"),
    (no_key_mask, check_encoder, "base"),
    (no_key_mask, check_padding, "bert"),
    (no_key_mask, check_decoder, "gpt2"),
    (no_key_mask, check_model, "adapter"),
    (scale_by_all_heads, check_encoder, "large"),
    (scale_by_all_heads, check_decoder, "bert"),
    (heads_interleaved, check_encoder, "base"),
    (heads_interleaved, check_decoder, "bert"),
    (heads_cut_across_time, check_encoder, "large"),
    (heads_cut_across_time, check_decoder, "bart"),
    (no_gain, check_encoder, "base"),
    (no_gain, check_encoder, "group, pre-norm, odd kernel"),
    (weight_norm_of_each_output, check_encoder, "large"),
    (crops_the_first_frame, check_encoder, "base"),
    (no_zeros_before_positions, check_encoder_batch, "base"),
    (no_zeros_before_positions, check_encoder, "hubert large, conv gelu_tanh"),
    (no_zeros_before_adapter, check_encoder_batch, "adapter, other width"),
    (no_zeros_before_adapter, check_encoder, "group, adapter, other width"),
    (no_zeros_before_positions, check_encoder_batch, "data2vec, biases, adapter"),
    (distances_reversed, check_encoder, "wavlm"),
    (distances_not_gated, check_encoder, "wavlm, pre-norm, projection"),
    (padding_of_relative_blocks_not_hidden, check_encoder_batch, "wavlm"),
    (group_norm_over_the_padding, check_encoder_batch, "base"),
    (group_norm_over_the_padding, check_encoder, "group, adapter"),
    (group_norm_over_one_frame_more, check_encoder_batch, "base"),
    (norms_of_the_encoder_swapped, check_encoder, "base"),
    (norms_of_the_encoder_swapped, check_encoder, "large"),
    (no_cross_attention, check_decoder, "bert"),
    (no_cross_attention, check_model, "base, no bridge"),
    (beams_look_at_other_utterances, check_decoder, "bert"),
    (norms_of_the_decoder_swapped, check_decoder, "bert"),
    (norms_of_the_decoder_swapped, check_decoder, "mbart"),
    (no_last_norm, check_decoder, "gpt2"),
    (positions_off_by_one, check_decoder, "bert"),
    (positions_off_by_one, check_decoder, "bart"),
    (positions_start_again, check_cache, "bert"),
    (no_scale, check_decoder, "mbart"),
    (no_token_type, check_decoder, "bert"),
    (no_transform, check_decoder, "bert"),
    (no_output_bias, check_decoder, "bert"),
    (always_tied, check_decoder, "bert, untied"),
    (tanh_gelu, check_encoder, "base"),
    (tanh_gelu, check_decoder, "bert"),
    (tanh_gelu, check_model, "large"),
    (tanh_gelu_in_the_head, check_decoder, "bert"),
    (cache_is_not_reordered, check_reorder, "bert"),
    (bridge_skipped, check_model, "base"),
    (bridge_skipped, check_model, "adapter"),
    (labels_not_shifted, check_model, "base"),
    (ignored_labels_counted, check_model, "base"),
]


@pytest.mark.parametrize(
    ("mistake", "check", "argument"),
    [pytest.param(*row, id=f"{row[0].__name__}-{row[1].__name__}-{row[2]}") for row in NOTICED],
)
def test_the_mistake_is_noticed(mistake, check, argument, monkeypatch):
    assert check(argument) < TOLERANCE
    mistake(monkeypatch)
    assert check(argument) > FAR
    monkeypatch.undo()
    assert check(argument) < TOLERANCE


@pytest.mark.parametrize(
    ("check", "argument", "load_models"),
    [
        (check_encoder, "base", encoder_parity.encoders),
        (check_encoder, "adapter, other width", encoder_parity.encoders),
        (check_decoder, "bert", decoder_parity.decoders),
    ],
    ids=["base", "adapter, other width", "bert"],
)
def test_a_wrong_epsilon_is_noticed(check, argument, load_models, monkeypatch):
    """The smallest mistake of all, of one norm: 1e-10 sees it, 1e-4 would not always."""
    _, model = load_models(argument)
    for module in model.modules():
        if not isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            continue
        wrong_eps = 1e-3 if module.eps == 1e-5 else 1e-5
        with monkeypatch.context() as patch:
            patch.setattr(module, "eps", wrong_eps)
            assert check(argument) > 1e3 * TOLERANCE


def test_the_key_bias_cannot_be_noticed(monkeypatch):
    """Softmax ignores what all its inputs share: only the round trip of tensors guards it."""

    def project_keys_values(self, source):
        keys = F.linear(source, self.k_proj.weight)
        values = self.v_proj(source)
        return self.split_heads(keys), self.split_heads(values)

    monkeypatch.setattr(wav2vec2.Attention, "project_keys_values", project_keys_values)
    assert check_encoder("base") < TOLERANCE
    assert check_decoder("bert") < TOLERANCE

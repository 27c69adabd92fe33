"""Checks of exercises 1 to 6: from the waveform through the encoder. See exercise.py."""

import numpy as np
import torch
from torch import Tensor, nn

from exercises.inputs import draw, encoder_config, memory_mask, replace_end, spread_weights
from nanos2t.wav2vec2 import Attention, Block, FeatureEncoder


def check_normalise(function):
    noise = draw(1, 7).numpy().astype(np.float32)
    yield "a short waveform", function(0.3 + 0.1 * noise)
    yield "a very quiet waveform", function(0.001 + 0.0003 * noise)
    yield "silence", function(np.zeros(5, np.float32))
    yield "eps=0.5", function(noise[:5], 0.5)


# Frame counts and masks


def check_conv_output_lengths(function):
    lengths = torch.tensor([400, 719, 720, 799, 16000, 160001])
    yield "10 taps, stride 5", function(lengths, nn.Conv1d(1, 1, 10, 5))
    yield "3 taps, stride 2, padding 1", function(lengths, nn.Conv1d(1, 1, 3, 2, padding=1))
    yield "2 taps, stride 2", function(lengths, nn.Conv1d(1, 1, 2, 2))
    yield "lengths is None", function(None, nn.Conv1d(1, 1, 2, 2))


def check_valid_frames(function):
    yield "3 items, the longest fills the buffer", function(torch.tensor([3, 5, 1]), 5)
    yield "2 items, a longer buffer", function(torch.tensor([2, 4]), 6)


def check_zero_padding(function):
    yield "2 items", function(draw(2, 2, 4, 3), torch.tensor([4, 2]))
    yield "lengths is None", function(draw(3, 2, 4, 3), None)


# The convolutions


def check_masked_group_norm(function):
    weight = 1 + 0.3 * draw(4, 3)
    bias = 0.3 * draw(5, 3)
    with_padding = 1 + draw(6, 2, 3, 6)
    yield "with padding", function(with_padding, torch.tensor([6, 4]), weight, bias)
    yield "no padding", function(draw(7, 2, 3, 5), None, weight, bias)
    small = 0.003 * draw(8, 2, 3, 6)
    yield "small values", function(small, torch.tensor([5, 6]), weight, bias)
    yield "eps=0.5", function(draw(9, 2, 3, 6), torch.tensor([5, 6]), weight, bias, 0.5)


def group_norm_ignores_padding(function) -> bool:
    def normalise(x: Tensor) -> Tensor:
        return function(x, torch.tensor([4]), torch.ones(3), torch.zeros(3))

    x = draw(6, 1, 3, 6)
    other = replace_end(x, 4, dim=2)
    return torch.allclose(normalise(x)[..., :4], normalise(other)[..., :4])


def check_conv_layer(function):
    x = 2 * draw(58, 2, 1, 43)
    lengths = torch.tensor([43, 30])
    for norm in "group", "layer":
        encoder = spread_weights(FeatureEncoder(encoder_config(conv_norm=norm)), 59)
        layer = encoder.conv_layers[0]
        yield f"{norm} norm, with padding", zero_channels_padding(function(layer, x, lengths))
        yield f"{norm} norm, no padding", zero_channels_padding(function(layer, x, None))

    encoder = spread_weights(FeatureEncoder(encoder_config(conv_activation="relu")), 60)
    result = function(encoder.conv_layers[1], 2 * draw(61, 2, 4, 14), None)
    yield "no norm, activation relu", zero_channels_padding(result)


def zero_padded_frames(result):
    """Set the padding of a result (x (B, T, C), lengths) to zero: there, right answers may differ.

    A result of another form is returned as it is.
    """
    try:
        x, lengths = result
        is_real = torch.arange(x.shape[1]) < lengths[:, None]
        return x * is_real[:, :, None], lengths
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return result


def zero_channels_padding(result):
    """Do the same for x (B, C, T)."""
    try:
        x, lengths = zero_padded_frames((result[0].transpose(1, 2), result[1]))
        return x.transpose(1, 2), lengths
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return result


def check_feature_encoder(function):
    group = spread_weights(FeatureEncoder(encoder_config(conv_norm="group")), 10)
    layer = spread_weights(FeatureEncoder(encoder_config(conv_norm="layer")), 10)
    relu = spread_weights(FeatureEncoder(encoder_config(conv_activation="relu")), 11)
    x = 2 * draw(12, 2, 43)
    lengths = torch.tensor([43, 30])
    yield "group norm, with padding", zero_padded_frames(function(group, x, lengths))
    yield "layer norm, with padding", zero_padded_frames(function(layer, x, lengths))
    yield "group norm, no padding", zero_padded_frames(function(group, x, None))
    yield "layer norm, activation relu", zero_padded_frames(function(relu, x, None))
    short = function(layer, x[:, :5], None)
    yield "a clip that is shorter than one frame", zero_padded_frames(short)
    short = function(group, x, torch.tensor([43, 9]))
    yield "a batch with one such item", zero_padded_frames(short)


def feature_encoder_ignores_padding(function) -> bool:
    encoder = spread_weights(FeatureEncoder(encoder_config(conv_norm="group")), 10)
    x = draw(12, 1, 43)
    other = replace_end(x, 30)
    lengths = torch.tensor([30])
    frames, _ = zero_padded_frames(function(encoder, x, lengths))
    other_frames, _ = zero_padded_frames(function(encoder, other, lengths))
    return torch.allclose(frames, other_frames)


def check_position_conv(function):
    bias = 0.3 * draw(16, 6)
    for taps in 4, 5:
        gain = 0.5 + draw(13, 1, 1, taps).abs()
        direction = draw(14, 6, 2, taps)
        yield f"{taps} taps", function(draw(15, 2, 7, 6), gain, direction, bias, 3)
    yield "fewer frames than taps", function(draw(17, 1, 2, 6), gain, direction, bias, 3)


# Attention


def small_attention() -> Attention:
    return spread_weights(Attention(encoder_config()), 18)


def check_split_heads(function):
    yield "5 frames, 3 heads", function(small_attention(), draw(19, 2, 5, 12))


def check_attention_weights(function):
    queries = draw(20, 2, 3, 4, 5)
    keys = draw(21, 2, 3, 6, 5)
    yield "no mask", function(queries, keys)
    yield "a mask that hides padding", function(queries, keys, memory_mask(6, 4))


def weights_sum_to_one(function) -> bool:
    weights = function(draw(20, 2, 3, 4, 5), draw(21, 2, 3, 6, 5), memory_mask(6, 4))
    return torch.allclose(weights.sum(3), torch.ones(2, 3, 4).double())


def check_attend(function):
    queries = draw(20, 2, 3, 4, 5)
    keys = draw(21, 2, 3, 6, 5)
    values = draw(22, 2, 3, 6, 5)
    yield "no mask", function(queries, keys, values)
    yield "a mask that hides padding", function(queries, keys, values, memory_mask(6, 4))
    causal = function(queries, keys[:, :, :4], values[:, :, :4], is_causal=True)
    yield "is_causal=True", causal


def attend_is_causal(function) -> bool:
    queries = draw(20, 1, 3, 4, 5)
    keys = draw(21, 1, 3, 4, 5)
    values = draw(22, 1, 3, 4, 5)
    heads = function(queries, keys, values, is_causal=True)
    other_heads = function(queries, keys, replace_end(values, 2, dim=2), is_causal=True)
    return torch.allclose(heads[:, :, :2], other_heads[:, :, :2])


def check_attention(function):
    module = small_attention()
    x = draw(24, 2, 4, 12)
    keys, values = module.project_keys_values(draw(23, 2, 6, 12))
    yield "4 queries, 6 keys", function(module, x, keys, values)
    yield "with a mask", function(module, x, keys, values, memory_mask(6, 4))
    causal = function(module, x, keys[:, :, :4], values[:, :, :4], None, True)
    yield "is_causal=True", causal


# The encoder's block


def check_encoder_block(function):
    for pre_norm in False, True:
        block = spread_weights(Block(encoder_config(pre_norm=pre_norm)), 25)
        masked = function(block, draw(26, 2, 5, 12), memory_mask(5, 3))
        yield f"pre_norm={pre_norm}, with a mask", masked
        yield f"pre_norm={pre_norm}, no mask", function(block, draw(27, 2, 5, 12), None)


def encoder_block_ignores_padding(function) -> bool:
    block = spread_weights(Block(encoder_config()), 25)
    x = draw(26, 1, 5, 12)
    mask = memory_mask(5, 3)[1:]
    result = function(block, x, mask)
    other_result = function(block, replace_end(x, 3), mask)
    return torch.allclose(result[:, :3], other_result[:, :3])

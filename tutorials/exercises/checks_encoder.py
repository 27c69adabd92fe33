"""Checks of exercises 1 to 6: from the waveform through the encoder. See exercise.py."""

import numpy as np
import torch
from torch import Tensor, nn

from exercises.exercise import Facts, type_fact
from exercises.inputs import STORED, Draw, drop_all, encoder_config, memory_mask, replace_end
from nanos2t.wav2vec2 import Attention, Block, ConvLayer, FeatureEncoder, conv_output_lengths


def check_normalise(function, draw: Draw):
    noise = draw(1, 7).numpy().astype(np.float32)
    short = function(0.3 + 0.1 * noise)
    yield "a short waveform", short
    yield "a very quiet waveform", function(0.001 + 0.0003 * noise)
    yield "noise of the last bits", function(3e-5 * noise)
    yield "silence", function(np.zeros(5, np.float32))
    yield "a constant that is not 0", function(np.full(6, 0.25, np.float32))
    yield "eps=0.5", function(0.4 * noise[:5], 0.5)
    # The numbers of all samples are in the mean and the variance, and those that are 0 as well.
    long = function(0.3 * draw(86, 1200).numpy().astype(np.float32) + np.linspace(0, 1, 1200))
    yield "1,200 samples", every_hundredth(long)
    with_zeros = np.array([0, 0.3, 0, -0.2, 0.5, 0, 0.1], np.float32) + 0
    yield "some samples are 0", function(with_zeros * (1 + noise[0] ** 2))
    # In float32 the mean of these squares has lost the digits that their variance needs. The mean
    # of eight multiples of 1/8 has lost none: whoever computes in float64 gets the same.
    eighths = np.round(8 * draw(98, 8).numpy().astype(np.float32)) / 8
    yield "a large constant is added", function(512 + eighths)
    yield "a float32 waveform", array_facts(short)
    yield "a float64 waveform", array_facts(function(noise.astype(np.float64)))


def every_hundredth(result: object):
    """Return a part of a long result, which is enough; a result of another form as it is."""
    if isinstance(result, (np.ndarray, Tensor)) and result.ndim == 1:
        return result[::100]
    return result


def array_facts(result: object) -> Facts:
    is_float32 = getattr(result, "dtype", None) in (np.float32, torch.float32)
    is_array = isinstance(result, np.ndarray)
    return Facts({"the result is an array of NumPy": is_array, "the result is float32": is_float32})


# Frame counts and masks


def check_conv_output_lengths(function, draw: Draw):
    lengths = torch.tensor([400, 719, 720, 799, 16000, 160001])
    yield "10 taps, stride 5", function(lengths, nn.Conv1d(1, 1, 10, 5))
    yield "3 taps, stride 2, padding 1", function(lengths, nn.Conv1d(1, 1, 3, 2, padding=1))
    yield "2 taps, stride 2", function(lengths, nn.Conv1d(1, 1, 2, 2))
    short = function(torch.tensor([9, 5, 10, 4, 0]), nn.Conv1d(1, 1, 10, 5))
    # A negative number is no frame.
    yield "items shorter than the kernel", short.clamp(min=0) if is_tensor(short) else short
    # float32 has no such numbers.
    long = torch.tensor([100_000_009, 100_000_010, 123_456_789])
    yield "a recording of two hours", function(long, nn.Conv1d(1, 1, 10, 5))
    yield "lengths is None", function(None, nn.Conv1d(1, 1, 2, 2))


def is_tensor(result: object) -> bool:
    return isinstance(result, Tensor)


def check_valid_frames(function, draw: Draw):
    yield "3 items, the longest fills the buffer", function(torch.tensor([3, 5, 1]), 5)
    yield "2 items, a longer buffer", function(torch.tensor([2, 4]), 6)
    yield "an item without frames", function(torch.tensor([0, 3]), 4)


def check_zero_padding(function, draw: Draw):
    yield "2 items", function(draw(2, 2, 4, 3), torch.tensor([4, 2]))
    yield "lengths is None", function(draw(3, 2, 4, 3), None)
    yield "a buffer longer than every item", function(draw(76, 3, 5, 3), torch.tensor([3, 1, 2]))
    x = draw(77, 2, 4, 3)
    x[1, 2:] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    yield "NaN and infinity in the padding", function(x, torch.tensor([4, 2]))
    x = draw(77, 2, 4, 3)
    x[0, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    yield "NaN and infinity in a real frame", function(x, torch.tensor([4, 2]))
    half = function(draw(2, 2, 4, 3).half(), torch.tensor([4, 2]))
    yield "float16", type_fact(half, torch.float16)


# The convolutions


def check_masked_group_norm(function, draw: Draw):
    weight = 1 + 0.3 * draw(4, 3)
    bias = 0.3 * draw(5, 3)

    def normalise(x: Tensor, *lengths: int, **named):
        lengths = torch.tensor(lengths)
        return zero_end(function(x, lengths, weight, bias, **named), lengths)

    with_padding = 1 + draw(6, 2, 3, 6)
    yield "with padding", normalise(with_padding, 6, 4)
    yield "no padding", function(draw(7, 2, 3, 5), None, weight, bias)
    small = 0.003 * draw(8, 2, 3, 6)
    yield "small values", normalise(small, 5, 6)
    yield "eps=0.5", normalise(draw(9, 2, 3, 6), 5, 6, eps=0.5)
    yield "a buffer longer than every item", normalise(draw(78, 2, 3, 6), 3, 4)
    with_nan = draw(79, 2, 3, 6)
    with_nan[1, :, 4:] = torch.nan
    yield "NaN in the padding", normalise(with_nan, 6, 4)


def group_norm_ignores_padding(function) -> bool:
    def normalise(x: Tensor) -> Tensor:
        return function(x, torch.tensor([4]), torch.ones(3), torch.zeros(3))

    x = STORED(6, 1, 3, 6)
    other = replace_end(x, 4, dim=2)
    return torch.allclose(normalise(x)[..., :4], normalise(other)[..., :4])


def check_conv_layer(function, draw: Draw):
    def call(layer: ConvLayer, x: Tensor, lengths: Tensor | None):
        return zero_channels_padding(function(layer, x, lengths), [layer], lengths)

    x = 2 * draw(58, 2, 1, 43)
    lengths = torch.tensor([43, 30])
    for norm in "group", "layer":
        encoder = draw.weights(FeatureEncoder(encoder_config(conv_norm=norm)), 59)
        layer = encoder.conv_layers[0]
        yield f"{norm} norm, with padding", call(layer, x, lengths)
        yield f"{norm} norm, no padding", call(layer, x, None)

    encoder = draw.weights(FeatureEncoder(encoder_config(conv_activation="relu")), 60)
    result = call(encoder.conv_layers[1], 2 * draw(61, 2, 4, 14), None)
    yield "no norm, activation relu", result


def zero_end(x: Tensor, lengths: Tensor):
    """Set the padding of a result x (B, C, T) to zero: there, right answers may differ.

    A result of another form is returned as it is.
    """
    try:
        is_padding = torch.arange(x.shape[2]) >= lengths[:, None]  # (B, T)
        return x.masked_fill(is_padding[:, None], 0.0)
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return x


def zero_channels_padding(result, layers, lengths: Tensor | None):
    """Do the same for a result (x (B, C, T), lengths) of layers for items with these lengths."""
    for layer in layers:
        lengths = conv_output_lengths(lengths, layer.conv)
    try:
        x, result_lengths = result
        return zero_end(x, lengths), result_lengths
    except (TypeError, ValueError):
        return result


def zero_padded_frames(result, encoder: FeatureEncoder, lengths: Tensor | None):
    """Do the same for a result (x (B, T, C), lengths) of all layers."""
    if lengths is not None:
        lengths = lengths.clamp(min=encoder.min_samples)
    try:
        x, result_lengths = result
        turned = (x.transpose(1, 2), result_lengths)
        x, _ = zero_channels_padding(turned, encoder.conv_layers, lengths)
        return x.transpose(1, 2), result_lengths
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return result


def check_feature_encoder(function, draw: Draw):
    def call(encoder: FeatureEncoder, x: Tensor, lengths: Tensor | None):
        return zero_padded_frames(function(encoder, x, lengths), encoder, lengths)

    group = draw.weights(FeatureEncoder(encoder_config(conv_norm="group")), 10)
    layer = draw.weights(FeatureEncoder(encoder_config(conv_norm="layer")), 10)
    relu = draw.weights(FeatureEncoder(encoder_config(conv_activation="relu")), 11)
    x = 2 * draw(12, 2, 43)
    lengths = torch.tensor([43, 30])
    yield "group norm, with padding", call(group, x, lengths)
    yield "layer norm, with padding", call(layer, x, lengths)
    yield "group norm, no padding", call(group, x, None)
    yield "layer norm, activation relu", call(relu, x, None)
    yield "a clip that is shorter than one frame", call(layer, x[:, :5].contiguous(), None)
    yield "a batch with one such item", call(group, x, torch.tensor([43, 9]))
    short = x[:, :6].clone()
    short[0, 4:] = torch.nan
    yield "a batch of such items", call(layer, short, torch.tensor([4, 6]))
    yield "a buffer longer than every item", call(group, x, torch.tensor([38, 30]))
    with_nan = x.clone()
    with_nan[1, 30:] = torch.nan
    yield "NaN in the padding", call(group, with_nan, lengths)


def feature_encoder_ignores_padding(function) -> bool:
    encoder = STORED.weights(FeatureEncoder(encoder_config(conv_norm="group")), 10)
    x = STORED(12, 1, 43)
    other = replace_end(x, 30)
    lengths = torch.tensor([30])
    frames, _ = zero_padded_frames(function(encoder, x, lengths), encoder, lengths)
    other_frames, _ = zero_padded_frames(function(encoder, other, lengths), encoder, lengths)
    return torch.allclose(frames, other_frames)


def check_position_conv(function, draw: Draw):
    bias = 0.3 * draw(16, 6)
    for taps in 4, 5:
        gain = 0.5 + draw(13, 1, 1, taps).abs()
        direction = draw(14, 6, 2, taps)
        yield f"{taps} taps", function(draw(15, 2, 7, 6), gain, direction, bias, 3)
    yield "fewer frames than taps", function(draw(17, 1, 2, 6), gain, direction, bias, 3)
    small = 0.05 * draw(88, 6, 2, 5)
    yield "a direction of small numbers", function(draw(87, 1, 4, 6), gain, small, bias, 3)
    direction = draw(80, 6, 6, 5)
    yield "one group", function(draw(81, 2, 7, 6), gain, direction, bias, 1)


# Attention


def small_attention(draw: Draw) -> Attention:
    return draw.weights(Attention(encoder_config()), 18)


def check_split_heads(function, draw: Draw):
    yield "5 frames, 3 heads", function(small_attention(draw), draw(19, 2, 5, 12))


def check_attention_weights(function, draw: Draw):
    queries = draw(20, 2, 3, 4, 5)
    keys = draw(21, 2, 3, 6, 5)
    yield "no mask", function(queries, keys)
    yield "a mask that hides padding", function(queries, keys, memory_mask(6, 4))
    yield "a mask (T, S)", function(queries, keys, stairs())
    yield "scores of 1000", function(1000 * queries[:1, :1], keys[:1, :1])


def stairs() -> Tensor:
    """Return a mask (4, 6) such as that of 4 tokens after 2 others."""
    return torch.ones(4, 6, dtype=torch.bool).tril(2)


def weights_sum_to_one(function) -> bool:
    weights = function(STORED(20, 2, 3, 4, 5), STORED(21, 2, 3, 6, 5), memory_mask(6, 4))
    return torch.allclose(weights.sum(3), torch.ones(2, 3, 4).double())


def check_attend(function, draw: Draw):
    queries = draw(20, 2, 3, 4, 5)
    keys = draw(21, 2, 3, 6, 5)
    values = draw(22, 2, 3, 6, 5)
    yield "no mask", function(queries, keys, values)
    yield "a mask that hides padding", function(queries, keys, values, memory_mask(6, 4))
    yield "a mask (T, S)", function(queries, keys, values, stairs())
    causal = function(queries, keys[:, :, :4], values[:, :, :4], is_causal=True)
    yield "is_causal=True", causal


def attend_is_causal(function) -> bool:
    queries = STORED(20, 1, 3, 4, 5)
    keys = STORED(21, 1, 3, 4, 5)
    values = STORED(22, 1, 3, 4, 5)
    heads = function(queries, keys, values, is_causal=True)
    other_heads = function(queries, keys, replace_end(values, 2, dim=2), is_causal=True)
    return torch.allclose(heads[:, :, :2], other_heads[:, :, :2])


def check_attention(function, draw: Draw):
    module = small_attention(draw)
    x = draw(24, 2, 4, 12)
    keys, values = module.project_keys_values(draw(23, 2, 6, 12))
    yield "4 queries, 6 keys", function(module, x, keys, values)
    yield "with a mask", function(module, x, keys, values, memory_mask(6, 4))
    causal = function(module, x, keys[:, :, :4], values[:, :, :4], None, True)
    yield "is_causal=True", causal
    yield "dropout of all numbers", function(drop_all(module), x, keys, values)


# The encoder's block


def check_encoder_block(function, draw: Draw):
    for pre_norm in False, True:
        block = draw.weights(Block(encoder_config(pre_norm=pre_norm)), 25)
        masked = function(block, draw(26, 2, 5, 12), memory_mask(5, 3))
        yield f"pre_norm={pre_norm}, with a mask", masked
        yield f"pre_norm={pre_norm}, no mask", function(block, draw(27, 2, 5, 12), None)


def encoder_block_ignores_padding(function) -> bool:
    block = STORED.weights(Block(encoder_config()), 25)
    x = STORED(26, 1, 5, 12)
    mask = memory_mask(5, 3)[1:]
    result = function(block, x, mask)
    other_result = function(block, replace_end(x, 3), mask)
    return torch.allclose(result[:, :3], other_result[:, :3])

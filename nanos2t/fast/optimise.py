"""Make a model of the core fast: here is every part that is replaced, and what takes its place."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nanos2t.decoder import Decoder
from nanos2t.fast.feature_encoder import FastConvLayer, make_fast_layer
from nanos2t.fast.int8 import Int8Conv, Int8Head, Int8Linear
from nanos2t.fast.memory import release_pages
from nanos2t.fast.onednn import FastHead, choose_min_rows, has_onednn
from nanos2t.fast.packed import FastLinear, can_pack
from nanos2t.fast.positional_conv import replace_positions
from nanos2t.model import SpeechEncoderDecoder

# How many blocks of the decoder give the weights with which two products are compared.
MEASURED_BLOCKS = 3


@torch.no_grad()
def optimise_model(
    model: SpeechEncoderDecoder, dtype: torch.dtype | None = None
) -> SpeechEncoderDecoder:
    """Replace the modules of `model` by fast ones, in place, and return it, for results only.

    dtype: what to convert the weights to. torch.int8 quantises them: the model can then be neither
    saved nor trained. float32 and bfloat16 on a CPU are multiplied by oneDNN, if torch has it: the
    model cannot be trained. Any other dtype or device leaves the core's modules.
    """
    if dtype == torch.int8:
        convert_weights(model, torch.float32)
        quantise_modules(model)
    else:
        convert_weights(model, dtype or model.dtype)
        if can_pack(model.encoder.norm.weight):
            replace_modules(model)

    # New modules are in training mode: set them to the mode of the model.
    return model.train(model.training)


def convert_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert all weights of a model, one at a time, and release the memory of the former ones."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            former = parameter.data
            parameter.data = former.to(dtype)
            if parameter.dtype != former.dtype:
                release_pages(former)


def replace_modules(model: SpeechEncoderDecoder) -> None:
    """Put fast modules in the place of linear layers and convolutions.

    The adapter's convolutions and, in bfloat16, wide positional ones stay as they are.
    """
    encoder = model.encoder
    decoder = model.decoder
    decoder_rows = measure_min_rows(decoder)
    encoder_rows = None if model.dtype == torch.float32 else 1

    # The activation of an MLP becomes a part of its first product.
    for part, min_rows in (encoder, encoder_rows), (decoder, decoder_rows):
        for block in part.blocks:
            block.mlp.up_proj = FastLinear(block.mlp.up_proj, block.mlp.activation, min_rows)
            block.mlp.activation = nn.Identity()
        replace_linears(part, partial(FastLinear, min_rows=min_rows))
    replace_linears(model, partial(FastLinear, min_rows=encoder_rows))  # the bridge
    decoder.head = FastHead(decoder.head, decoder_rows)

    layers = encoder.feature_encoder.conv_layers
    for i, layer in enumerate(layers):
        layers[i] = make_fast_layer(layer, encoder_rows)
    replace_positions(encoder)


def measure_min_rows(decoder: Decoder) -> int:
    """Return how many rows oneDNN must have to be faster: see `choose_min_rows`."""
    # Some of the weights that a search reads for every token.
    weights = []
    for block in decoder.blocks[:MEASURED_BLOCKS]:
        weights += [block.mlp.up_proj.weight, block.mlp.down_proj.weight]
    return choose_min_rows(weights)


def quantise_modules(model: SpeechEncoderDecoder) -> None:
    """Put modules in int8 in the place of linear layers, convolutions and the output matrix.

    These convolutions stay in float32: the first of the feature encoder, whose inputs are
    samples, the positional one, and those of the adapter.
    """
    encoder = model.encoder
    decoder = model.decoder
    layers = encoder.feature_encoder.conv_layers
    for i, layer in enumerate(layers):
        if i > 0:
            layer.conv = Int8Conv(layer.conv)
        if not has_onednn():
            continue
        if i == 0:
            layers[i] = make_fast_layer(layer, None)
        else:
            layers[i] = FastConvLayer(layer, layer.conv, layer.activation)

    # In a search the decoder multiplies a row for each beam; its projections of the memory, and all
    # of the encoder, multiply hundreds at once.
    quantise_many = partial(quantise_linear, many_rows=True)
    for block in decoder.blocks:
        block.cross_attn.k_proj = quantise_many(block.cross_attn.k_proj)
        block.cross_attn.v_proj = quantise_many(block.cross_attn.v_proj)
    replace_linears(decoder, quantise_linear)
    replace_linears(model, quantise_many)
    replace_positions(encoder)
    decoder.head = Int8Head(decoder.head, decoder.embed.tokens.weight)


def replace_linears(model: nn.Module, make_layer: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every nn.Linear in the model by `make_layer` of it."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, make_layer(child))


def quantise_linear(linear: nn.Linear, many_rows: bool = False) -> Int8Linear:
    """Return `linear` in int8, and release the memory of its float32 weight."""
    quantised = Int8Linear(linear.weight, linear.bias, many_rows)
    release_pages(linear.weight)
    return quantised

"""Make a model of the core fast: here is every part that is replaced, and what takes its place.

In float32 the new modules share the parameters of the core's and keep their names. In int8 the
weights are replaced.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nanos2t.fast.feature_encoder import FastConvLayer
from nanos2t.fast.int8 import Int8Conv, Int8Head, Int8Linear
from nanos2t.fast.memory import release_pages
from nanos2t.fast.onednn import FastHead, FastLinear, FastMLP, choose_min_rows, has_onednn
from nanos2t.fast.positional_conv import replace_positions
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import Encoder

# How many blocks of the decoder give the weights with which two products are compared.
MEASURED_BLOCKS = 3


def optimise_model(
    model: SpeechEncoderDecoder, dtype: torch.dtype = torch.float32
) -> SpeechEncoderDecoder:
    """Replace the modules of `model` by fast ones, in place, and return it.

    dtype: torch.int8 quantises a float32 model on a CPU, which cannot be trained or saved
    afterwards. Any other value changes only the speed, that of float32 on a CPU, and does nothing
    if torch has no oneDNN.
    """
    if dtype == torch.int8:
        quantise_modules(model)
    elif has_onednn():
        replace_modules(model)

    # New modules are in training mode: set them to the mode of the model.
    return model.train(model.training)


@torch.no_grad()
def replace_modules(model: SpeechEncoderDecoder) -> None:
    """Put the modules for float32 in the place of the core's."""
    encoder = model.encoder
    decoder = model.decoder

    # Some of the weights that a search reads for every token.
    weights = []
    for block in decoder.blocks[:MEASURED_BLOCKS]:
        weights += [block.mlp.up_proj.weight, block.mlp.down_proj.weight]
    min_rows = choose_min_rows(weights)

    replace_linears(model, partial(FastLinear, min_rows=min_rows))
    replace_conv_layers(encoder)
    replace_positions(encoder)
    for block in (*encoder.blocks, *decoder.blocks):
        block.mlp = FastMLP(block.mlp, min_rows)
    decoder.head = FastHead(decoder.head, min_rows)


@torch.no_grad()
def quantise_modules(model: SpeechEncoderDecoder) -> None:
    """Put modules in int8 in the place of linear layers, convolutions and the output matrix.

    These convolutions stay in float32: the first of the feature encoder, whose inputs are
    samples, the positional one, and those of the adapter.
    """
    encoder = model.encoder
    decoder = model.decoder
    for layer in encoder.feature_encoder.conv_layers[1:]:
        layer.conv = Int8Conv(layer.conv)
    replace_linears(model, quantise_linear)
    if has_onednn():
        replace_conv_layers(encoder)
    replace_positions(encoder)
    decoder.head = Int8Head(decoder.head, decoder.embed.tokens.weight)


def replace_conv_layers(encoder: Encoder) -> None:
    """Replace every layer of the feature encoder by a FastConvLayer."""
    layers = encoder.feature_encoder.conv_layers
    for i, layer in enumerate(layers):
        layers[i] = FastConvLayer(layer)


def replace_linears(model: nn.Module, make_linear: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every nn.Linear in the model by `make_linear` of it."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, make_linear(child))


def quantise_linear(linear: nn.Linear) -> Int8Linear:
    """Return `linear` in int8, and release the memory of its float32 weight."""
    quantised = Int8Linear(linear.weight, linear.bias)
    release_pages(linear.weight)
    return quantised

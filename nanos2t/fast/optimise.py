"""Make a model of the core fast: here is every part that is replaced, and what takes its place."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from nanos2t.decoder import Decoder
from nanos2t.fast.feature_encoder import make_fast_layer
from nanos2t.fast.int8 import Int8Conv, Int8Head, Int8Linear, quantise_many
from nanos2t.fast.memory import release_pages
from nanos2t.fast.onednn import FastHead, choose_min_rows, has_onednn
from nanos2t.fast.packed import FastConv, FastLinear, can_pack
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
    saved nor trained. float32 on a CPU is multiplied by oneDNN, if torch has it, and so is bfloat16
    if the CPU can: the model cannot be trained. All else leaves the core's modules.
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
        layers[i] = make_fast_layer(layer, partial(FastConv, min_rows=encoder_rows))
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
        make_conv = Int8Conv if i > 0 else partial(FastConv, min_rows=None)
        if has_onednn():
            layers[i] = make_fast_layer(layer, make_conv)
        elif i > 0:
            layer.conv = Int8Conv(layer.conv)

    # The encoder, and what projects its output, multiply hundreds of rows at once.
    quantise_wide = partial(quantise_linear, make_layer=quantise_many)
    for block in encoder.blocks:
        block.mlp.up_proj = quantise_wide(block.mlp.up_proj, block.mlp.activation)
        block.mlp.activation = nn.Identity()
    for block in decoder.blocks:
        block.cross_attn.k_proj = quantise_wide(block.cross_attn.k_proj)
        block.cross_attn.v_proj = quantise_wide(block.cross_attn.v_proj)

    # The rest of the decoder has a row for each beam.
    replace_linears(decoder, quantise_linear)
    replace_linears(model, quantise_wide)
    replace_positions(encoder)
    decoder.head = Int8Head(decoder.head, decoder.embed.tokens.weight)


def replace_linears(model: nn.Module, make_layer: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every nn.Linear in the model by `make_layer` of it."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, make_layer(child))


def quantise_linear(
    linear: nn.Linear,
    activation: nn.Module | None = None,
    make_layer: Callable[[Tensor, Tensor | None, nn.Module | None], nn.Module] = Int8Linear,
) -> nn.Module:
    """Return `linear`, and the activation after it, in int8; release its float32 weight."""
    quantised = make_layer(linear.weight, linear.bias, activation)
    release_pages(linear.weight)
    return quantised

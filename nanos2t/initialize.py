"""How new weights are drawn: by the type of the module, with the distributions of transformers.

Official code: `_init_weights` in transformers/models/wav2vec2/modeling_wav2vec2.py, and its
counterparts for the decoders. Some of what they draw is overwritten afterwards; here is only what
a new model has in the end.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from nanos2t.wav2vec2 import Encoder, PositionalConv, PositionalConvLayer, PositionGate


@torch.no_grad()
def initialize_weights(model: nn.Module, names: Collection[str] | None = None) -> None:
    """Draw the weights of a SpeechEncoderDecoder in place.

    names: the parameters to draw, such as "encoder.norm.weight", or None for all of them.
    """
    encoder = model.encoder
    decoder = model.decoder
    stds = {
        "encoder": encoder.config.init_std,
        "bridge": decoder.config.init_std,
        "decoder": decoder.config.init_std,
    }
    for part, std in stds.items():
        for path, module in model.get_submodule(part).named_modules(prefix=part):
            for name, parameter in module.named_parameters(prefix=path, recurse=False):
                if names is not None and name not in names:
                    continue
                # The only linear layer with a rule of its own.
                if module is encoder.feature_projection.proj:
                    draw_uniform(parameter, module.weight)
                elif name.endswith(".bias"):
                    initialize_bias(module)
                else:
                    initialize_weight(module, parameter, std)

    initialize_positions(encoder.positions, names)


def initialize_positions(positions: nn.Module, names: Collection[str] | None) -> None:
    """Set what follows from other weights, or differs from other modules. names: as above."""
    for path, module in positions.named_modules(prefix="encoder.positions"):
        # With this gain, the weight of the convolution is its direction.
        is_drawn = names is None or f"{path}.gain" in names
        if isinstance(module, PositionalConv) and is_drawn:
            module.gain.copy_(module.direction.norm(dim=(0, 1), keepdim=True))

        # Of the convolutions, only these have no bias at first.
        is_drawn = names is None or f"{path}.conv.bias" in names
        if isinstance(module, PositionalConvLayer) and is_drawn:
            module.conv.bias.zero_()


def initialize_bias(module: nn.Module) -> None:
    """Draw the bias of a module: zero, but for the convolutions."""
    if isinstance(module, nn.Conv1d):
        draw_uniform(module.bias, module.weight)
    else:
        module.bias.zero_()


def initialize_weight(module: nn.Module, parameter: Tensor, std: float) -> None:
    """Draw a parameter of a module that is no bias. Matrices get the standard deviation `std`."""
    # A norm does not scale at first, nor does the gate of relative positions.
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm, PositionGate)):
        parameter.fill_(1.0)

    # Convolutions of the feature encoder, the adapter and a stack of positions (He et al. 2015).
    elif isinstance(module, nn.Conv1d):
        nn.init.kaiming_normal_(parameter)

    # Its direction; `initialize_positions` sets its gain afterwards.
    elif isinstance(module, PositionalConv):
        draw_uniform(parameter, module.direction)

    # The only parameter that belongs to the Encoder itself is masked_spec_embed.
    elif isinstance(module, Encoder):
        parameter.uniform_()

    # Linear layers, embeddings, and the matrix of a head that is not tied.
    else:
        parameter.normal_(0.0, std)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            parameter[module.padding_idx].zero_()


def draw_uniform(parameter: Tensor, weight: Tensor) -> None:
    """Draw from -1 / sqrt(fan_in) to 1 / sqrt(fan_in), where fan_in is that of `weight`."""
    fan_in = weight[0].numel()
    bound = fan_in**-0.5
    parameter.uniform_(-bound, bound)

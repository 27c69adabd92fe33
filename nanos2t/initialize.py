"""How new weights are drawn: by the type of the module, as transformers does it.

Official code: `_init_weights` in transformers/models/wav2vec2/modeling_wav2vec2.py and its counterparts in the
decoders. Here are the distributions that are in effect there.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from nanos2t.wav2vec2 import Encoder, PositionalConv


@torch.no_grad()
def initialize_weights(model: nn.Module, names: Collection[str] | None = None) -> None:
    """Draw the weights of a SpeechEncoderDecoder in place: all, or those with these parameter names."""
    stds = {
        "encoder": model.encoder.config.init_std,
        "bridge": model.decoder.config.init_std,
        "decoder": model.decoder.config.init_std,
    }
    for part_name, std in stds.items():
        part = model.get_submodule(part_name)
        for module_name, module in part.named_modules(prefix=part_name):
            own = module.named_parameters(prefix=module_name, recurse=False)
            for name, parameter in own:
                if names is not None and name not in names:
                    continue
                if module is model.encoder.feature_projection.proj:
                    draw_uniform(parameter, module.weight)
                else:
                    initialize_parameter(module, parameter, std)

    # The gain starts as the length of each tap's direction: then the weight is the direction itself.
    positions = model.encoder.positions
    if names is None or "encoder.positions.gain" in names:
        positions.gain.copy_(positions.direction.norm(dim=(0, 1), keepdim=True))


def initialize_parameter(module: nn.Module, parameter: Tensor, std: float) -> None:
    """Draw one parameter of a module; matrices have the standard deviation `std`."""
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
        parameter.fill_(1.0 if parameter is module.weight else 0.0)

    elif isinstance(module, nn.Conv1d):
        # torch's own initialisation, but for the weight (He et al. 2015).
        if parameter is module.weight:
            nn.init.kaiming_normal_(parameter)
        else:
            draw_uniform(parameter, module.weight)

    elif isinstance(module, PositionalConv):
        if parameter is module.direction:
            draw_uniform(parameter, module.direction)
        elif parameter is module.bias:
            parameter.zero_()

    elif isinstance(module, Encoder):
        # Its only parameter of its own is masked_spec_embed.
        parameter.uniform_()

    elif parameter.ndim == 1:
        # The biases of linear layers and of the head.
        parameter.zero_()

    else:
        # Linear layers, embeddings, the output matrix of an untied head.
        parameter.normal_(0.0, std)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            parameter[module.padding_idx].zero_()


def draw_uniform(parameter: Tensor, weight: Tensor) -> None:
    """Draw from -1 / sqrt(fan_in) to 1 / sqrt(fan_in), as torch does for new layers."""
    bound = weight[0].numel() ** -0.5
    parameter.uniform_(-bound, bound)

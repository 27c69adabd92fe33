"""How new weights are drawn."""

from collections.abc import Collection

import torch
from torch import nn


@torch.no_grad()
def initialize_weights(model: nn.Module, names: Collection[str] | None = None) -> None:
    """Draw the weights `names`, or all, by the laws that transformers' `_init_weights` has in effect."""
    pad, positions = model.decoder.config.pad_token_id, model.encoder.positions
    chosen = {
        name: part for name, part in model.named_parameters() if names is None or name in names
    }
    for name, parameter in chosen.items():
        conv, part = (
            ".convs." in name,
            model.encoder if name.startswith("encoder") else model.decoder,
        )
        if "norm" in name:
            parameter.fill_(name.endswith("weight"))
        elif conv and parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        elif (
            conv
            or name.startswith("encoder.feature_projection.")
            or name == "encoder.positions.direction"
        ):
            bound = model.get_parameter(name.replace(".bias", ".weight"))[0].numel() ** -0.5
            parameter.uniform_(-bound, bound)
        elif name == "encoder.masked_spec_embed":
            parameter.uniform_()
        elif parameter.ndim > 1:
            parameter.normal_(0.0, part.config.init_std)
        else:
            parameter.zero_()
        if pad is not None and name == "decoder.embed.tokens.weight":
            parameter[pad].zero_()
    if names is None:
        positions.gain.copy_(positions.direction.norm(dim=(0, 1), keepdim=True))

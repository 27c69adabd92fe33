"""Shared by tests."""

from contextlib import contextmanager
from functools import cache
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from helpers.pairs import ours_from, tiny_pair
from nanos2t import wav2vec2
from nanos2t.wav2vec2 import Encoder

TOLERANCE = 1e-10


SIZES = {
    "hidden_size": 45, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 31,
    "conv_dim": (11, 13, 17), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 3, "layer_norm_eps": 1e-3,
}  # fmt: skip


LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}


THREE = {"add_adapter": True, "num_adapter_layers": 3}


TWO = {"add_adapter": True, "num_adapter_layers": 2}


VARIANTS = {
    "base": {},
    "large": LARGE,
    "group, pre-norm, odd kernel": {"do_stable_layer_norm": True, "num_conv_pos_embeddings": 7},
    "group, biases, gelu_tanh": {"conv_bias": True, "hidden_act": "gelu_new"},
    "layer, post-norm, relu": {**LARGE, "do_stable_layer_norm": False, "hidden_act": "relu"},
    "layer, conv relu": {"feat_extract_norm": "layer", "feat_extract_activation": "relu"},
    "hubert base": {"model_type": "hubert"},
    "hubert, no norm": {"model_type": "hubert", "feat_proj_layer_norm": False},
    "hubert large, conv gelu_tanh": {
        "model_type": "hubert",
        "feat_extract_activation": "gelu_new",
        **LARGE,
    },
    "adapter": {**LARGE, **THREE},
    "adapter, other width": {**LARGE, **THREE, "output_hidden_size": 19},
    "group, adapter": {**TWO, "num_conv_pos_embeddings": 9},
    "group, adapter, other width": {**THREE, "output_hidden_size": 57},
    "adapter, kernel 2, stride 3": {**TWO, "adapter_kernel_size": 2, "adapter_stride": 3},
}


LENGTHS = 431, 700, 30, 333, 52  # the shortest has one frame


SHORT = 29, 0, 1  # shorter than one frame: HF crashes


@cache
def encoders(variant: str) -> tuple[nn.Module, Encoder]:
    """HF's encoder and ours with the same spread weights, in eval mode; all tests get the same two."""
    options = {**SIZES, **VARIANTS[variant]}
    width = options.get("output_hidden_size", options["hidden_size"])
    decoder = {
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }  # of no interest here
    theirs = tiny_pair(options.pop("model_type", "wav2vec2"), encoder=options, decoder=decoder)
    with TemporaryDirectory() as folder:
        return theirs.encoder, ours_from(theirs, folder).encoder


def waves(*lengths: int, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """A padded batch of noise (B, L) and the real samples of each item (B,)."""
    rng = torch.Generator().manual_seed(sum(lengths))
    batch = torch.full((len(lengths), max(lengths)), fill, dtype=torch.float64)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = torch.randn(length, generator=rng, dtype=torch.float64)
    return batch, torch.tensor(lengths)


def items(batch: Tensor, lengths: Tensor) -> list[Tensor]:
    return [row[None, :length] for row, length in zip(batch, lengths, strict=True)]


@contextmanager
def recorded(modules: dict[str, nn.Module], change=None):
    """What the modules return while the block runs, by name; `change(name, output)` replaces it."""
    seen = {}

    def hook(name):
        def keep(_module, _arguments, output):
            rest = output[1:] if isinstance(output, tuple) else None
            output = output[0] if isinstance(output, tuple) else output
            output = output if change is None else change(name, output)
            seen[name] = output
            return output if rest is None else (output, *rest)

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    yield seen
    for handle in handles:
        handle.remove()


def their_stages(encoder: nn.Module) -> dict[str, nn.Module]:
    convs = encoder.feature_extractor.conv_layers
    adapter = getattr(encoder, "adapter", None)
    return {
        **{f"conv {i}": conv.conv for i, conv in enumerate(convs)},
        "feature encoder": encoder.feature_extractor,
        "projection": encoder.feature_projection,
        "positional conv": encoder.encoder.pos_conv_embed,
        **{f"block {i}": block for i, block in enumerate(encoder.encoder.layers)},
        "norm": encoder.encoder.layer_norm,
        **(
            {f"adapter conv {i}": layer.conv for i, layer in enumerate(adapter.layers)}
            if adapter
            else {}
        ),
        "whole": encoder,
    }


def our_stages(encoder: Encoder) -> dict[str, nn.Module]:
    return {
        **{f"conv {i}": layer.conv for i, layer in enumerate(encoder.feature_encoder.conv_layers)},
        "feature encoder": encoder.feature_encoder,
        "projection": encoder.feature_projection,
        "positional conv": encoder.positions,
        **{f"block {i}": block for i, block in enumerate(encoder.blocks)},
        "norm": encoder.norm,
        **{f"adapter conv {i}": layer.conv for i, layer in enumerate(encoder.adapter.layers)},
        "whole": encoder,
    }


def time_first(name: str, output, ours: bool) -> Tensor:
    """(B, T, width), whatever the stage returns."""
    output = getattr(output, "last_hidden_state", output)
    return (
        output.transpose(1, 2)
        if "conv " in name or (name == "feature encoder" and not ours)
        else output
    )


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference, infinite if there is NaN in it; ValueError if the shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return (a - b).abs().nan_to_num(nan=torch.inf).max().item() if a.numel() else 0.0


@torch.no_grad()
def stage_differences(variant: str, lengths: tuple[int, ...] = LENGTHS) -> dict[str, float]:
    """Ours in a batch against HF item by item, {stage: largest difference at a real frame}."""
    theirs, ours = encoders(variant)
    batch, samples = waves(*lengths)
    with recorded(our_stages(ours)) as got:
        _, frames = ours(batch, samples)
    differences = dict.fromkeys(got, 0.0)
    for i, item in enumerate(items(batch, samples)):
        with recorded(their_stages(theirs)) as wanted:
            theirs(item)
        for name in got:
            want, have = time_first(name, wanted[name], False), time_first(name, got[name], True)
            differences[name] = max(differences[name], largest(have[i, : want.shape[1]], want[0]))
        assert frames[i] == want.shape[1]
    return differences


@torch.no_grad()
def batch_difference(
    variant: str, lengths: tuple[int, ...] = LENGTHS + SHORT, fill: float = 0.0
) -> float:
    """The largest difference between an item of a padded batch and the same item alone, ours both."""
    ours = encoders(variant)[1]
    batch, samples = waves(*lengths, fill=fill)
    together, frames = ours(batch, samples)
    alone = [ours(item) for item in items(batch, samples)]
    assert all(count is None for _, count in alone)
    assert frames.tolist() == [item.shape[1] for item, _ in alone]
    return max(largest(together[i, : item.shape[1]], item[0]) for i, (item, _) in enumerate(alone))


def variants(*words: str, without: str = "no such word"):
    """Parametrize with the variants whose name has one of the words."""
    names = [
        name for name in VARIANTS if any(word in name for word in words) and without not in name
    ]
    return pytest.mark.parametrize("variant", names)


every_variant = pytest.mark.parametrize("variant", VARIANTS)


def count_frames(
    ours: Encoder, samples: Tensor, convs: int | None = None, adapters: int = 0
) -> Tensor:
    """Frames behind the first `convs` convolutions (None: all) and the first `adapters` adapter layers."""
    lengths = samples.clamp(min=ours.config.min_samples)
    for layer in (*ours.feature_encoder.conv_layers[:convs], *ours.adapter.layers[:adapters]):
        lengths = wav2vec2.conv_output_lengths(lengths, layer.conv)
    return lengths

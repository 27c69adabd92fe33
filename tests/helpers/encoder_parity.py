"""Encoders of transformers (HF) and ours with the same weights, and how far they are apart.

Our encoder always gets the padded batch, HF each item alone: HF's own batches are not exact.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from helpers.pairs import ours_from, tiny_pair
from nanos2t import wav2vec2
from nanos2t.wav2vec2 import Encoder

# The largest difference that float64 may make.
TOLERANCE = 1e-10

# Every size is another number, so that no two dimensions can be confused.
SIZES = {
    "hidden_size": 45,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 31,
    "conv_dim": (11, 13, 17),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 3,
    "layer_norm_eps": 1e-3,
}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
TWO = {"add_adapter": True, "num_adapter_layers": 2}
THREE = {"add_adapter": True, "num_adapter_layers": 3}

# Distances beyond the largest, and some of each kind below, are in the batches.
WAVLM = {"model_type": "wavlm", "num_buckets": 12, "max_bucket_distance": 17}
DATA2VEC = {
    "model_type": "data2vec-audio",
    "num_conv_pos_embeddings": 3,
    "conv_pos_kernel_size": 5,
}

# What is not as in SIZES: fields of HF's config.
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
    "wavlm": {**WAVLM, "num_buckets": 11, "max_bucket_distance": 20},
    "wavlm, pre-norm, projection": {**WAVLM, **LARGE, **THREE, "output_hidden_size": 19},
    "data2vec": {**DATA2VEC, "conv_pos_kernel_size": 6},
    "data2vec, biases, adapter": {**DATA2VEC, **TWO, "conv_bias": True},
    "adapter, kernel 2, stride 3": {**TWO, "adapter_kernel_size": 2, "adapter_stride": 3},
}

# Samples of the items of a batch; the shortest has one frame.
LENGTHS = 431, 700, 30, 333, 52

# Shorter than one frame: HF raises an error.
SHORT = 29, 0, 1

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def variants(*words: str) -> pytest.MarkDecorator:
    """Parametrize with the variants whose name has one of the words."""
    names = [name for name in VARIANTS if any(word in name for word in words)]
    return pytest.mark.parametrize("variant", names)


@cache
def encoders(variant: str) -> tuple[nn.Module, Encoder]:
    """HF's encoder and ours with the same spread weights, in eval mode.

    All tests get the same two.
    """
    options = {**SIZES, **VARIANTS[variant]}
    width = options.get("output_hidden_size", options["hidden_size"])
    decoder = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1}  # not used
    theirs = tiny_pair(options.pop("model_type", "wav2vec2"), encoder=options, decoder=decoder)
    with TemporaryDirectory() as folder:
        return theirs.encoder, ours_from(theirs, folder).encoder


# Batches


def waves(*lengths: int, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """A batch of noise (B, L), padded with `fill`, and its sample_lengths (B,)."""
    rng = torch.Generator().manual_seed(sum(lengths))
    batch = torch.full((len(lengths), max(lengths)), fill, dtype=torch.float64)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = torch.randn(length, generator=rng, dtype=torch.float64)
    return batch, torch.tensor(lengths)


def items(batch: Tensor, lengths: Tensor) -> list[Tensor]:
    """Each item of a batch (B, L) alone, without its padding: (1, length)."""
    return [row[None, :length] for row, length in zip(batch, lengths, strict=True)]


def count_frames(
    ours: Encoder, sample_lengths: Tensor, convs: int | None = None, adapters: int = 0
) -> Tensor:
    """Frame lengths after the first `convs` convolutions (None: all) and adapter layers."""
    layers = [*ours.feature_encoder.conv_layers[:convs], *ours.adapter.layers[:adapters]]
    lengths = sample_lengths.clamp(min=ours.config.min_samples)
    for layer in layers:
        lengths = wav2vec2.conv_output_lengths(lengths, layer.conv)
    return lengths


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference, infinite if there is NaN in it; ValueError if the shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if a.numel() == 0:
        return 0.0
    return (a - b).abs().nan_to_num(nan=torch.inf).max().item()


# Stages


def their_stages(encoder: nn.Module) -> dict[str, nn.Module]:
    stages = {}
    for i, layer in enumerate(encoder.feature_extractor.conv_layers):
        stages[f"conv {i}"] = layer.conv
    stages["feature encoder"] = encoder.feature_extractor
    stages["projection"] = encoder.feature_projection
    stages["positional conv"] = encoder.encoder.pos_conv_embed
    for i, block in enumerate(encoder.encoder.layers):
        stages[f"block {i}"] = block
    stages["norm"] = encoder.encoder.layer_norm
    adapter = getattr(encoder, "adapter", None)
    if adapter is not None:
        for i, layer in enumerate(adapter.layers):
            stages[f"adapter conv {i}"] = layer.conv
    stages["whole"] = encoder
    return stages


def our_stages(encoder: Encoder) -> dict[str, nn.Module]:
    stages = {}
    for i, layer in enumerate(encoder.feature_encoder.conv_layers):
        stages[f"conv {i}"] = layer.conv
    stages["feature encoder"] = encoder.feature_encoder
    stages["projection"] = encoder.feature_projection
    stages["positional conv"] = encoder.positions
    for i, block in enumerate(encoder.blocks):
        stages[f"block {i}"] = block
    stages["norm"] = encoder.norm
    for i, layer in enumerate(encoder.adapter.layers):
        stages[f"adapter conv {i}"] = layer.conv
    stages["whole"] = encoder
    return stages


@contextmanager
def recorded(
    modules: dict[str, nn.Module], change: Callable[[str, Tensor], Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """What the modules return while the block runs, by name; `change(name, output)` replaces it."""
    outputs = {}

    def keep(name: str, module: nn.Module, arguments: tuple, result):
        # Of a tuple, the first is the output, and the rest is left alone.
        output = result[0] if isinstance(result, tuple) else result
        if change is not None:
            output = change(name, output)
        outputs[name] = output
        if isinstance(result, tuple):
            return output, *result[1:]
        return output

    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_hook(partial(keep, name)))
    yield outputs
    for handle in handles:
        handle.remove()


def is_channels_first(name: str, ours: bool) -> bool:
    """Whether a stage returns (B, C, T) instead of (B, T, C)."""
    if name == "feature encoder":
        return not ours
    return name.startswith(("conv ", "adapter conv "))


def time_first(name: str, output, ours: bool) -> Tensor:
    """(B, T, width), whatever the stage returns."""
    output = getattr(output, "last_hidden_state", output)
    if is_channels_first(name, ours):
        return output.transpose(1, 2)
    return output


# Differences


@torch.no_grad()
def stage_differences(variant: str, lengths: tuple[int, ...] = LENGTHS) -> dict[str, float]:
    """Ours in a batch against HF item by item, {stage: largest difference at a real frame}."""
    theirs, ours = encoders(variant)
    batch, sample_lengths = waves(*lengths)
    with recorded(our_stages(ours)) as got:
        _, frame_lengths = ours(batch, sample_lengths)

    differences = dict.fromkeys(got, 0.0)
    for i, item in enumerate(items(batch, sample_lengths)):
        with recorded(their_stages(theirs)) as wanted:
            theirs(item)
        for name in got:
            want = time_first(name, wanted[name], ours=False)[0]
            have = time_first(name, got[name], ours=True)[i, : len(want)]
            differences[name] = max(differences[name], largest(have, want))
        # The last stage is the whole encoder.
        assert frame_lengths[i] == len(want)
    return differences


@torch.no_grad()
def batch_difference(
    variant: str, lengths: tuple[int, ...] = LENGTHS + SHORT, fill: float = 0.0
) -> float:
    """The largest difference between an item in a padded batch and alone, both ours."""
    ours = encoders(variant)[1]
    batch, sample_lengths = waves(*lengths, fill=fill)
    together, frame_lengths = ours(batch, sample_lengths)

    worst = 0.0
    for i, item in enumerate(items(batch, sample_lengths)):
        alone, no_lengths = ours(item)
        assert no_lengths is None
        assert frame_lengths[i] == alone.shape[1]
        worst = max(worst, largest(together[i, : alone.shape[1]], alone[0]))
    return worst

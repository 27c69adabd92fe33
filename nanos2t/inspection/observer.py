"""Observe a forward pass: what each stage returns, how long it takes, and the attention weights.

    with observe_stages(model) as stages:
        model(input_values, decoder_input_ids=tokens)
    stages["encoder block 0"]  # (B, T, H)

The observers are forward hooks: they read what passes through a module and change nothing. The
names of the stages are the same for our model and for a SpeechEncoderDecoderModel of transformers,
in the order of the data: "conv 0" ..., "projection", "positions", "encoder norm", "encoder block 0"
..., "adapter norm", "adapter 0" ..., "bridge", "embedding", "decoder block 0" ..., "decoder norm",
"logits". A model has only the stages that its configuration asks for. (A pre-norm encoder computes
"encoder norm" after its blocks.)

Shapes: B batch, T tokens or frames, S source frames, H hidden_size, N heads, D head_size.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from nanos2t import remap, wav2vec2
from nanos2t.decoder import causal_mask
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import Attention

# The path of a module in our model and the name of its stage; {i} is the number of a layer.
OUR_STAGES = {
    "encoder.feature_encoder.conv_layers.{i}": "conv {i}",
    "encoder.feature_projection": "projection",
    "encoder.positions": "positions",
    "encoder.norm": "encoder norm",
    "encoder.blocks.{i}": "encoder block {i}",
    "encoder.adapter.norm": "adapter norm",
    "encoder.adapter.layers.{i}": "adapter {i}",
    "bridge": "bridge",
    "decoder.embed": "embedding",
    "decoder.blocks.{i}": "decoder block {i}",
    "decoder.norm": "decoder norm",
    "decoder.head": "logits",
}

# The same for the model of transformers. The paths inside its decoder depend on the family.
THEIR_STAGES = {
    "encoder.feature_extractor.conv_layers.{i}": "conv {i}",
    "encoder.feature_projection": "projection",
    "encoder.encoder.pos_conv_embed": "positions",
    "encoder.encoder.layer_norm": "encoder norm",
    "encoder.encoder.layers.{i}": "encoder block {i}",
    "encoder.adapter.proj_layer_norm": "adapter norm",
    "encoder.adapter.layers.{i}": "adapter {i}",
    "enc_to_dec_proj": "bridge",
    "decoder": "logits",
}


def find_stages(model: nn.Module) -> dict[str, nn.Module]:
    """Return the module that computes each stage of our model, or of transformers'."""
    if isinstance(model, SpeechEncoderDecoder):
        names = OUR_STAGES
    else:
        names = THEIR_STAGES | name_decoder_stages(model.config.decoder.model_type)

    stages = {}
    for path, module in model.named_modules():
        parent, _, last = path.rpartition(".")
        pattern = path
        if last.isdecimal():
            pattern = parent + ".{i}"
        # An Identity takes the place of a part that this configuration does not have.
        if pattern in names and not isinstance(module, nn.Identity):
            stages[names[pattern].format(i=last)] = module
    return stages


def name_decoder_stages(family: str) -> dict[str, str]:
    """Return paths and stages inside a decoder of transformers, from our table of its weights."""
    names = {}
    for row in remap.read_table(family).tensors:
        # Rows without flags are enough: each block has a norm with such a row.
        if row.flags:
            continue
        if row.ours == "norm":
            names[f"decoder.{row.theirs}"] = "decoder norm"
        if row.ours.startswith("blocks."):
            parent, _, _ = row.theirs.partition(".{i}")
            names[f"decoder.{parent}.{{i}}"] = "decoder block {i}"
    return names


@contextmanager
def observe_stages(
    model: nn.Module, summarise: Callable[[str, Tensor], object] | None = None
) -> Iterator[dict]:
    """Collect what each stage returns while the `with` block runs, in the order of the data.

    A stage that runs several times keeps its last tensor. With `summarise`, the dictionary holds
    `summarise(name, tensor)` instead, and no tensor stays in memory.
    """
    is_ours = isinstance(model, SpeechEncoderDecoder)
    stages = {}

    def keep(name: str, tensor: Tensor) -> None:
        if summarise:
            stages[name] = summarise(name, tensor.detach())
        else:
            stages[name] = tensor.detach()

    def keep_output(name: str, module: nn.Module, arguments: tuple, output: object) -> None:
        tensor = first_tensor(output)
        # The adapter layers of transformers return their channels first, (B, H, T).
        if not is_ours and name.removeprefix("adapter ").isdecimal():
            tensor = tensor.transpose(1, 2)
        keep(name, tensor)

    def keep_input(module: nn.Module, arguments: tuple, named: dict) -> None:
        inputs = [*arguments, *named.values()]
        keep("embedding", inputs[0])

    with ExitStack() as hooks:
        for name, module in find_stages(model).items():
            # Not every family of transformers has a module that returns the embedding: take what
            # block 0 is given.
            if name == "decoder block 0" and not is_ours:
                hook = module.register_forward_pre_hook(keep_input, with_kwargs=True)
                hooks.enter_context(hook)
            hook = module.register_forward_hook(partial(keep_output, name))
            hooks.enter_context(hook)
        yield stages


def first_tensor(output: object) -> Tensor:
    """Return the one tensor to look at in an output: the logits, or the first of a tuple."""
    output = getattr(output, "logits", output)
    if isinstance(output, tuple):
        return output[0]
    return output


@contextmanager
def time_stages(model: nn.Module) -> Iterator[dict[str, float]]:
    """Measure the seconds that the forward of each stage takes while the `with` block runs.

    Enter it before other observers: then their work is not measured.
    """
    started = {}
    seconds = {}

    def start(name: str, module: nn.Module, arguments: tuple) -> None:
        synchronise(module)
        started[name] = time.perf_counter()

    def stop(name: str, module: nn.Module, arguments: tuple, output: object) -> None:
        synchronise(module)
        seconds[name] = time.perf_counter() - started[name]

    with ExitStack() as hooks:
        for name, module in find_stages(model).items():
            hooks.enter_context(module.register_forward_pre_hook(partial(start, name)))
            hooks.enter_context(module.register_forward_hook(partial(stop, name)))
        yield seconds


def synchronise(module: nn.Module) -> None:
    """Wait for the GPU, which computes while Python goes on, if the module is on one."""
    if any(parameter.is_cuda for parameter in module.parameters()):
        torch.cuda.synchronize()


@contextmanager
def observe_attention(
    modules: Iterable[Attention], summarise: Callable[[Tensor], Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """Collect the attention weights (B, N, T, S) of these modules while the `with` block runs.

    The list has one tensor for each call, in order. The model computes its attention without ever
    showing the weights: they are computed here once more, from the same input. With `summarise`,
    the list holds `summarise(weights)` instead, which may be smaller. Calls of other threads, which
    may share the model, are not observed.
    """
    observed = []
    own_thread = threading.get_ident()

    @torch.no_grad()
    def keep_weights(
        module: Attention, arguments: tuple, named: dict, output: Tensor | None = None
    ) -> None:
        # If this thread removes the hook while another thread is inside the module, torch calls the
        # hook there without `with_kwargs`, so that `output` is missing.
        if threading.get_ident() != own_thread:
            return
        weights = compute_weights(module, *arguments, **named)  # (B, N, T, S)
        if summarise:
            weights = summarise(weights)
        observed.append(weights)

    with ExitStack() as hooks:
        for module in modules:
            hook = module.register_forward_hook(keep_weights, with_kwargs=True)
            hooks.enter_context(hook)
        yield observed


def compute_weights(
    attention: Attention,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return the weights (B, N, T, S) that `attention.forward` gives to `values`.

    The arguments are those of `Attention.forward`.
    """
    if is_causal:
        mask = causal_mask(x.shape[1], 0, x.device)  # (T, T)
    queries = attention.split_heads(attention.q_proj(x))  # (B, N, T, D)
    return wav2vec2.attention_weights(queries, keys, mask)

"""How much memory and time a training step takes, on one GPU and on many: by counting, without any
GPU.

    python tutorials/recipes/scale.py                       # XLS-R-300m + mBART-50 on 1, 8 and 64 GPUs
    python tutorials/recipes/scale.py --clips 16 --checkpoint --flops 312e12 --memory 40e9

The model stands on the meta device: it has shapes, but no numbers. What is counted, and why, is
said in scale.md. tests/tutorials/test_scale.py holds each count against a measurement at sizes that
a CPU can do.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nanos2t import pretrained
from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining, conv_output_lengths

FLOAT, ADAM = 4, 8  # bytes: a number in float32; the two means that AdamW keeps of it


@dataclass(frozen=True)
class Step:
    """What one GPU does before the weights are updated: clips of equal length, as many texts."""

    clips: int = 8
    samples: int = 15 * 16_000
    tokens: int = 64
    bfloat16: bool = (
        True  # autocast: matrices are multiplied in bfloat16, norms and sums are float32
    )
    frozen: bool = True  # the convolutions are not trained: nothing of them is kept
    checkpoint: bool = False  # of each block only its input is kept, the rest is computed again
    cpu: bool = (
        False  # there a dropout keeps factors, not bytes, and autocast lets norms be bfloat16
    )

    @property
    def narrow(self) -> int:
        """Bytes of a number that goes in or out of a matrix product."""
        return 2 if self.bfloat16 else FLOAT

    @property
    def wide(self) -> int:
        """Bytes of a number that goes in or out of one of the encoder's norms."""
        return self.narrow if self.cpu else FLOAT


@dataclass(frozen=True)
class Machine:
    """Bytes and seconds. The defaults are one H100 (SXM), 8 in a node, 400 Gbit/s of network for
    each.
    """

    flops: float = 989e12  # a second, of dense bfloat16 products, by the data sheet
    efficiency: float = 0.35  # the share of it that training gets
    memory: float = 80e9
    stream: float = 3.35e12  # bytes a second between a GPU and its memory
    node: int = 8  # GPUs that NVLink joins
    link: float = 360e9  # bytes a second that a GPU sends in its node: 80 % of NVLink's 450
    network: float = 40e9  # and to other nodes: 80 % of 400 Gbit/s
    overlap: float = 0.8  # share of the backward pass behind which sending hides


@dataclass(frozen=True)
class Stage:
    """A part of the model in the order of the forward pass. Bytes: what it keeps for the
    backward pass, and what its backward pass needs for a moment on top of that.
    """

    name: str
    parameters: int
    kept: int
    passing: int = 0


def count(module: nn.Module | None) -> int:
    """Parameters that are trained."""
    return (
        sum(p.numel() for p in module.parameters() if p.requires_grad) if module is not None else 0
    )


def frames_of(model: SpeechEncoderDecoder, samples: int) -> list[int]:
    """How long the sequence is behind each convolution of the feature encoder, then of the
    adapter.
    """
    lengths = [samples]
    for layer in (*model.encoder.feature_encoder.conv_layers, *model.encoder.adapter.layers):
        lengths.append(conv_output_lengths(lengths[-1], layer.conv))
    return lengths[1:]


def attention(rows: int, config, step: Step, wide: int = FLOAT, sources: int = 0) -> int:
    """Bytes that attention keeps of `rows` queries, from its norm to its dropout. With `sources`,
    they look at so many frames of a memory, whose keys and values are kept here, the memory itself
    elsewhere.

    The norm keeps its input and two numbers a row. Three products read what it gives: they share
    it, or if autocast makes it narrow it makes a copy for each. The fused kernel keeps queries,
    keys, values, its result and one number a row and head.
    """
    size, copies = config.hidden_size, (1 if sources else 3) if wide > step.narrow else 1
    norm = rows * size * wide + 2 * rows * FLOAT
    inside = (copies + 2) * rows * size + 2 * (sources or rows) * size
    heads = rows * config.num_heads * FLOAT
    return (
        norm
        + inside * step.narrow
        + heads
        + dropped(rows * size, config.training.hidden_dropout, step)
    )


def mlp(rows: int, config, step: Step, wide: int = FLOAT) -> int:
    """The norm's input, its result, and twice the inner width: before the activation, and after
    it.
    """
    size, inner, training = config.hidden_size, config.intermediate_size, config.training
    kept = rows * (size * wide + 2 * FLOAT) + rows * (size + 2 * inner) * step.narrow
    kept += dropped(rows * inner, training.activation_dropout, step)
    return kept + dropped(rows * size, training.hidden_dropout, step)


def dropped(numbers: int, rate: float, step: Step) -> int:
    """Bytes of a dropout's mask."""
    return numbers * (FLOAT if step.cpu else 1) if rate else 0


def checkpointed(name: str, block: nn.Module, numbers: int, kept: int, step: Step) -> Stage:
    """A block; with checkpoints just the numbers that go into it are kept, and all of the rest
    passes by.
    """
    if step.checkpoint:
        return Stage(name, count(block), numbers * FLOAT, kept)
    return Stage(name, count(block), kept)


def encoder_stages(model: SpeechEncoderDecoder, step: Step) -> Iterator[Stage]:
    encoder, narrow, wide = model.encoder, step.narrow, step.wide
    config, lengths = encoder.config, frames_of(model, step.samples)
    convs = len(config.conv_channels)
    size, frames = config.hidden_size, lengths[convs - 1]
    rows = step.clips * frames
    kept = step.clips * step.samples * narrow
    for i, (channels, length) in enumerate(zip(config.conv_channels, lengths[:convs])):
        numbers, normed = step.clips * length * channels, i == 0 or config.conv_norm == "layer"
        kept += numbers * (2 * wide if normed else narrow)  # the norm's input; the activation's
        kept += numbers * narrow if i + 1 < convs else 0  # the next convolution's
        kept += (
            2 * FLOAT * step.clips * (length if config.conv_norm == "layer" else channels) * normed
        )
    yield Stage("feature encoder", count(encoder.feature_encoder), 0 if step.frozen else kept)
    channels = config.conv_channels[-1]
    kept = rows * (channels * wide + 2 * FLOAT) * config.feat_proj_norm + rows * channels * narrow
    kept += dropped(rows * size, config.training.feat_proj_dropout, step)
    yield Stage("feature projection", count(encoder.feature_projection), kept)
    weight = encoder.positions.direction.numel()
    padded = step.clips * (frames + 1 - config.position_kernel % 2) * size
    kept = weight * (FLOAT + narrow) + (rows * size + padded) * narrow
    kept += (
        rows * (size * wide + 2 * FLOAT) * (not config.pre_norm)
    )  # the norm in front of the blocks
    kept += dropped(rows * size, config.training.hidden_dropout, step)
    yield Stage(
        "positions", count(encoder.positions), kept, 6 * weight * FLOAT
    )  # through the weight norm
    kept = attention(rows, config, step, wide) + mlp(rows, config, step, wide)
    for i, block in enumerate(encoder.blocks):
        yield checkpointed(f"encoder block {i}", block, rows * size, kept, step)
    kept = rows * (size * wide + 2 * FLOAT) * config.pre_norm
    if config.output_size != size:
        kept += rows * (size * narrow + config.output_size * wide + 2 * FLOAT)
    for before, after in zip(lengths[convs - 1 :], lengths[convs:]):
        kept += step.clips * (before + 2 * after) * config.output_size * narrow
    yield Stage("adapter", count(encoder.adapter) + count(encoder.norm), kept)


def memory_copies(model: SpeechEncoderDecoder, step: Step) -> int:
    """How often the memory is kept for the keys and values of all layers: once if they read it
    as it lies; if it is float32 and they are not, or the adapter leaves it transposed, each has
    a copy.
    """
    adapter, bridge = model.encoder.config.adapter_layers, isinstance(model.bridge, nn.Linear)
    apart = not bridge and (adapter or step.wide > step.narrow)
    return 2 * len(model.decoder.blocks) if apart else 1


def decoder_stages(model: SpeechEncoderDecoder, step: Step) -> Iterator[Stage]:
    decoder, narrow = model.decoder, step.narrow
    config, frames = decoder.config, frames_of(model, step.samples)[-1]
    size, rows, sources = config.hidden_size, step.clips * step.tokens, step.clips * frames
    bridge = sources * model.encoder.config.output_size * narrow if count(model.bridge) else 0
    heard = memory_copies(model, step) * sources * size * narrow
    yield Stage("bridge", count(model.bridge), bridge + heard)
    kept = rows * (size + 2) * FLOAT * config.embed_norm + rows * 8  # and the ids
    kept += dropped(rows * size, config.training.hidden_dropout, step)
    table = decoder.embed.tokens.weight.numel() * config.tied  # its gradient comes with the head's
    yield Stage("embedding", count(decoder.embed) - table, kept, table * FLOAT)  # and is added to
    kept = attention(rows, config, step) + mlp(rows, config, step)
    kept += attention(rows, config, step, FLOAT, sources)
    for i, block in enumerate(decoder.blocks):
        stage = checkpointed(f"decoder block {i}", block, rows * size, kept, step)
        memory = 2 * sources * size * narrow * step.checkpoint  # keys and values come from outside
        yield replace(stage, kept=stage.kept + memory)
    kept = rows * (size + 2) * FLOAT * config.pre_norm + rows * size * narrow
    if config.mlm_head:  # what the dense product reads, the activation, the norm
        kept += rows * size * (2 * narrow + step.wide) + rows * 2 * FLOAT
    scores = rows * config.vocab_size  # log-probabilities are kept; their gradient passes by
    passing = scores * (FLOAT + (narrow if step.bfloat16 else 0))
    own = count(decoder.head) + count(decoder.norm) + table
    yield Stage("head and loss", own, kept + scores * FLOAT, passing)


def stages(model: SpeechEncoderDecoder, step: Step) -> list[Stage]:
    """What a step keeps for its backward pass, part by part. Where norms stand behind, a block's
    products read the result of the norm before it: as many bytes, counted one place later.
    """
    return [*encoder_stages(model, step), *decoder_stages(model, step)]


def copies(model: SpeechEncoderDecoder, step: Step) -> int:
    """Bytes of the bfloat16 copies that autocast makes of weights, and keeps until the step
    ends.
    """
    if not step.bfloat16:
        return 0
    parts = [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv1d))]
    weights = [p for part in parts for p in part.parameters() if p.requires_grad and p.ndim > 1]
    config = model.decoder.config
    return 2 * (sum(p.numel() for p in weights) + config.vocab_size * config.hidden_size)


def groups(model: SpeechEncoderDecoder) -> tuple[list[int], int]:
    """Parameters of what fully_shard gathers at a time, blocks, keys, values, and of the rest,
    the root.
    """
    own = []
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        apart = (
            [block.cross_attn.k_proj, block.cross_attn.v_proj]
            if hasattr(block, "cross_attn")
            else []
        )
        total = sum(p.numel() for p in block.parameters())
        inside = [sum(p.numel() for p in part.parameters()) for part in apart]
        own += [*inside, total - sum(inside)]
    return own, sum(p.numel() for p in model.parameters()) - sum(own)


def memory(
    model: SpeechEncoderDecoder, step: Step, size: int = 1, shard: bool = False
) -> dict[str, int]:
    """Bytes on each of `size` GPUs at the fullest moment of a step, the first one excepted.

    Alone, gradients appear as activations go; DDP keeps them all the time, in its buckets. Sharded,
    each GPU has its part of weights, gradients and means, and the groups that it works on. The
    update needs the roots of the second means, on a GPU of all weights at once.
    """
    kept, total = 0, count(model)
    left = total
    moments = [
        0 if step.cpu else total * FLOAT // (size if shard else 1)
    ]  # bytes, with gradients if alone
    moments[0] += total * FLOAT * (size == 1)
    for stage in stages(model, step):
        kept, left = kept + stage.kept, left - stage.parameters
        moments.append(
            kept + copies(model, step) + stage.passing + (left * FLOAT if size == 1 else 0)
        )
    weights = sum(p.numel() for p in model.parameters()) * FLOAT
    found = {"weights": weights, "AdamW": total * ADAM, "gradients": 0, "in flight": 0}
    if size > 1 and not shard:
        found |= {"gradients": total * FLOAT}
    if shard:
        own, root = groups(model)
        found |= {"weights": weights // size, "AdamW": total * ADAM // size}
        # weights of the root, of this group and of the next; gradients that are on their way
        found |= {"gradients": total * FLOAT // size, "in flight": (root + 3 * max(own)) * FLOAT}
    return found | {"activations": max(moments), "total": sum(found.values()) + max(moments)}


def wire(model: SpeechEncoderDecoder, size: int, shard: bool) -> float:
    """Bytes that each GPU sends in a step, along a ring (Patarasuk and Yuan 2009): a sum of all
    takes twice (size - 1) / size of the bytes, gathering or scattering once.
    """
    total, trained = sum(p.numel() for p in model.parameters()), count(model)
    numbers = 2 * trained
    if shard:  # gather for the forward pass, but for the root again for the backward pass; scatter gradients
        numbers = 2 * total - groups(model)[1] + trained
    return numbers * FLOAT * (size - 1) / size


def flops(model: SpeechEncoderDecoder, step: Step) -> tuple[int, int]:
    """Operations of the forward and of the backward pass, 2 for each product and sum, as torch
    counts.
    """
    values = torch.zeros(step.clips, step.samples, device="meta")
    tokens = torch.zeros(step.clips, step.tokens, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        logits = model(values, decoder_input_ids=tokens).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    again = 0
    if step.checkpoint:
        inside = forward.get_flop_counts()
        again = sum(sum(inside[name].values()) for name in inside if is_block(name))
    return forward.get_total_flops(), backward.get_total_flops() + again


def is_block(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[-1].isdecimal() and parts[-2] == "blocks"


def seconds(
    model: SpeechEncoderDecoder, step: Step, machine: Machine, size: int, shard: bool
) -> dict:
    """Seconds of a step: computing, sending, what of sending can not hide behind computing, the
    update.
    """
    forward, backward = (work / (machine.flops * machine.efficiency) for work in flops(model, step))
    speed = machine.link if size <= machine.node else machine.network
    sending = wire(model, size, shard) / speed if size > 1 else 0.0
    waiting = max(0.0, sending - machine.overlap * (backward + (forward if shard else 0)))
    update = (
        count(model) / (size if shard else 1) * 28 / machine.stream
    )  # 4 numbers read, 3 written
    total = forward + backward + waiting + update
    return {
        "compute": forward + backward,
        "send": sending,
        "wait": waiting,
        "update": update,
        "step": total,
    }


def pair(config: Path | None) -> SpeechEncoderDecoder:
    """The model on the meta device: of a config.json, or of XLS-R-300m and mBART-50 with three
    adapters.
    """
    if config is not None:
        configs = pretrained.parse_configs(json.loads(config.read_text()), config.parent)
        return SpeechEncoderDecoder.build_empty(configs)
    training = EncoderTraining(0.1, 0.1, 0.0, 0.0, 0.0, mask_time_prob=0.075)
    encoder = EncoderConfig.large(adapter_layers=3, training=training)
    configs = pretrained.ModelConfigs(encoder, DecoderConfig.mbart(activation="relu"))
    return SpeechEncoderDecoder.build_empty(configs)


def table(
    model: SpeechEncoderDecoder, step: Step, machine: Machine, sizes: list[int]
) -> Iterator[str]:
    """A row for each number of GPUs and way to share, as Markdown."""
    names = (
        "weights, AdamW, gradients, in flight, activations, **GB**, sent GB, compute ms, send, wait"
    )
    rows = [["GPUs", "shared by", *names.split(", "), "update", "**step ms**", "audio s/s"]]
    for size in sizes:
        for shard in (False, True) if size > 1 else (False,):
            bytes_of, time = (
                memory(model, step, size, shard),
                seconds(model, step, machine, size, shard),
            )
            fits = "" if bytes_of["total"] < machine.memory else " (!)"
            heard = size * step.clips * step.samples / 16_000 / time["step"]
            rows.append([str(size), "fully_shard" if shard else "DDP" if size > 1 else "-",
                         *(f"{value / 1e9:.2f}" for value in bytes_of.values()),
                         f"{wire(model, size, shard) / 1e9:.2f}",
                         *(f"{1000 * value:.1f}" for value in time.values()), f"{heard:,.0f}"])  # fmt: skip
            rows[-1][7] += fits
    rows.insert(1, ["--"] * len(rows[0]))
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="config.json of another pair")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=15.0, help="of a clip")
    for kind, skipped in ((Step, ("samples", "cpu")), (Machine, ())):
        for name, value in vars(kind()).items():
            how = {"type": float if isinstance(value, float) else int}
            how = {"action": argparse.BooleanOptionalAction} if isinstance(value, bool) else how
            if name not in skipped:
                parser.add_argument(f"--{name}", default=value, **how)
    options = vars(parser.parse_args())
    model = pair(options["config"])
    step = Step(**{key: options[key] for key in vars(Step()) if key in options})
    step = replace(step, samples=round(options["seconds"] * 16_000))
    machine = Machine(**{key: options[key] for key in vars(Machine())})
    if step.frozen:
        model.freeze_feature_encoder()
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {count(model):,} of them trained\n"
    )
    print("\n".join(table(model, step, machine, options["gpus"])))


if __name__ == "__main__":
    main()

"""Count how much memory and time a training step takes, on one GPU and on many, without any GPU.

    python tutorials/recipes/scale.py                       # XLS-R-300m + mBART-50 on 1, 8 and 64
    python tutorials/recipes/scale.py --clips 16 --checkpoint --flops 312e12 --memory 40e9

The model is on the meta device: it has shapes, but no numbers. tutorials/scale.md explains what is
counted; tests/tutorials/test_scale.py compares each count with a measurement at sizes that a CPU
can do.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scale_activations import (
    FLOAT,
    Step,
    autocast_bytes,
    count_parameters,
    count_trained,
    list_stages,
)
from torch.utils.flop_counter import FlopCounterMode

from nanos2t import pretrained
from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

ADAM = 8  # bytes of the two means that AdamW keeps of a number
UPDATE = 28  # bytes that the update moves for a number: four are read, three written
COLUMNS = (
    "GPUs", "shared by", "weights", "AdamW", "gradients", "in flight", "activations", "**GB**",
    "sent GB", "compute ms", "send", "wait", "update", "**step ms**", "audio s/s",
)  # fmt: skip


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
    overlap: float = 0.8  # share of the backward pass during which sending costs no time


# Memory


def count_shard_groups(model: SpeechEncoderDecoder) -> tuple[list[int], int]:
    """Return the parameters of each group that fully_shard gathers at a time, and of the root.

    The groups are the blocks and, apart from them, the key and value projections of
    cross-attention.
    """
    groups = []
    for block in model.encoder.blocks:
        groups.append(count_parameters(block))
    for block in model.decoder.blocks:
        keys = count_parameters(block.cross_attn.k_proj)
        values = count_parameters(block.cross_attn.v_proj)
        groups += [keys, values, count_parameters(block) - keys - values]
    return groups, count_parameters(model) - sum(groups)


def count_memory(
    model: SpeechEncoderDecoder, step: Step, size: int = 1, shard: bool = False
) -> dict[str, int]:
    """Return the bytes on each of `size` GPUs at the fullest moment of any step but the first.

    On one GPU gradients appear while activations go; DDP keeps them all the time, in its buckets.
    With `shard`, each GPU has its part of weights, gradients and means, and the groups that it
    works on.
    """
    trained = count_trained(model)
    weights = count_parameters(model) * FLOAT
    parts = {"weights": weights, "AdamW": trained * ADAM, "gradients": 0, "in flight": 0}
    if shard:
        # In flight: weights of the root, of this group and of the next; gradients to be sent.
        groups, root = count_shard_groups(model)
        parts = {
            "weights": weights // size,
            "AdamW": trained * ADAM // size,
            "gradients": trained * FLOAT // size,
            "in flight": (root + 3 * max(groups)) * FLOAT,
        }
    elif size > 1:
        parts["gradients"] = trained * FLOAT

    activations = peak_of_activations(model, step, size, shard)
    return parts | {"activations": activations, "total": sum(parts.values()) + activations}


def peak_of_activations(model: SpeechEncoderDecoder, step: Step, size: int, shard: bool) -> int:
    """Return the bytes that come and go in a step at their peak; on one GPU with the gradients."""
    trained = count_trained(model)

    # At the update, a GPU needs the roots of the second means of all its weights at once.
    update = 0
    if not step.cpu:
        update = trained * FLOAT // (size if shard else 1)
    if size == 1:
        update += trained * FLOAT

    # In the backward pass of a stage, earlier stages keep theirs, later ones have gradients.
    moments = [update]
    kept = 0
    remaining = trained
    for stage in list_stages(model, step):
        kept += stage.kept
        remaining -= stage.parameters
        moment = kept + autocast_bytes(model, step) + stage.passing
        if size == 1:
            moment += remaining * FLOAT
        moments.append(moment)
    return max(moments)


# Time


def count_sent(model: SpeechEncoderDecoder, size: int, shard: bool) -> float:
    """Return the bytes that each GPU sends in a step, along a ring (Patarasuk and Yuan 2009).

    A sum over all GPUs takes 2 (size - 1) / size of the bytes, gathering or scattering half of it.
    """
    numbers = 2 * count_trained(model)
    if shard:
        # Gather for the forward pass, and all but the root again for the backward pass; scatter
        # gradients.
        _, root = count_shard_groups(model)
        numbers = 2 * count_parameters(model) - root + count_trained(model)
    return numbers * FLOAT * (size - 1) / size


def count_flops(model: SpeechEncoderDecoder, step: Step) -> tuple[int, int]:
    """Return the operations of the forward and of the backward pass, as torch counts them.

    Each product and each sum counts, so a product of matrices has 2 for each weight and row.
    """
    values = torch.zeros(step.clips, step.samples, device="meta")
    tokens = torch.zeros(step.clips, step.tokens, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward:
        logits = model(values, decoder_input_ids=tokens).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()

    again = 0
    if step.checkpoint:
        for name, operations in forward.get_flop_counts().items():
            if is_block(name):
                again += sum(operations.values())
    return forward.get_total_flops(), backward.get_total_flops() + again


def is_block(name: str) -> bool:
    """Return whether a module's name is "...blocks.3"."""
    parts = name.split(".")
    return len(parts) > 1 and parts[-1].isdecimal() and parts[-2] == "blocks"


def estimate_seconds(
    model: SpeechEncoderDecoder, step: Step, machine: Machine, size: int, shard: bool
) -> dict[str, float]:
    """Return the seconds of a step: computing, sending, waiting for what is sent, the update."""
    forward, backward = (
        operations / (machine.flops * machine.efficiency) for operations in count_flops(model, step)
    )

    send = 0.0
    if size > 1:
        speed = machine.link if size <= machine.node else machine.network
        send = count_sent(model, size, shard) / speed
    computing_while_sending = backward
    if shard:
        computing_while_sending += forward
    wait = max(0.0, send - machine.overlap * computing_while_sending)

    own = count_trained(model) / (size if shard else 1)
    update = own * UPDATE / machine.stream
    compute = forward + backward
    total = compute + wait + update
    return {"compute": compute, "send": send, "wait": wait, "update": update, "step": total}


# The table


def build_pair(config: Path | None) -> SpeechEncoderDecoder:
    """Build a model on the meta device: of a config.json, or XLS-R-300m and mBART-50 with 3
    adapters.
    """
    if config is not None:
        configs = pretrained.parse_configs(json.loads(config.read_text()), config.parent)
        if configs.encoder.position_layers or configs.encoder.distance_buckets:
            raise SystemExit(f"{config}: encoders of {configs.families[0]} are not counted here")
        return SpeechEncoderDecoder.build_empty(configs)
    training = EncoderTraining(0.1, 0.1, 0.0, 0.0, 0.0, mask_time_prob=0.075)
    encoder = EncoderConfig.large(adapter_layers=3, training=training)
    configs = pretrained.ModelConfigs(encoder, DecoderConfig.mbart(activation="relu"))
    return SpeechEncoderDecoder.build_empty(configs)


def render_table(
    model: SpeechEncoderDecoder, step: Step, machine: Machine, sizes: list[int]
) -> Iterator[str]:
    """Yield a Markdown table with a row for each number of GPUs and way to share the work."""
    yield render_row(COLUMNS)
    yield render_row(["--"] * len(COLUMNS))
    for size in sizes:
        if size == 1:
            yield render_row(make_row(model, step, machine, 1, "-"))
        else:
            yield render_row(make_row(model, step, machine, size, "DDP"))
            yield render_row(make_row(model, step, machine, size, "fully_shard"))


def render_row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def make_row(
    model: SpeechEncoderDecoder, step: Step, machine: Machine, size: int, shared_by: str
) -> list[str]:
    shard = shared_by == "fully_shard"
    memory = count_memory(model, step, size, shard)
    gigabytes = [f"{count / 1e9:.2f}" for count in memory.values()]
    if memory["total"] >= machine.memory:
        gigabytes[-1] += " (!)"

    time = estimate_seconds(model, step, machine, size, shard)
    milliseconds = [f"{1000 * seconds:.1f}" for seconds in time.values()]
    sent = count_sent(model, size, shard) / 1e9
    audio = size * step.clips * step.samples / 16_000 / time["step"]
    return [str(size), shared_by, *gigabytes, f"{sent:.2f}", *milliseconds, f"{audio:,.0f}"]


def add_options(parser: argparse.ArgumentParser, defaults: Step | Machine) -> None:
    """Add a flag for each field of a dataclass."""
    for name, value in vars(defaults).items():
        flag = f"--{name}"
        if name in ("samples", "cpu"):
            continue
        if isinstance(value, bool):
            parser.add_argument(flag, default=value, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(flag, default=value, type=type(value))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="config.json of another pair")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=15.0, help="of a clip")
    add_options(parser, Step())
    add_options(parser, Machine())
    options = vars(parser.parse_args())

    step = replace(Step(), **{name: options[name] for name in vars(Step()) if name in options})
    step = replace(step, samples=round(options["seconds"] * 16_000))
    machine = Machine(**{name: options[name] for name in vars(Machine())})
    model = build_pair(options["config"])
    if step.frozen:
        model.freeze_feature_encoder()

    print(f"{count_parameters(model):,} parameters, {count_trained(model):,} of them trained\n")
    for row in render_table(model, step, machine, options["gpus"]):
        print(row)


if __name__ == "__main__":
    main()

"""Training that can be killed at any time and repeated to the bit: all follows from (seed, step).

    manifests -> train_data: batches -> losses -> update, by the gradient of the whole step -> fit -> folders

The batches of a step are shared among the processes, and their losses divided by the labels of all of them:
how many processes there are changes nothing but rounding.
"""

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from nanos2t import files as atomic
from nanos2t.fast.positional_conv import FastPositionalConv
from nanos2t.generate import decode_memory
from nanos2t.model import IGNORED
from nanos2t.training import config as train_config
from nanos2t.training import data as train_data
from nanos2t.training import manifest
from nanos2t.training import start as train_start
from nanos2t.training.config import TrainConfig
from nanos2t.training.data import count_frames
from nanos2t.training.losses import TrainingModule, cross_entropy, spec_augment
from nanos2t.training.manifest import Item
from nanos2t.training.state import (
    all_reduce_sum,
    average_states,
    full_state,
    is_sharded,
    last_saves,
    rank,
    restore_or_save,
    save_step,
    world_size,
)
from nanos2t.transcription.hypotheses import trim_after_eos
from nanos2t.transcription.loading import choose_device
from nanos2t.transcription.transcriber import PROCESSOR_FILES, SpeechToText

log = logging.getLogger("nanos2t")


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then linear to zero, a half cosine, or constant with a linear end."""
    up, left = (step + 1) / max(1, config.warmup_steps), config.steps - step
    share = left / max(1, config.steps - config.warmup_steps)
    down = {
        "linear": share,
        "cosine": 0.5 - 0.5 * math.cos(math.pi * min(1.0, share)),
        "constant": left / max(1, config.decay_steps),
    }[config.schedule]
    return config.learning_rate * min(1.0, up, down)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases, norms, gains and other vectors do not."""
    groups: tuple[list, list] = [], []
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups[sum(length > 1 for length in parameter.shape) > 1].append(parameter)
    return [
        {"params": groups[1], "weight_decay": weight_decay},
        {"params": groups[0], "weight_decay": 0.0},
    ]


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Within, the first Ctrl-C or SIGTERM is put into the list and stops nothing; the second interrupts."""
    found: list[int] = []

    def ask(number: int, _: object) -> None:
        if found:
            raise KeyboardInterrupt
        found.append(number)

    here = threading.current_thread() is threading.main_thread()  # no other may listen
    before = {
        number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM) if here
    }
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    module: nn.Module,
    losses_of: Callable[[int], Iterable[Tensor]],
    config: TrainConfig,
    output: Path,
    validate: Callable[[], dict] | None = None,
    keep: Callable[[str, dict], None] = lambda *_: None,
    seen: Callable[[], tuple[int, str]] = lambda: (0, ""),
    asked: Collection[int] = (),
) -> None:
    """Train `module`: the loss of a step is the sum of the parts that `losses_of(step)` yields.

    A run goes on from output/state.pt, to the same bits as if it had never stopped; output/log.jsonl gets a
    line of metrics every 10 steps. `validate()` gives more; `keep(name, weights)` writes the folder "last"
    with each state, and "best". `seen()`: how many labels so far, and what was in the step. When a process is
    `asked` to stop, all save the step and raise KeyboardInterrupt. ValueError for a gradient that is not
    finite: the last good state is kept."""
    output.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(decay_groups(module, config.weight_decay), betas=(0.9, 0.98))
    first, best = restore_or_save(module, optimizer, config, output, keep)
    started, sign = time.monotonic(), 1 if config.best == "exact" else -1
    bar = tqdm(
        range(first, config.steps),
        initial=first,
        total=config.steps,
        unit="step",
        disable=None if rank() == 0 else True,
    )
    for step in bar:
        loss, done = train_step(module.train(), optimizer, losses_of, config, step, seen), step + 1
        metrics = measure(step, loss, time.monotonic() - started, seen()[0], config)
        bar.set_postfix({name: metrics[name] for name in ("loss", "tokens_per_second")})
        due = {
            every: done % every == 0 or done == config.steps
            for every in (10, config.validate_every, config.save_every)
        }
        if validate and due[config.validate_every]:
            module.eval()
            metrics |= validate()
            value = metrics.get(config.best)
            if (
                value is not None
                and math.isfinite(value)
                and (best is None or sign * value > sign * best)
            ):
                best = value
                keep("best", full_state(module, optimizer)[0])
        if rank() == 0 and (due[10] or len(metrics) > 5):
            with open(output / "log.jsonl", "a") as journal:
                journal.write(json.dumps(metrics) + "\n")
        (stop,) = all_reduce_sum(len(asked))
        if due[config.save_every] or stop:
            save_step(module, optimizer, config, output, done, best, keep)
        if stop:
            log.warning("step %d is saved, go on with --resume %s", done, output)
            raise KeyboardInterrupt
    module.eval()


def measure(
    step: int, loss: float, seconds: float, labels: int, config: TrainConfig
) -> dict[str, float]:
    return {
        "step": step + 1,
        "loss": round(loss, 4),
        "seconds": round(seconds, 1),
        "learning_rate": learning_rate(step, config),
        "tokens_per_second": round(labels / seconds),
    }


def train_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses_of: Callable[[int], Iterable[Tensor]],
    config: TrainConfig,
    step: int,
    seen: Callable[[], tuple[int, str]],
) -> float:
    """One step of the optimizer; returns the loss. ValueError, with nothing changed, if it is not finite."""
    torch.manual_seed(config.seed * 1_000_003 + step)  # of the dropouts
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.zero_grad()
    loss, device = 0.0, next(module.parameters()).device.type
    # bfloat16 on a CPU: the fused attention kernel is slow backwards
    kernel = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()
    with torch.autocast(device, torch.bfloat16, enabled=config.bfloat16), kernel:
        for part in losses_of(step):
            part.backward()
            loss += part.item()
    (loss,) = all_reduce_sum(
        loss / world_size()
    )  # each was multiplied, as the mean of the gradients is taken
    norm = nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm or math.inf)
    norm = norm.full_tensor() if is_sharded(module) else norm
    if not torch.isfinite(norm):
        what = f"loss {loss}, gradient norm {norm.item()}"
        raise ValueError(f"step {step + 1}: {what}: the last state is kept. {seen()[1]}")
    optimizer.step()
    return loss


class LossStream:
    """The losses of this process's batches of a step; how many labels there were so far, and the clips."""

    def __init__(self, stt: SpeechToText, module: nn.Module, examples: list, config: TrainConfig):
        self.stt, self.module, self.examples, self.config = stt, module, examples, config
        self.batches, self.labels, self.names, self.lost = None, 0, "", set()

    def __call__(self, step: int) -> Iterator[Tensor]:
        if self.batches is None:
            self.batches = train_data.train_loader(
                self.stt, self.examples, self.config, step, rank(), world_size()
            )
        self.names = ""
        for left in reversed(range(self.config.accumulate // world_size())):
            batch = next(self.batches)
            self.skip(batch.lost)
            self.labels += batch.total * (not left)
            self.names += f"batch {batch.number}: {', '.join(batch.names)} "
            with (
                self.module.no_sync() if left and hasattr(self.module, "no_sync") else nullcontext()
            ):
                yield self.loss(batch) * world_size() / batch.total

    def skip(self, lost: dict[Item, str]) -> None:
        """Say once, and list in skipped.txt, what is damaged; ValueError for what is not there any more."""
        for item in lost.keys() - self.lost:
            if not os.path.exists(item.audio):
                raise ValueError(lost[item])
            self.lost.add(item)
            line = f"skipped: {item}: {lost[item].removeprefix(f'{item.audio}: ')}"
            log.error("%s (%d damaged so far)", line, len(self.lost))
            with open(Path(self.config.output) / "skipped.txt", "a") as file:
                file.write(f"{self.config.train}: damaged, {line}\n")

    def loss(self, batch: train_data.Batch) -> Tensor:
        encoder = self.stt.model.encoder
        rng = np.random.default_rng((self.config.seed, batch.number, 2))
        torch.manual_seed(int(rng.integers(2**63)))  # of the dropouts: any process draws the same
        frames = count_frames(encoder, batch.attention_mask.sum(1))
        masked = spec_augment(frames, int(frames.max()), encoder.config.training, rng)
        given = (
            batch.input_values.to(encoder.norm.weight.dtype),
            batch.attention_mask,
            masked,
            *batch[4:7],
        )
        device = self.stt.model.decoder.embed.tokens.weight.device
        return self.module(*(None if x is None else x.to(device) for x in given))

    def seen(self) -> tuple[int, str]:
        return self.labels, self.names


@torch.no_grad()
def validate(stt: SpeechToText, examples: list, config: TrainConfig) -> dict[str, float]:
    """The mean loss of a label; if it decides, the share of texts that greedy search gets exactly right."""
    total, right, weight = 0.0, 0, stt.model.decoder.embed.tokens.weight
    turns = (
        (0, 1) if config.shard else (rank(), world_size())
    )  # of a sharded model every process sees all
    for batch in train_data.dev_loader(stt, examples, config, *turns):
        if batch.lost:
            raise ValueError(next(iter(batch.lost.values())))
        values, mask, tokens, labels = (x.to(weight.device) for x in batch[2:6])
        out = stt.model(values.to(weight.dtype), mask, None, tokens)
        total += cross_entropy(out.logits, labels).item()
        if config.best == "exact":
            given = {"forced_bos_token_id": int(tokens[0, 1])} if labels[0, 0] == IGNORED else {}
            found = decode_memory(
                stt.model, out.memory, out.frame_lengths, {"num_beams": 1, **given}
            ).sequences.tolist()
            ends = stt.model.generation.eos_ids
            for row, wanted in zip(found, labels):
                text = stt.decode_tokens(trim_after_eos(row, ends)[1 + len(given) :])
                right += text == stt.decode_tokens(wanted[wanted != IGNORED].tolist())
    total, right = (total, right) if config.shard else all_reduce_sum(total, right)
    found = {"dev_loss": round(total / sum(example.learned for example in examples), 6)}
    return found | ({"exact": right / len(examples)} if config.best == "exact" else {})


def wrap_distributed(learner: TrainingModule, config: TrainConfig) -> nn.Module:
    """The module to call for a loss: the learner, alone or as a part of what torchrun started."""
    model = learner.model
    blocks = (*model.encoder.blocks, *model.decoder.blocks)
    for block in blocks if config.checkpoint_activations else ():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if not config.shard:
        drops = model.encoder.config.training.layerdrop > 0
        how = {"find_unused_parameters": drops, "gradient_as_bucket_view": True}
        return learner if world_size() == 1 else DistributedDataParallel(learner, **how)
    from torch.distributed.fsdp import fully_shard

    if (
        world_size() == 1
        or model.encoder.config.training.layerdrop
        or config.best == "exact"
        or config.ctc
    ):
        raise ValueError(
            "--shard: expected several processes (torchrun), --layerdrop 0, --best dev_loss and "
            "--ctc 0"
        )
    mesh = distributed.init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    for block in model.decoder.blocks:  # Decoder.read calls these two alone
        fully_shard(block.cross_attn.k_proj, mesh=mesh)
        fully_shard(block.cross_attn.v_proj, mesh=mesh)
    for part in (*blocks, model):
        fully_shard(part, mesh=mesh)
    return learner


def create_run_folder(config: TrainConfig, output: Path) -> None:
    """Make the folder of a new run, which train.json marks. ValueError if something else is in it."""
    if (output / "state.pt").exists() or (
        (output / "last").exists() and (output / "log.jsonl").exists()
    ):
        raise ValueError(f"{output}: there is a run, go on with --resume {output}")
    if output.is_dir() and any(output.iterdir()) and not (output / "train.json").exists():
        raise ValueError(f"{output}: not empty, expected a new folder for the run")
    output.mkdir(parents=True, exist_ok=True)
    for name in ("skipped.txt", *PROCESSOR_FILES):  # of a run that made no step
        (output / name).unlink(missing_ok=True)
    atomic.write_text(output / "train.json", train_config.render_config(config))


def prepare(config: TrainConfig, items: list, resumed: bool) -> SpeechToText:
    """The transcriber that a run starts with, or goes on with: its weights are in output/state.pt then."""
    output = Path(config.output)
    if resumed:
        config = replace(
            config,
            model=str(output / "last"),
            encoder=None,
            decoder=None,
            random="none",
            vocabulary="decoder",
        )
    elif rank() == 0:
        create_run_folder(config, output)
    if rank() == 0:
        stt = train_start.prepare_transcriber(config, items, output, writes=True)
    if world_size() > 1:
        distributed.barrier()
    return (
        stt if rank() == 0 else train_start.prepare_transcriber(config, items, output, writes=False)
    )


def choose_examples(
    stt: SpeechToText, config: TrainConfig, *manifests: tuple[str, list]
) -> list[list]:
    """The examples of each manifest; what is skipped or resampled is listed in output/skipped.txt."""
    chosen, lines = [], []
    for name, items in manifests:
        found, more = train_data.select_examples(
            stt, items, config, decode=bool(chosen)
        )  # validation's
        if not found:
            raise ValueError(f"{name}: no line can be trained on, the first: {more[0]}")
        if len(found) < len(items):
            log.warning(
                "%s: %d of %d lines are used, see skipped.txt", name, len(found), len(items)
            )
        chosen.append(found)
        lines += [f"{name}: {line}\n" for line in more]
    if rank() == 0:
        path = Path(config.output) / "skipped.txt"
        before = path.read_text("utf-8").splitlines(True) if path.exists() else []
        lines += [
            line for line in before if ": damaged, skipped: " in line
        ]  # before the run went on
        atomic.write_text(path, "".join(dict.fromkeys(lines)))
    return chosen


def check(config: TrainConfig, resumed: bool) -> None:
    """ValueError for what can not be done by so many processes, in so many steps, or without a state."""
    if config.accumulate % world_size():
        raise ValueError(
            f"--accumulate is {config.accumulate}, expected a multiple of {world_size()} processes"
        )
    if (count := len(last_saves(config))) < config.average:
        raise ValueError(
            f"--average is {config.average}, expected {count} at most: so many states are saved "
            f"in {config.steps} steps, one every {config.save_every}"
        )
    if resumed and not (Path(config.output) / "state.pt").exists():
        raise ValueError(
            f"{config.output}: no state.pt to go on from, expected to begin without --resume"
        )


def run_training(config: TrainConfig, resumed: bool = False) -> None:
    """`nanos2t train`: a model from two halves, trained on a manifest, in config.output/best and last."""
    device, output = choose_device(config.device), Path(config.output)
    if (on_gpu := device.startswith("cuda")) and "RANK" in os.environ:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    if rank():
        log.setLevel(logging.ERROR)  # rank 0 says it
    check(config, resumed)
    manifests = [
        (name, manifest.read_manifest(name)) for name in (config.train, config.dev) if name
    ]
    stt = prepare(config, manifests[0][1], resumed)
    examples, *dev = choose_examples(stt, config, *manifests)
    model, generation = stt.model.to(device), stt.model.generation
    if generation.max_length is None and generation.max_new_tokens is None:
        longest, most = (
            max(len(example.tokens) for example in examples),
            model.decoder.config.max_positions,
        )
        model.generation = replace(generation, max_length=min(longest * 3 // 2, most) + 1)
    if config.bfloat16:
        # In bfloat16 on a CPU, the core's convolution may return wrong numbers.
        model.encoder.positions = FastPositionalConv(model.encoder.positions)
    if config.freeze_feature_encoder:
        model.freeze_feature_encoder()

    def keep(name: str, weights: dict) -> None:
        if rank() == 0:
            kept = train_start.empty_like(model)
            weights = {
                name[6:]: value for name, value in weights.items() if name.startswith("model.")
            }
            kept.load_state_dict(weights, assign=True)
            whole = SpeechToText(kept, stt.tokenizer, stt.sample_rate, stt.normalise, folder=output)
            whole.save_pretrained(output / name)

    learner, hear = (
        TrainingModule(model, config),
        partial(validate, stt, *dev, config) if dev else None,
    )
    losses = LossStream(stt, wrap_distributed(learner, config), examples, config)
    with asked_to_stop() as asked:
        train(learner, losses, config, output, hear, keep, losses.seen, asked)
    if config.average > 1 and rank() == 0:
        keep("average", average_states(output, config))

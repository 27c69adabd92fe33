"""The training loop, which may be killed at any time: a resumed run has bit-identical weights.

    LossStream   batches -> the losses of a step
    train_step   losses -> gradients -> one update of the weights
    train        every step, with log, validation and checkpoints

`train` and `train_step` know nothing about speech: they take any module, and a function that yields
the losses of a step. Where random numbers come from is described in randomness.py.
"""

import json
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from nanos2t.training.augmentation import spec_augment
from nanos2t.training.config import TrainConfig
from nanos2t.training.dataset import Batch, train_loader
from nanos2t.training.distributed import all_reduce_sum, is_sharded, rank, world_size
from nanos2t.training.examples import Example, count_frames
from nanos2t.training.manifest import Item
from nanos2t.training.randomness import seed_batch, seed_step
from nanos2t.training.reporter import Reporter
from nanos2t.training.schedule import decay_groups, learning_rate
from nanos2t.training.state import RunState
from nanos2t.training.stop_signals import STOP_SIGNALS
from nanos2t.transcription.transcriber import SpeechToText

log = logging.getLogger("nanos2t")

LOG_EVERY = 10  # steps between lines of log.jsonl


@dataclass
class Progress:
    """What the losses were computed from: LossStream writes it, the loop reads it for messages."""

    num_labels: int = 0  # so far, of all processes
    step_batches: str = ""  # the batches of the step, and the names of their clips


def discard_model(name: str, weights: dict) -> None:
    """Save no model."""


def train(
    module: nn.Module,
    losses_of: Callable[[int], Iterable[Tensor]],
    config: TrainConfig,
    output: Path,
    validate: Callable[[], dict[str, float]] | None = None,
    save_model: Callable[[str, dict], None] = discard_model,
    progress: Progress | None = None,
) -> None:
    """Train `module` until `config.steps` are done, from output/state.pt if it exists.

    The loss of a step is the sum of the losses that `losses_of(step)` yields. output/log.jsonl gets
    a line of metrics every LOG_EVERY steps, and whenever `validate()` returns further ones.
    `save_model(name, weights)` is called for "last" with each state, and for "best" when
    `config.best` improves.

    At the first Ctrl-C or SIGTERM, or when the terminal is closed, all processes finish the step,
    save it and raise KeyboardInterrupt. Raises ValueError for a gradient, or weights after a step,
    that are not finite: the last saved state is kept.
    """
    progress = progress or Progress()
    output.mkdir(parents=True, exist_ok=True)
    optimizer = create_optimizer(module, config)
    state = RunState(module, optimizer, config, output, save_model)
    with catch_stop_signals() as signals:
        state.restore_or_save()
        with Reporter(state.steps_done, config.steps) as reporter:
            for step in range(state.steps_done, config.steps):
                losses = partial(reporter.watch, losses_of)
                loss = train_step(module.train(), optimizer, losses, config, step, progress)
                state.steps_done = step + 1
                state.check_weights()
                metrics = measure_step(step, loss, reporter.seconds, progress, config)
                validate_step(state, metrics, validate, reporter)
                reporter.report_step(metrics)

                # A signal may have reached one process alone: all stop after the same step.
                (num_signals,) = all_reduce_sum(len(signals))
                if num_signals or is_due(step, config.save_every, config):
                    state.save()
                if num_signals:
                    log.warning("step %d is saved; continue with --resume %s", step + 1, output)
                    raise KeyboardInterrupt
    module.eval()


def create_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return an optimizer that reads and writes each weight once a step: it is fused.

    Raises ValueError for a weight that is not contiguous. On a CPU a fused step goes through
    weights, gradients and moments in the order of their memory, which must be the same.
    """
    for name, weight in module.named_parameters():
        if not weight.is_contiguous():
            raise ValueError(f"{name} has strides {weight.stride()}, expected a contiguous weight")
    groups = decay_groups(module, config.weight_decay)
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def validate_step(
    state: RunState,
    metrics: dict[str, float],
    validate: Callable[[], dict[str, float]] | None,
    reporter: Reporter,
) -> None:
    """Add the metrics of a validation if one is due, keep the best model, and write the log."""
    config = state.config
    step = state.steps_done - 1
    is_validated = validate is not None and is_due(step, config.validate_every, config)
    if is_validated:
        reporter.write_line(f"step {state.steps_done} of {config.steps}: validating")
        state.module.eval()
        metrics |= validate()
        state.save_if_best(metrics)
    if is_validated or is_due(step, LOG_EVERY, config):
        append_to_log(state.output / "log.jsonl", metrics)


def train_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses_of: Callable[[int], Iterable[Tensor]],
    config: TrainConfig,
    step: int,
    progress: Progress,
) -> float:
    """Update the weights once and return the loss of the step.

    ValueError, with the weights unchanged, if the gradient is not finite.
    """
    seed_step(config.seed, step)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)

    # Each backward pass adds to the gradients, so that they are those of the sum of the losses.
    optimizer.zero_grad()
    loss = 0.0
    with choose_precision(module, config):
        for part in losses_of(step):
            part.backward()
            loss += part.item()

    # LossStream multiplied each loss by world_size(): divide by it, then sum over processes.
    (loss,) = all_reduce_sum(loss / world_size())

    max_norm = config.max_grad_norm or math.inf
    norm = nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    if is_sharded(module):
        norm = norm.full_tensor()
    if not torch.isfinite(norm):
        raise ValueError(
            f"step {step + 1}: loss {loss}, gradient norm {norm.item()}: the last state is kept. "
            f"{progress.step_batches}"
        )
    optimizer.step()
    return loss


@contextmanager
def choose_precision(module: nn.Module, config: TrainConfig) -> Iterator[None]:
    """Run the `with` block in bfloat16 if the config asks for it.

    On a CPU, attention is never fused: the backward pass of the fused kernel is slow in bfloat16.
    """
    device_type = next(module.parameters()).device.type
    attention = sdpa_kernel(SDPBackend.MATH) if device_type == "cpu" else nullcontext()
    with torch.autocast(device_type, torch.bfloat16, enabled=config.bfloat16), attention:
        yield


@contextmanager
def catch_stop_signals() -> Iterator[list[int]]:
    """Collect the first of the STOP_SIGNALS in the list; raise KeyboardInterrupt at the second.

    A terminal that is closed may send more than one, from the shell and from the system. A program
    that was started to ignore a signal, as in the background of a script, ignores it.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received and number in (signal.SIGINT, signal.SIGTERM):
            raise KeyboardInterrupt
        received.append(number)

    # Python lets only the main thread handle signals.
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_due(step: int, interval: int, config: TrainConfig) -> bool:
    """True after every `interval` steps, and after the last step."""
    steps_done = step + 1
    return steps_done % interval == 0 or steps_done == config.steps


def measure_step(
    step: int, loss: float, seconds: float, progress: Progress, config: TrainConfig
) -> dict[str, float]:
    """Return the metrics of a step, `seconds` after the start of the loop."""
    return {
        "step": step + 1,
        "loss": round(loss, 4),
        "seconds": round(seconds, 1),
        "learning_rate": learning_rate(step, config),
        "tokens_per_second": round(progress.num_labels / seconds),
    }


def append_to_log(path: Path, metrics: dict[str, float]) -> None:
    """Add a line of JSON to the log, in one of the processes."""
    if rank() == 0:
        with open(path, "a") as file:
            file.write(json.dumps(metrics) + "\n")


class LossStream:
    """The losses of this process's batches, step by step: what `train` takes as `losses_of`.

    `module` is a TrainingModule, or what wrap_distributed made of it.
    """

    def __init__(
        self, stt: SpeechToText, module: nn.Module, examples: list[Example], config: TrainConfig
    ):
        self.stt = stt
        self.module = module
        self.examples = examples
        self.config = config
        self.batches: Iterator[Batch] | None = None
        self.progress = Progress()
        self.damaged: set[Item] = set()

    def __call__(self, step: int) -> Iterator[Tensor]:
        """Yield the losses of a step. The first call decides at which step the batches begin."""
        if self.batches is None:
            self.batches = train_loader(
                self.stt, self.examples, self.config, step, rank(), world_size()
            )

        self.progress.step_batches = ""
        num_batches = self.config.accumulate // world_size()
        for i in range(num_batches):
            batch = next(self.batches)
            self.report_damaged(batch.damaged)
            self.progress.step_batches += f"batch {batch.number}: {', '.join(batch.names)} "

            # Processes exchange gradients once a step, in the backward pass of their last batch.
            exchange = nullcontext()
            is_last = i == num_batches - 1
            if is_last:
                self.progress.num_labels += batch.step_labels
            elif isinstance(self.module, DistributedDataParallel):
                exchange = self.module.no_sync()

            # The loss of a step is the mean over the labels of all processes. DDP divides the sum
            # of the gradients by the number of processes: the factor undoes that.
            with exchange:
                yield self.compute_loss(batch) * world_size() / batch.step_labels

    def compute_loss(self, batch: Batch) -> Tensor:
        """Return the summed loss of a batch, with dropouts and masks that its number decides."""
        encoder = self.stt.model.encoder
        rng = seed_batch(self.config.seed, batch.number)
        frame_lengths = count_frames(encoder, batch.attention_mask.sum(1))  # (B,)
        num_frames = int(frame_lengths.max())
        mask = spec_augment(frame_lengths, num_frames, encoder.config.training, rng)  # (B, T)

        weight = self.stt.model.decoder.embed.tokens.weight
        if mask is not None:
            mask = mask.to(weight.device)
        return self.module(
            batch.input_values.to(weight.device, encoder.norm.weight.dtype),
            batch.attention_mask.to(weight.device),
            mask,
            batch.decoder_input_ids.to(weight.device),
            batch.labels.to(weight.device),
            batch.ctc_labels.to(weight.device),
        )

    def report_damaged(self, damaged: dict[Item, str]) -> None:
        """Log each damaged recording once and list it in skipped.txt.

        Raises ValueError if one does not exist any more.
        """
        for item in damaged.keys() - self.damaged:
            reason = damaged[item]
            if not os.path.exists(item.audio):
                raise ValueError(reason)
            self.damaged.add(item)
            line = f"skipped: {item}: {reason.removeprefix(f'{item.audio}: ')}"
            log.error("%s (%d damaged so far)", line, len(self.damaged))
            # A name may hold bytes that are no UTF-8: that is no reason to end the run.
            path = Path(self.config.output) / "skipped.txt"
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{self.config.train}: damaged, {line}\n")

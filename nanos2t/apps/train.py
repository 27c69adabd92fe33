"""A training loop that can be killed at any time and repeated to the bit: all follows from (seed, step)."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from nanos2t.wav2vec2 import Encoder, EncoderTraining, fewer_frames


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 6500
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    decay_steps: int = 1500
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 1
    bfloat16: bool = True
    save_every: int = 100
    average: int = 6  # of the last saved states, see `average`
    validate_every: int = 250

def spec_augment(frames: Tensor, total: int, config: EncoderTraining,
                 rng: np.random.Generator) -> Tensor | None:
    """Frames to mask (B, total) bool, never padding, by the law of transformers' _compute_mask_indices.

    Each item gets int(p * frames / length + u) spans, u uniform in [0, 1), at least mask_time_min_masks and
    no more than fit, at distinct starts. None if the config masks nothing.
    """
    if not config.mask_time_prob:
        return None
    length, masked = config.mask_time_length, torch.zeros(len(frames), total, dtype=torch.bool)
    u = rng.random()
    for row, count in zip(masked, frames.tolist()):
        spans = int(config.mask_time_prob * count / length + u)
        spans = min(max(spans, config.mask_time_min_masks), count // length)
        for start in rng.choice(max(count - length + 1, 0), spans, replace=False) if spans else ():
            row[start : start + length] = True
    return masked

def count_frames(encoder: Encoder, samples: Tensor) -> Tensor:
    """How many frames (before any adapter) the encoder makes of so many samples (B,)."""
    frames = samples.clamp(min=encoder.config.min_samples)
    for conv in encoder.feature_encoder.convs:
        frames = fewer_frames(frames, conv)
    return frames

def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, linear to zero at the end: a run can be made longer while it runs."""
    up, down = (step + 1) / config.warmup_steps, (config.steps - step) / config.decay_steps
    return config.learning_rate * min(1.0, up, down)

def decay_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases, norms, gains and other vectors do not."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    matrices = [parameter for name, parameter in named if parameter.squeeze().ndim > 1]
    vectors = [parameter for name, parameter in named if parameter.squeeze().ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]

def save_atomically(state: dict, path: Path) -> None:
    """Write beside, flush, rename: whenever the process dies, `path` is a whole file, old or new."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)

def fit(module: nn.Module, losses_of: Callable[[int], Iterable[Tensor]], config: TrainConfig, output: Path,
        validate: Callable[[], dict] | None = None) -> None:
    """Train `module`: the loss of a step is the sum of the parts that `losses_of(step)` yields.

    A run goes on from output/state.pt, to the same bits as if it had never stopped; output/log.jsonl gets a
    line of metrics every 10 steps. ValueError, with the last good state kept, when a gradient is not finite.
    """
    output.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(decay_groups(module, config.weight_decay), betas=(0.9, 0.98))
    file = output / "state.pt"
    first = resume(module, optimizer, file) if file.exists() else 0
    started, module = time.monotonic(), module.train()
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, disable=None, unit="step")
    for step in bar:
        loss = update(module, optimizer, losses_of, config, step)
        metrics = {"step": step + 1, "loss": round(loss, 4), "seconds": round(time.monotonic() - started, 1)}
        bar.set_postfix(loss=metrics["loss"])
        if validate and (step + 1) % config.validate_every == 0:
            module.eval()
            metrics |= validate()
            module.train()
        if (step + 1) % 10 == 0:
            with open(output / "log.jsonl", "a") as log:
                log.write(json.dumps(metrics) + "\n")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_atomically(state, file)
            if config.steps - (step + 1) < config.average * config.save_every:
                save_atomically(state, output / f"state-{step + 1}.pt")
    module.eval()

def update(module: nn.Module, optimizer: torch.optim.Optimizer, losses_of: Callable[[int], Iterable[Tensor]],
           config: TrainConfig, step: int) -> float:
    """One step of the optimizer; returns the loss. ValueError, with nothing changed, if it is not finite."""
    torch.manual_seed(config.seed * 1_000_003 + step)  # of the dropouts
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.zero_grad()
    loss = 0.0
    # bfloat16 on a CPU: the fused attention kernel is slow backwards
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16), sdpa_kernel(SDPBackend.MATH):
        for part in losses_of(step):
            part.backward()
            loss += part.item()
    norm = nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
    if not torch.isfinite(norm):
        raise ValueError(f"step {step}: loss {loss}, gradient norm {norm.item()}: the last state is kept")
    optimizer.step()
    return loss

def average(output: Path, config: TrainConfig) -> dict[str, Tensor]:
    """The mean of the weights in the last states of a finished run (Vaswani et al. 2017, section 6.1)."""
    steps = range(config.steps, 0, -config.save_every)[: config.average]
    files = [file for step in steps if (file := output / f"state-{step}.pt").exists()]
    states = [torch.load(file, weights_only=True)["module"] for file in files]
    return {name: sum(state[name] for state in states) / len(states) for name in states[0]}

def resume(module: nn.Module, optimizer: torch.optim.Optimizer, file: Path) -> int:
    """Put a saved state back and return how many steps it has done."""
    state = torch.load(file, weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]

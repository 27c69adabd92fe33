"""A training loop that can be killed at any time and repeated to the bit: everything follows from (seed, step)."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from nanos2t.wav2vec2 import EncoderTraining


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 5000
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    decay_steps: int = 1000
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 1
    bfloat16: bool = True
    save_every: int = 100
    validate_every: int = 250


def spec_augment(frames: Tensor, total: int, config: EncoderTraining, rng: np.random.Generator) -> Tensor | None:
    """Spans of frames to mask (B, total) bool, by the law of transformers' _compute_mask_indices; padding never.

    Each item gets int(p * frames / length + u) spans, u uniform in [0, 1), at least mask_time_min_masks and no more
    than fit, at distinct starts. None if the config masks nothing.
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


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, linear to zero over the last steps: a run may be made longer while it runs."""
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


def fit(module: nn.Module, loss_of: Callable[[int], Tensor], config: TrainConfig, output: Path,
        validate: Callable[[], dict] | None = None) -> None:  # fmt: skip
    """Train `module` on `loss_of(step)`; goes on from output/state.pt if it is there; metrics go to output/log.jsonl."""
    output.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(decay_groups(module, config.weight_decay), betas=(0.9, 0.98))
    first, state_file = 0, output / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    module.train()
    started = time.time()
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, disable=None, unit="step")
    for step in bar:
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout; a resumed run draws what it would have drawn
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        # the fused kernel's backward is slow in bfloat16 on a CPU
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        if not torch.isfinite(norm):
            raise ValueError(f"step {step}: loss {loss.item()}, gradient norm {norm.item()}; {state_file} is kept")
        optimizer.step()
        metrics = {"step": step + 1, "loss": round(loss.item(), 4), "seconds": round(time.time() - started, 1)}
        bar.set_postfix(loss=metrics["loss"])
        if validate and (step + 1) % config.validate_every == 0:
            module.eval()
            metrics |= validate()
            module.train()
        if (step + 1) % 10 == 0 or "exact" in metrics:
            with open(output / "log.jsonl", "a") as log:
                log.write(json.dumps(metrics) + "\n")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_atomically(state, state_file)
    module.eval()

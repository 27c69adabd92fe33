"""What a run goes on from: state.pt, written whole or not at all, and checked before it is read.

module, optimizer -> full_state -> save -> state.pt, last/ -> read_state -> resume
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint import state_dict as sharded

from nanos2t import files as atomic
from nanos2t.training import config as train_config
from nanos2t.training.config import TrainConfig

FULL = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_sum(*values: float) -> list[float]:
    """Sums over the processes."""
    if world_size() == 1:
        return list(values)
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.tolist()


def save_state(state: dict, path: Path) -> None:
    """Whole or not at all, and on the disk."""

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    atomic.write_atomically(path, write)


def is_sharded(module: nn.Module) -> bool:
    return any(hasattr(part, "unshard") for part in module.modules())  # torch's fully_shard adds it


def full_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    """The weights and the optimizer's state; of a sharded module whole, at rank 0, on the CPU."""
    if is_sharded(module):
        new = not optimizer.state
        weights, moments = sharded.get_state_dict(module, optimizer, options=FULL)
        if new:  # torch has made a step of length 0, to have moments
            optimizer.state.clear()
            for moment in moments.get("state", {}).values():
                moment["step"].zero_()
        return {
            name: value.clone() for name, value in weights.items()
        }, moments  # not of a larger tensor
    return module.state_dict(), optimizer.state_dict()


def read_state(file: Path) -> dict:
    """What `save` wrote. ValueError for a file that is missing, or not to the bit what was written."""
    try:
        with zipfile.ZipFile(
            file
        ) as parts:  # it has a checksum of each part, at which torch does not look
            if broken := parts.testzip():
                raise ValueError(f"the checksum of {broken} is wrong")
        state = torch.load(file, weights_only=True, map_location="cpu")
        if (
            not isinstance(state, dict)
            or not {"module", "optimizer", "step", "best"} <= state.keys()
        ):
            raise ValueError("something else was found")
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise ValueError(f"{file}: {reason}, expected the state of a run") from None
    return state


def resume(
    module: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, file: Path
) -> tuple[int, float | None]:
    """Put a saved state back -> how many steps it has done, and the best of config.best's metric so far."""
    state, groups = read_state(file), [dict(group) for group in optimizer.param_groups]
    if is_sharded(module) != isinstance(state["optimizer"]["param_groups"][0]["params"][0], str):
        raise ValueError(f"{file}: expected to go on with --shard or without, as the run began")
    if state["step"] > config.steps:
        raise ValueError(
            f"{file}: {state['step']} steps are done, expected --steps to be as many or more"
        )
    try:
        if is_sharded(module):
            sharded.set_state_dict(
                module,
                optimizer,
                model_state_dict=state["module"],
                optim_state_dict=state["optimizer"],
                options=FULL,
            )
        else:
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{file}: not of this model ({' '.join(str(error).split())[:200]}), expected the "
            "options that the run began with"
        ) from None
    for group, now in zip(optimizer.param_groups, groups):
        group["weight_decay"] = now["weight_decay"]
    return state["step"], state["best"].get(config.best)


def last_saves(config: TrainConfig) -> list[int]:
    """The steps after which the states are saved whose mean is asked for, the last one first."""
    every = config.save_every
    return [
        config.steps,
        *range((config.steps - 1) // every * every, 0, -every)[: config.average - 1],
    ]


def save_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    output: Path,
    done: int,
    best: float | None,
    keep: Callable[[str, dict], None],
) -> None:
    """What a run goes on from, and the folder "last"; a state for `average`, if it is one of the last."""
    weights, moments = full_state(module, optimizer)
    keep("last", weights)  # without it a state is of no use
    if rank() == 0:
        state = {"module": weights, "optimizer": moments, "step": done, "best": {config.best: best}}
        atomic.write_text(output / "train.json", train_config.render_config(config))
        save_state(state, output / "state.pt")
        if config.average > 1 and done in last_saves(config):
            save_state(state, output / f"state-{done}.pt")


def trim_log(file: Path, steps: int) -> None:
    """Drop what a run wrote that did not live to save its state, and the line that it was writing."""
    if rank() == 0 and file.exists():
        lines = [line for line in file.read_text().splitlines(True) if line.endswith("}\n")]
        try:
            lines = [line for line in lines if json.loads(line)["step"] <= steps]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: {error!r}, expected lines of metrics, each with its step"
            ) from None
        atomic.write_text(file, "".join(lines))


def average_states(output: Path, config: TrainConfig) -> dict[str, Tensor]:
    """The mean of the weights in the last states of a finished run (Vaswani et al. 2017, section 6.1)."""
    states = [read_state(output / f"state-{step}.pt")["module"] for step in last_saves(config)]
    return {name: sum(state[name] for state in states) / len(states) for name in states[0]}


def restore_or_save(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    output: Path,
    keep: Callable[[str, dict], None],
) -> tuple[int, float | None]:
    """Put back what was saved, or save what there is -> how many steps are done, and config.best's metric."""
    if all_reduce_sum((output / "state.pt").exists())[0]:
        first, best = resume(module, optimizer, config, output / "state.pt")
        trim_log(output / "log.jsonl", first)
        return first, best
    save_step(module, optimizer, config, output, 0, None, keep)
    return 0, None

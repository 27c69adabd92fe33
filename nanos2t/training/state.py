"""What a run resumes from: state.pt, written whole or not at all, and checked before it is used.

state.pt is a dictionary: "module" (weights by name), "optimizer", "step" (how many are done),
"best" (the best value so far of what selects best/, by its name: "exact on dev.jsonl").
"""

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as distributed_state

from nanos2t.files import first_line, write_atomically, write_text
from nanos2t.training.config import TrainConfig, render_config
from nanos2t.training.distributed import all_reduce_sum, is_sharded, rank

STATE_KEYS = {"module", "optimizer", "step", "best"}
WHOLE_ON_CPU = distributed_state.StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class RunState:
    """A module in training, its optimizer, how far they are, and the folder that they are saved in.

    `save_model(name, weights)` writes the folder of a model: "last" with each state, and "best".
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    output: Path
    save_model: Callable[[str, dict], None]
    steps_done: int = 0
    steps_saved: int = 0
    best: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.output / "state.pt"

    def restore_or_save(self) -> None:
        """Go on from the saved state if any process finds one, else save the first."""
        (num_processes,) = all_reduce_sum(self.path.exists())
        if num_processes == 0:
            self.save()
            return

        state = read_state(self.path)
        check_resumable(state, self.path, self.module, self.config)
        restore_state(state, self.path, self.module, self.optimizer)
        self.steps_done = state["step"]
        self.steps_saved = state["step"]
        self.best = state["best"]
        check_averaged(self.output, self.config, self.steps_done)
        if rank() == 0:
            trim_log(self.output / "log.jsonl", self.steps_done)

    def save(self) -> None:
        """Write the model "last" and the state; one of the last states again for the average."""
        weights, optimizer_state = collect_state(self.module, self.optimizer)
        self.steps_saved = self.steps_done
        self.save_model("last", weights)  # before the state, which cannot be resumed without it
        if rank() != 0:
            return
        state = {
            "module": weights,
            "optimizer": optimizer_state,
            "step": self.steps_done,
            "best": self.best,
        }
        write_text(self.output / "train.json", render_config(self.config))
        # First the copy for the average: a run that dies before the state makes both again.
        if self.config.average > 1 and self.steps_done in steps_to_average(self.config):
            save_state(state, averaged_path(self.output, self.steps_done))
        save_state(state, self.path)

    def check_weights(self) -> None:
        """Raise ValueError if the last update has ruined the weights: they are not to be saved."""
        norms = [parameter.detach().norm() for parameter in self.module.parameters()]
        norm = torch.stack(norms).norm()
        if is_sharded(self.module):
            norm = norm.full_tensor()
        if not torch.isfinite(norm):
            raise ValueError(
                f"step {self.steps_done}: the weights are not finite after it: the last state is "
                f"kept, of step {self.steps_saved}, {self.path}; "
                f"--learning-rate is {self.config.learning_rate:g}, expected a lower one"
            )

    def save_if_best(self, metrics: dict[str, float]) -> None:
        """Write the model "best" if the metric of `config.best` is finite and better than ever
        on these data.
        """
        value = metrics.get(self.config.best)
        if value is None or not math.isfinite(value):
            return
        name = f"{self.config.best} on {self.config.dev}"
        best_value = self.best.get(name)
        if best_value is None:
            is_better = True
        elif self.config.best == "exact":
            is_better = value > best_value
        else:
            is_better = value < best_value
        if is_better:
            self.best = {name: value}
            weights, _ = collect_state(self.module, self.optimizer)
            self.save_model("best", weights)


def collect_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    """Return the weights and the optimizer's state.

    Those of a sharded module are whole, on the CPU of rank 0.
    """
    if not is_sharded(module):
        return module.state_dict(), optimizer.state_dict()

    is_new = not optimizer.state
    weights, optimizer_state = distributed_state.get_state_dict(
        module, optimizer, options=WHOLE_ON_CPU
    )
    if is_new:
        # To have any state to collect, torch has made a step of length 0. Undo its traces.
        optimizer.state.clear()
        for moments in optimizer_state.get("state", {}).values():
            moments["step"].zero_()

    # Clones are no views of larger tensors, which would be saved whole.
    weights = {name: weight.clone() for name, weight in weights.items()}
    return weights, optimizer_state


def save_state(state: dict, path: Path) -> None:
    """Write a state whole or not at all, and wait until it is on the disk."""

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    write_atomically(path, write)


def read_state(path: Path) -> dict:
    """Read what `save_state` wrote. Raises ValueError for a file that is missing or damaged."""
    try:
        # A state is a zip archive with a checksum of each part, which torch does not check.
        with zipfile.ZipFile(path) as archive:
            if damaged_part := archive.testzip():
                raise ValueError(f"the checksum of {damaged_part} is wrong")
        state = torch.load(path, weights_only=True, map_location="cpu")
        check_fields(state)
    except (
        OSError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ValueError(f"{path}: {reason}, expected the state of a run") from None
    return state


def check_fields(state: object) -> None:
    """Raise ValueError unless a state has all fields, and each of them the right type."""
    if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
        raise ValueError("something else was found")
    if type(state["step"]) is not int or state["step"] < 0:
        raise ValueError(f"step is {state['step']!r:.40}")

    # Weights, all finite: a run cannot go on from others
    weights = state["module"]
    if not isinstance(weights, dict) or not weights:
        raise ValueError("module has no weights")
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise ValueError(f"module has {type(weight).__name__} as {name!r:.40}")
        if not weight.isfinite().all():
            raise ValueError(f"{name} is not finite")

    # The best value of each metric: none, or a number
    best = state["best"]
    if not isinstance(best, dict) or not all(is_best_value(value) for value in best.values()):
        raise ValueError(f"best is {best!r:.40}")


def is_best_value(value: object) -> bool:
    return value is None or type(value) in (int, float)


def check_resumable(state: dict, path: Path, module: nn.Module, config: TrainConfig) -> None:
    """Raise ValueError for a state with the other value of --shard, or of more steps."""
    # An optimizer's parameters are named in a sharded run's state, and numbered in another's.
    try:
        first_parameter = state["optimizer"]["param_groups"][0]["params"][0]
    except (LookupError, TypeError):
        raise ValueError(f"{path}: its optimizer is damaged, expected the state of a run") from None
    if is_sharded(module) != isinstance(first_parameter, str):
        raise ValueError(f"{path}: expected to go on with --shard or without, as the run began")
    if state["step"] > config.steps:
        raise ValueError(
            f"{path}: {state['step']} steps are done, expected --steps to be as many or more"
        )


def restore_state(
    state: dict, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put saved weights and moments back. Raises ValueError if they are not of this module."""
    # The optimizer's settings in the file are those of the run before: this run's may differ.
    settings = []
    for group in optimizer.param_groups:
        settings.append({name: value for name, value in group.items() if name != "params"})

    try:
        if is_sharded(module):
            check_moments(state, module, optimizer)
            distributed_state.set_state_dict(
                module,
                optimizer,
                model_state_dict=state["module"],
                optim_state_dict=state["optimizer"],
                options=WHOLE_ON_CPU,
            )
        else:
            module.load_state_dict(state["module"])
            check_moments(state, module, optimizer)
            optimizer.load_state_dict(state["optimizer"])
            make_moments_contiguous(optimizer)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not of this model ({reason}), expected the options that the run began with"
        ) from None

    for group, own_settings in zip(optimizer.param_groups, settings, strict=True):
        group.update(own_settings)


def check_moments(state: dict, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless the optimizer's moments have the shapes of the parameters.

    torch would put them back whatever their shapes are, and fail or broadcast in the next step.
    """
    # Moments are found by the number of a parameter, or by its name if the module is sharded.
    shapes = {}
    if is_sharded(module):
        shapes = list_shapes(state["module"])
    else:
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        shapes = {number: one.shape for number, one in enumerate(parameters)}

    for key, moments in state["optimizer"]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            shape = tuple(moments[name].shape)
            if shape != tuple(shapes[key]):
                raise ValueError(
                    f"{name} of parameter {key} has shape {shape}, expected {tuple(shapes[key])}"
                )
        if moments["step"].numel() != 1:
            raise ValueError(f"step of parameter {key} is no single number")


def make_moments_contiguous(optimizer: torch.optim.Optimizer) -> None:
    """Lay out moments as create_optimizer asks for: those of an older run may be transposed."""
    for moments in optimizer.state.values():
        for name, moment in moments.items():
            moments[name] = moment.contiguous()


def trim_log(path: Path, steps_done: int) -> None:
    """Drop lines of steps that were made after the last saved state, and a line that is cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("}\n"):
            continue
        try:
            if json.loads(line)["step"] <= steps_done:
                kept.append(line)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: {error!r}, expected lines of metrics, each with its step"
            ) from None
    write_text(path, "".join(kept))


def steps_to_average(config: TrainConfig) -> list[int]:
    """Return the steps after which states for --average are saved, the last step first."""
    steps = [config.steps]
    step = (config.steps - 1) // config.save_every * config.save_every
    while step > 0 and len(steps) < config.average:
        steps.append(step)
        step -= config.save_every
    return steps


def averaged_path(output: Path, step: int) -> Path:
    return output / f"state-{step}.pt"


def check_averaged(output: Path, config: TrainConfig, steps_done: int) -> None:
    """Raise ValueError if --average needs a state of the steps done that was not kept."""
    if config.average == 1:
        return
    for number, step in enumerate(steps_to_average(config)):
        path = averaged_path(output, step)
        if step <= steps_done and not path.exists():
            raise ValueError(
                f"{path}: no such file, expected --average {max(1, number)} at most: of step "
                f"{step} no state was kept for the average"
            )


def average_states(output: Path, config: TrainConfig) -> dict[str, Tensor]:
    """Return the mean of the weights in the last states of a finished run.

    Vaswani et al. 2017, section 6.1.
    """
    states = []
    for step in steps_to_average(config):
        path = averaged_path(output, step)
        weights = read_state(path)["module"]
        if states and list_shapes(weights) != list_shapes(states[0]):
            raise ValueError(f"{path}: other weights, expected those of the last state")
        states.append(weights)
    return {name: sum(state[name] for state in states) / len(states) for name in states[0]}


def list_shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}

"""Training on several processes, as torchrun starts them; without torchrun there is one, of rank 0.

The batches of a step are shared among the processes, and their losses divided by the labels of all:
how many processes there are changes nothing but rounding.
"""

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nanos2t.training.config import TrainConfig
from nanos2t.training.losses import TrainingModule


def join_processes(device: str) -> None:
    """Connect this process with the others that torchrun started, if it did."""
    if "RANK" not in os.environ:
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl")
    else:
        distributed.init_process_group("gloo")


def rank() -> int:
    """Return the number of this process, from 0."""
    if not distributed.is_initialized():
        return 0
    return distributed.get_rank()


def world_size() -> int:
    """Return how many processes train."""
    if not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def all_reduce_sum(*values: float) -> list[float]:
    """Return each value's sum over the processes."""
    if world_size() == 1:
        return list(values)
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.tolist()


def is_sharded(module: nn.Module) -> bool:
    """True if the weights of a module are split among the processes."""
    return any(hasattr(part, "unshard") for part in module.modules())  # fully_shard adds it


def wrap_distributed(module: TrainingModule, config: TrainConfig) -> nn.Module:
    """Return the module to call for a loss: `module` itself, or one that averages gradients."""
    if config.checkpoint_activations:
        module.model.gradient_checkpointing_enable()
    if config.shard:
        shard_weights(module, config)
        return module
    if world_size() == 1:
        return module

    # With layerdrop, a step may leave out blocks, which then have no gradient.
    has_unused = module.model.encoder.config.training.layerdrop > 0
    return DistributedDataParallel(
        module, find_unused_parameters=has_unused, gradient_as_bucket_view=True
    )


def shard_weights(module: TrainingModule, config: TrainConfig) -> None:
    """Split the weights of the model among the processes.

    Raises ValueError for incompatible options.
    """
    from torch.distributed.fsdp import fully_shard

    model = module.model
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
    device_type = next(model.parameters()).device.type
    mesh = distributed.init_device_mesh(device_type, (world_size(),))

    # A sharded module gathers its weights when it is called. Decoder.project_memory calls these two
    # without their block, so they are sharded on their own; then each block, and what remains of
    # the model.
    for block in model.decoder.blocks:
        fully_shard(block.cross_attn.k_proj, mesh=mesh)
        fully_shard(block.cross_attn.v_proj, mesh=mesh)
    for block in [*model.encoder.blocks, *model.decoder.blocks]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)

"""Which dtype is the fastest on a device, and where int8 is possible."""

import logging

import torch

# The backends of torch.ops.quantized. A build of torch has none, one or several of them.
INT8_ENGINES = {"x86", "fbgemm", "onednn", "qnnpack"}

# The first generation of GPUs with fast bfloat16, by its compute capability.
AMPERE = 8

log = logging.getLogger("nanos2t")


def has_int8() -> bool:
    """Return whether this build of torch has kernels for int8."""
    supported = set(torch.backends.quantized.supported_engines)
    return not INT8_ENGINES.isdisjoint(supported)


def choose_fast_dtype(device: str) -> torch.dtype:
    """Return the fastest dtype on `device`, and report it to the logger "nanos2t"."""
    if device.startswith("cuda"):
        major, _ = torch.cuda.get_device_capability(device)
        dtype = torch.float16
        if major >= AMPERE:
            dtype = torch.bfloat16
    elif device == "mps":
        dtype = torch.float16
    elif has_int8():
        dtype = torch.int8
    else:
        dtype = torch.float32

    log.info("dtype auto: %s on %s", str(dtype).removeprefix("torch."), device)
    return dtype


def check_fast_dtype(dtype: torch.dtype, device: str) -> None:
    """Raise ValueError if `dtype` is int8 and the device or this build of torch has no int8."""
    if dtype != torch.int8:
        return
    if device != "cpu":
        raise ValueError(
            f"dtype int8 needs the device cpu, found {device}: expected bfloat16 or float16"
        )
    if not has_int8():
        raise ValueError("dtype int8: this build of torch has no int8 kernels, expected float32")

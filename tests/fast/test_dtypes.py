# pytest tests/fast/test_dtypes.py
"""nanos2t/fast/dtypes.py: the dtype "auto", and where int8 is refused."""

import logging

import pytest
import torch

import nanos2t
from nanos2t.fast import dtypes
from nanos2t.fast.int8 import Int8Head


@pytest.mark.skipif(not dtypes.has_int8(), reason="this build of torch has no int8 kernels")
def test_auto_says_what_it_picked(caplog):
    with caplog.at_level(logging.INFO, "nanos2t"):
        stt = nanos2t.load(dtype="auto")
    assert isinstance(stt.model.decoder.head, Int8Head)
    assert caplog.messages == ["dtype auto: int8 on cpu"]


@pytest.mark.parametrize(
    "device, major, expected",
    [
        ("mps", 0, torch.float16),
        ("cuda:0", 7, torch.float16),
        ("cuda:1", 9, torch.bfloat16),
    ],
)
def test_auto_on_a_gpu(monkeypatch, device: str, major: int, expected: torch.dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert dtypes.choose_fast_dtype(device) == expected


def test_where_int8_cannot_be(monkeypatch):
    with pytest.raises(ValueError, match="int8 needs the device cpu, found mps"):
        dtypes.check_fast_dtype(torch.int8, "mps")
    monkeypatch.setattr(dtypes, "INT8_ENGINES", set())
    assert dtypes.choose_fast_dtype("cpu") == torch.float32
    with pytest.raises(ValueError, match="int8: this build of torch has no int8 kernels"):
        nanos2t.load(dtype="int8")

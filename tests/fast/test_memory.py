# pytest tests/fast/test_memory.py
"""nanos2t/fast/memory.py: only memory that can be read from a file again is released."""

import mmap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanos2t.fast.memory import release_pages


def test_only_memory_of_the_weight_is_released():
    whole = torch.ones(3, 300, 1000)
    release_pages(whole[1])
    assert (whole[0] == 1).all() and (whole[2] == 1).all()

    fused = torch.ones(300, 3000)  # GPT-2 keeps three matrices so, and transposed
    release_pages(fused.T[:1000])
    assert (fused == 1).all()

    release_pages(whole)  # not of a file: it would be zeros
    assert (whole == 1).all()


def resident_kilobytes() -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("RssFile:") + 1])


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="only Linux tells of pages")
def test_pages_of_a_file_are_released_unless_they_were_changed(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(4000, 1000), "b": torch.ones(4000, 1000)}, path)
    tensors = load_file(path)
    assert tensors["a"].sum() == tensors["b"].sum() == 4_000_000
    before = resident_kilobytes()
    release_pages(tensors["a"])
    assert before - resident_kilobytes() > 15_000  # of 15,625
    assert tensors["a"].sum() == 4_000_000

    # One page is not the file's any more: nothing is released.
    tensors["b"][2000, :100] = 7
    before = resident_kilobytes()
    release_pages(tensors["b"])
    assert before - resident_kilobytes() < mmap.PAGESIZE
    assert tensors["b"].sum() == 4_000_600

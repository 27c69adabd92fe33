"""Memory of weights that are no longer needed."""

import ctypes
import mmap

import numpy as np
from torch import Tensor


def release_pages(weight: Tensor) -> None:
    """Tell the operating system that nobody will read `weight` again.

    Weights are read from a memory-mapped file, and every page that was read counts as memory of
    this process until the whole file is unmapped. Only pages that `weight` fills completely are
    released, because the first and the last one may hold other tensors, too.

    Whoever reads `weight` all the same gets it from the file again.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return

    # Rows of a fused or transposed matrix lie between rows of other tensors.
    if not weight.is_contiguous():
        return

    # Round the start up and the end down to whole pages.
    first_page = -(-weight.data_ptr() // mmap.PAGESIZE)
    end_page = (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE
    if first_page >= end_page:
        return

    if not is_untouched(first_page, end_page):
        return

    address = ctypes.c_void_p(first_page * mmap.PAGESIZE)
    size = ctypes.c_size_t((end_page - first_page) * mmap.PAGESIZE)
    ctypes.CDLL(None).madvise(address, size, mmap.MADV_DONTNEED)


def is_untouched(first_page: int, end_page: int) -> bool:
    """Return whether all of these pages can be read from a file again. False if unknown.

    Released pages of any other memory, or of a file's that were changed here, would become zeros.
    """
    # Linux has 8 bytes for each page. Those that were written to are no longer pages of the file.
    try:
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(first_page * 8)
            entries = np.frombuffer(file.read((end_page - first_page) * 8), np.uint64)
    except OSError:
        return False
    is_used = entries >> np.uint64(62) != 0  # bit 63: in memory, bit 62: swapped out
    is_of_file = entries >> np.uint64(61) & np.uint64(1) != 0
    return len(entries) == end_page - first_page and bool((is_of_file | ~is_used).all())

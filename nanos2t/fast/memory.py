"""Memory of weights that are no longer needed."""

import ctypes
import mmap

from torch import Tensor


def release_pages(weight: Tensor) -> None:
    """Tell the operating system that nobody will read `weight` again.

    Weights are read from a memory-mapped file, and every page that was read counts as memory of
    this process until the whole file is unmapped. Only pages that `weight` fills completely are
    released, because the first and the last one may hold other tensors, too.
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

    address = ctypes.c_void_p(first_page * mmap.PAGESIZE)
    size = ctypes.c_size_t((end_page - first_page) * mmap.PAGESIZE)
    ctypes.CDLL(None).madvise(address, size, mmap.MADV_DONTNEED)

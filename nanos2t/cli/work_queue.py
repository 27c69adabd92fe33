"""Several processes that share the inputs of one command.

`torchrun -m nanos2t transcribe ...` starts the processes. They see one key-value store, from which
each takes its next input, and through which the first process gets the texts in their order.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

POLL_SECONDS = 0.02


class WorkQueue:
    """The processes that torchrun started, or this process alone."""

    def __init__(self) -> None:
        from torch import distributed

        self.num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.num_processes == 1:
            self.store = distributed.HashStore()
        else:
            # torchrun tells in environment variables where its store is.
            self.store, _, _ = next(distributed.rendezvous("env://"))

    def wait_for(self, key: str) -> Any:
        """Return the value of a key when some process has set it."""
        # Not store.wait(), during which Python does not handle signals.
        while not self.store.check([key]):
            time.sleep(POLL_SECONDS)
        return json.loads(self.store.get(key))

    def broadcast(self, value: Any) -> Any:
        """Return the value that rank 0 gives, which JSON must be able to hold, in all processes."""
        if self.rank == 0:
            self.store.set("broadcast", json.dumps(value))
        return self.wait_for("broadcast")

    def claim_indices(self, count: int) -> Iterator[int]:
        """Yield indices below `count` that no other process gets, claimed one at a time."""
        while (index := self.store.add("claimed", 1) - 1) < count:
            yield index

    def merge_texts(self, texts: Iterable[tuple[int, str]], count: int) -> Iterator[str]:
        """Store the texts of this process, given with their indices. Rank 0 yields all in order."""
        next_index = 0
        for index, text in texts:
            self.store.set(str(index), json.dumps(text))
            # Between its own texts, rank 0 passes on what is complete so far.
            while self.rank == 0 and self.store.check([str(next_index)]):
                yield self.wait_for(str(next_index))
                next_index += 1

        # The other processes are still at work on the rest.
        if self.rank == 0:
            for index in range(next_index, count):
                yield self.wait_for(str(index))

    def sum(self, value: int) -> int:
        """Return the sum of the values of all processes, when all have given theirs.

        So no process ends before the others are done: torchrun ends all when one has failed.
        """
        self.store.add("sum", value)
        is_last = self.store.add("finished", 1) == self.num_processes
        if is_last:
            self.store.set("total", json.dumps(self.store.add("sum", 0)))
        return self.wait_for("total")

"""How far a run is: a bar on a terminal, lines of the logger "nanos2t" elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from nanos2t.training.distributed import rank

log = logging.getLogger("nanos2t")

LINE_SECONDS = 10.0  # at least between two lines about steps


class Reporter:
    """Shows the steps of a run, from `steps_done` on, as a context manager."""

    def __init__(self, steps_done: int, num_steps: int):
        from tqdm import tqdm

        self.first_step = steps_done
        self.num_steps = num_steps
        self.started = time.monotonic()
        self.last_line = self.started
        is_shown = rank() == 0 and sys.stderr is not None
        hidden = None if is_shown else True  # None: hidden unless on a terminal
        self.bar = tqdm(initial=steps_done, total=num_steps, unit="step", disable=hidden)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    @property
    def seconds(self) -> float:
        """Seconds since the first step began."""
        return time.monotonic() - self.started

    def watch(self, losses_of: Callable[[int], Iterable[Tensor]], step: int) -> Iterator[Tensor]:
        """Yield the losses of a step, and show how many there were: a step may take minutes."""
        started = time.monotonic()
        for number, loss in enumerate(losses_of(step), start=1):
            yield loss
            self.bar.set_postfix(batch=number)

            # Of a step that is soon over, report_step tells more.
            if self.is_line_due() and time.monotonic() - started >= LINE_SECONDS:
                self.write_line(f"step {step + 1} of {self.num_steps}: batch {number}")

    def report_step(self, metrics: dict[str, float]) -> None:
        """Show the metrics of a step that is done."""
        self.bar.set_postfix(loss=metrics["loss"], tokens_per_second=metrics["tokens_per_second"])
        self.bar.update()

        # The first step shows that all is well, the last one that all is done.
        step = metrics["step"]
        is_first = step == self.first_step + 1
        has_news = "dev_loss" in metrics or step == self.num_steps
        if is_first or has_news or self.is_line_due():
            self.write_line(self.describe_step(metrics))

    def describe_step(self, metrics: dict[str, float]) -> str:
        """Return a line about a step: its loss, and how long the rest will take."""
        step = metrics["step"]
        seconds_per_step = self.seconds / (step - self.first_step)
        minutes_left = seconds_per_step * (self.num_steps - step) / 60
        line = f"step {step} of {self.num_steps}: loss {metrics['loss']:g}"
        for name in ("dev_loss", "exact"):
            if name in metrics:
                line += f", {name} {metrics[name]:g}"
        return f"{line}, {seconds_per_step:.2g} s a step, {minutes_left:.1f} min left"

    def is_line_due(self) -> bool:
        return time.monotonic() - self.last_line >= LINE_SECONDS

    def write_line(self, line: str) -> None:
        """Log a line, unless the bar shows the same."""
        self.last_line = time.monotonic()
        if self.bar.disable:
            log.info(line)

"""Progress of a run: a bar on a terminal, a line every 15 seconds elsewhere."""

import sys
import time
from typing import Any

QUIET_SECONDS = 15.0
# A rate over a shorter time says nothing.
_MEASURED_SECONDS = 1.0


class Progress:
    """Shows step, loss, rate and time left on stderr.

    Args:
        start: First step.
        steps: Last step.
        shown: Whether to print anything; of several processes one is enough.
    """

    def __init__(self, *, start: int, steps: int, shown: bool = True):
        self._step, self._steps = start, steps
        self._shown = time.monotonic()
        self._timed_from: tuple[int, float] | None = None
        self._bar: Any = None
        self._is_shown = shown
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=start, unit="step", desc="training", dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, step: int, loss: float) -> None:
        """Show the number of steps made and the mean loss since the last record."""
        if step <= self._step:
            return
        # The first steps include compiling and the evaluation before them.
        self._timed_from = self._timed_from or (step, time.monotonic())
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(step - self._step)
        elif step == self._steps or time.monotonic() - self._shown >= QUIET_SECONDS:
            self._shown = time.monotonic()
            self.say(f"step {step}/{self._steps}  loss {loss:.4f}{self._pace(step)}")
        self._step = step

    def _pace(self, step: int) -> str:
        assert self._timed_from is not None
        timed, began = self._timed_from
        seconds = self._shown - began
        if step == timed or seconds < _MEASURED_SECONDS:  # checks of two steps may follow at once
            return ""
        rate = (step - timed) / seconds
        return f"  {_digits(rate)} steps/s  {_clock((self._steps - step) / rate)} left"

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        elif self._is_shown:
            print(message, file=sys.stderr, flush=True)


def _digits(rate: float) -> str:
    """Return a rate with about three digits: 0.012, 2.5, 317, 26,569."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

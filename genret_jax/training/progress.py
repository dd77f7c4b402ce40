"""How far a run is: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from typing import Any

QUIET_SECONDS = 15.0


class Progress:
    """Shows step, loss, rate and time left on stderr.

    Args:
        start: Step the run begins at.
        steps: Step it ends at.
        shown: Whether anything is; of several processes one is enough.
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
        """Show that ``step`` steps are done, the mean loss being ``loss`` lately."""
        if step <= self._step:
            return
        # The first steps include compiling, and waiting for an evaluation before them.
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
        if step == timed:
            return ""
        rate = (step - timed) / max(1e-9, self._shown - began)
        return f"  {rate:.1f} steps/s  {_clock((self._steps - step) / max(1e-9, rate))} left"

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        elif self._is_shown:
            print(message, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

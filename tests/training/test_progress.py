"""What a person sees of a run, on a terminal and in a log file."""

import io

import pytest

from genret_jax.training import log
from genret_jax.training.log import Progress


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until told."""
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    return now


def test_log_file_gets_a_line_now_and_then_with_rate_and_time_left(clock, capsys):
    with Progress(start=10, steps=1000) as shown:
        for step, at in ((12, 101), (20, 110), (40, 115), (41, 116), (70, 130)):
            clock[0] = at
            shown.update(step, 2.5)
        clock[0] = 150
        shown.update(1000, 0.5)
        shown.update(1000, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "step 40/1000  loss 2.5000  2.0 steps/s  8:00 left",
        "step 70/1000  loss 2.5000  2.0 steps/s  7:45 left",
        "step 1000/1000  loss 0.5000  20.2 steps/s  0:00 left",
    ]


@pytest.mark.parametrize(
    ("rate", "shown"), [(26569.04, "26,569"), (317.4, "317"), (99.94, "99.9"), (2.5, "2.5"), (0.01234, "0.012")]
)
def test_a_rate_has_about_three_digits(rate, shown, clock, capsys):
    with Progress(start=0, steps=10**9) as progress_shown:
        progress_shown.update(1, 1.0)
        clock[0] += 10**5
        progress_shown.update(1 + round(rate * 10**5), 1.0)
    assert f"  {shown} steps/s" in capsys.readouterr().err


def test_a_rate_over_an_instant_is_not_shown(clock, capsys):
    with Progress(start=6, steps=8) as shown:
        shown.update(7, 1.5)
        clock[0] += 0.0004
        shown.update(8, 1.5)
    assert capsys.readouterr().err == "step 8/8  loss 1.5000\n"


def test_the_rate_is_of_the_steps_after_the_first_which_wait_for_the_compiler(clock, capsys):
    with Progress(start=10, steps=1000) as shown:
        for step, at in ((20, 170), (80, 200)):
            clock[0] = at
            shown.update(step, 2.5)
    assert capsys.readouterr().err.splitlines() == [
        "step 20/1000  loss 2.5000",
        "step 80/1000  loss 2.5000  2.0 steps/s  7:40 left",
    ]


def test_a_process_that_shows_nothing(clock, capsys, monkeypatch):
    for interactive in (True, False):
        monkeypatch.setattr(log.sys.stderr, "isatty", lambda interactive=interactive: interactive)
        with Progress(start=0, steps=2, shown=False) as hidden:
            clock[0] += 20
            hidden.say("resuming")
            hidden.update(2, 1.0)
    assert capsys.readouterr() == ("", "")


def test_hours_are_shown_as_hours(clock, capsys):
    with Progress(start=0, steps=7301) as shown:
        shown.update(1, 1.0)
        clock[0] += 20
        shown.update(21, 1.0)
    assert capsys.readouterr().err.endswith("1.0 steps/s  2:01:20 left\n")


def test_terminal_gets_a_bar_that_messages_do_not_break(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(start=5, steps=10) as shown:
        shown.say("resuming after step 5")
        shown.update(7, 1.25)
        shown.update(10, 1.0)
    written = terminal.getvalue()
    assert "\rtraining:" in written.replace("\r\r", "\r")
    assert "resuming after step 5\n" in written
    assert "10/10" in written

"""What every attack has: seeded trials in a process of its own, and the verdict on each.

A trial ends right (a value that an independent reading or an undisturbed run gives as well) or refused (an error that
the library raises itself, of one line). Everything else is a fault: another error, a silent change, a process that
hangs or dies, memory without measure, a program that was started, a socket that was opened.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import resource
import select
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from opcode import opmap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

RIGHT, REFUSED = "right", "refused"
REFUSALS = (ValueError, TypeError, OSError)
MEMORY_BYTES = 4 * 2**30  # what a trial may take on top of what is there
LONGEST_MESSAGE = 1500
FORBIDDEN_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pty.spawn")


class Fault(AssertionError):
    """A trial has ended in a way that no user may see."""


class Attack(ABC):
    """One kind of attack.

    Trial N is of the case `cases[N % len(cases)]`, and all that it draws comes from (seed, N), so that it can be had
    again alone.

    Args:
        folder: Where it may write; what is set up there serves all trials.
    """

    time_limit: ClassVar[float] = 60.0
    """Seconds that a trial may take on a machine that is used by others too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @abstractmethod
    def cases(cls) -> Sequence[str]:
        """Return what is attacked, by name; registered methods among them where the attack is on methods."""

    @abstractmethod
    def trial(self, case: str, generator: np.random.Generator) -> str:
        """Do one trial.

        Args:
            case: One of the cases.
            generator: All that is drawn comes from it.

        Returns:
            RIGHT or REFUSED.

        Raises:
            Fault: What went wrong.
        """


@dataclass
class Report:
    """What came of the trials of one attack.

    Args:
        seed: Of all of them.
        next_trial: Number of the first trial that was not done.
        outcomes: How many trials of a case ended in which way: "CASE: right", "CASE: refused", "CASE: fault".
        faults: "trial N (case): what went wrong", by number.
    """

    seed: int
    next_trial: int = 0
    outcomes: Counter = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, number: int, case: str, outcome: str, told: str) -> None:
        """Take over the outcome of a trial."""
        self.outcomes[f"{case}: {outcome}"] += 1
        if told:
            self.faults[number] = f"trial {number} ({case}): {told}"
        self.next_trial = max(self.next_trial, number + 1)

    def count(self, outcome: str) -> int:
        """Return the number of trials with an outcome."""
        return sum(number for name, number in self.outcomes.items() if name.endswith(f": {outcome}"))


def attempt(call: Callable[[], Any], refusals: tuple[type[BaseException], ...] = REFUSALS) -> tuple[Any, str | None]:
    """Return what a call returns and None; or None and the message where the library refuses.

    Raises:
        Fault: It raises an error that is not of these classes, that the library has not raised itself, or whose
            message is empty, too long, or of several lines.
    """
    try:
        return call(), None
    except Fault:
        raise
    except refusals as error:
        told = str(error)
        if not _is_raised_by_the_library(error):
            raise Fault(f"a raw error: {_where(error)}") from error
        if not told.strip() or len(told.strip().splitlines()) > 1 or len(told) > LONGEST_MESSAGE:
            raise Fault(f"a message that is no line of reasonable length: {told[:LONGEST_MESSAGE]!r}") from error
        return None, told
    except Exception as error:
        raise Fault(f"a raw error: {_where(error)}") from error


def _is_raised_by_the_library(error: BaseException) -> bool:
    """Return whether the error comes from a `raise` of our own files, and not from what they call."""
    frame = error.__traceback__
    assert frame is not None
    while frame.tb_next is not None:
        frame = frame.tb_next
    code = frame.tb_frame.f_code
    rooms = {"hf_tsrep", "modeling", "tokenization", "transformers_modules"}
    is_ours = bool(rooms & set(Path(code.co_filename).parts)) and "site-packages" not in code.co_filename
    return is_ours and code.co_code[frame.tb_lasti] == opmap["RAISE_VARARGS"]


def _where(error: BaseException) -> str:
    """Return an error with the last places that it went through."""
    places = traceback.extract_tb(error.__traceback__)[-9:]
    way = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(places))
    return f"{type(error).__name__}: {str(error)[:600]} [{way}]"


def assert_same(found: Any, expected: Any, what: str, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise Fault where two arrays differ; NaN equals NaN."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise Fault(f"{what}: shape {found.shape} instead of {expected.shape}")
    if not np.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True):
        difference = np.nanmax(np.abs(found.astype(np.float64) - expected.astype(np.float64)))
        raise Fault(f"{what}: values differ by up to {difference:.3g} ({found.ravel()[:4]}, {expected.ravel()[:4]})")


def run_attack(
    attack: type[Attack],
    folder: Path,
    seed: int = 0,
    numbers: Sequence[int] = range(100),
    report: Report | None = None,
    seconds: float = math.inf,
    stop_at_first: bool = False,
    watch: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Do trials in a fork of this process; one that dies or hangs is a fault, and another fork goes on after it.

    Args:
        attack: What to do.
        folder: An empty folder to work in.
        seed: Of all trials.
        numbers: Which trials.
        report: What is added to.
        seconds: No trial begins later.
        stop_at_first: Whether the first fault is the last trial.
        watch: Is shown the report after every trial.

    Returns:
        The report.
    """
    report = report or Report(seed)
    left, end = list(numbers), time.monotonic() + seconds
    while left and time.monotonic() < end:
        place = folder / f"from_{left[0]}"
        place.mkdir(parents=True)
        with _Worker(attack, place, seed, left) as worker:
            done = _follow(worker, attack, report, left, end, stop_at_first, watch)
        if done == 0:
            report.add(left[0], "set-up", "fault", f"the set-up of the attack has failed: {worker.told()}")
            break
        left = left[done:]
        if stop_at_first and report.faults:
            break
    return report


def _follow(
    worker: _Worker,
    attack: type[Attack],
    report: Report,
    numbers: Sequence[int],
    end: float,
    stop_at_first: bool,
    watch: Callable[[Report], None],
) -> int:
    """Take over the outcomes of a worker until it ends; return how many trials are done."""
    cases, limit = attack.cases(), 10 * attack.time_limit  # the set-up may take longer
    for done, number in enumerate(numbers):
        case = cases[number % len(cases)]
        if done and time.monotonic() > end:
            return done
        answer = worker.next_line(limit)
        if done == 0:
            if answer is None or answer != "ready":
                return 0
            answer = worker.next_line(attack.time_limit)
        limit = attack.time_limit
        if answer is None:
            report.add(number, case, "fault", worker.told())
            return done + 1
        outcome = json.loads(answer)
        report.add(number, case, outcome["outcome"], outcome["told"])
        watch(report)
        if stop_at_first and outcome["told"]:
            return done + 1
    return len(numbers)


class _Worker:
    """A fork that does trials one by one and writes a line for each."""

    def __init__(self, attack: type[Attack], folder: Path, seed: int, numbers: Sequence[int]) -> None:
        self.output, self.reason, self.buffer = folder / "output.txt", "", b""
        self.reading, writing = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.reading)
            _serve(attack, folder, seed, numbers, writing, self.output)  # does not return
        os.close(writing)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)  # with what it has started
        with suppress(ChildProcessError):
            os.waitpid(self.process, 0)
        os.close(self.reading)

    def next_line(self, limit: float) -> str | None:
        """Return the next line, or None where the worker has died or is silent for so many seconds."""
        end = time.monotonic() + limit
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.reading], [], [], max(end - time.monotonic(), 0.0))
            if not ready:
                self.reason = f"no answer within {limit:.0f} seconds"
                return None
            piece = os.read(self.reading, 65536)
            if not piece:
                _, status = os.waitpid(self.process, 0)
                self.reason = f"the process has died ({os.waitstatus_to_exitcode(status)})"
                return None
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def told(self) -> str:
        """Return why there is no next line, with the end of what the worker has printed."""
        printed = self.output.read_text(errors="replace")[-1500:] if self.output.exists() else ""
        return f"{self.reason}; it printed {printed!r}"


def _serve(attack: type[Attack], folder: Path, seed: int, numbers: Sequence[int], writing: int, output: Path) -> None:
    """Be the worker."""
    status = 1
    try:
        os.setpgid(0, 0)
        printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        faulthandler.enable(sys.stderr)
        with os.fdopen(writing, "w", buffering=1) as answers:
            for answer in _answers(attack, folder, seed, numbers):
                answers.write(answer + "\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _answers(attack: type[Attack], folder: Path, seed: int, numbers: Sequence[int]) -> Iterator[str]:
    import torch

    torch.set_num_threads(1)  # a fork has lost the threads of the process that it comes from
    running, cases = attack(folder), attack.cases()
    events = _watch_events()
    _limit_memory()
    yield "ready"
    for number in numbers:
        case = cases[number % len(cases)]
        events.clear()
        told = ""
        try:
            outcome = running.trial(case, np.random.default_rng([seed, number]))
            assert outcome in (RIGHT, REFUSED), outcome
            if events:
                raise Fault(f"what was attacked has done {events[0]}")
        except Fault as fault:
            outcome, told = "fault", str(fault)
        except BaseException as error:
            outcome, told = "fault", f"a raw error: {_where(error)}"
        yield json.dumps({"outcome": outcome, "told": told})


def _watch_events() -> list[str]:
    """Note programs that are started and sockets that are opened from now on; there is no way back."""
    events: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN_EVENTS:
            events.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(note)
    return events


def _limit_memory() -> None:
    """Let the process take so much more memory, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").is_file() else None
    if pages is not None:
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def in_a_fork(work: Callable[[], None]) -> int:
    """Do something in a fork of this process and return its exit status: 0, 1 after an error, -9 after SIGKILL."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)

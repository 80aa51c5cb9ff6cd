"""Attack the library by thousands of seeded trials.

Usage: python scripts/fuzz.py readers encoding --seed 1 --trials 5000 --minutes 20
       python scripts/fuzz.py kills --seed 1 --only 137

Every attack lives in tests/attacks; the suite makes a few hundred trials of them. A trial ends right or refused;
everything else is a fault, which is printed with the call that gives it again. RESULTS/NAME-seedN.json counts the
outcomes by case, after every trial; a call with the same seed goes on where the last one ended or was killed, until
there are so many trials in all.
The exit status is 1 where a fault was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from attacks import ATTACKS, get_attack  # noqa: E402 - found by the line above
from attacks.trials import Report, run_attack  # noqa: E402


def load_report(file: Path, seed: int) -> Report:
    """Return the report that a file holds, or an empty one."""
    if not file.is_file():
        return Report(seed)
    held = json.loads(file.read_text())
    faults = {int(number): told for number, told in held["faults"].items()}
    return Report(seed, held["trials"], Counter(held["outcomes"]), faults)


def save_report(file: Path, name: str, report: Report, seconds: float) -> None:
    """Write what came of an attack."""
    counts = {outcome: report.count(outcome) for outcome in ("right", "refused", "fault")}
    values = {"attack": name, "seed": report.seed, "trials": report.next_trial, **counts}
    values |= {"seconds": round(seconds, 1), "outcomes": dict(sorted(report.outcomes.items()))}
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({**values, "faults": report.faults}, indent=2) + "\n")
    draft.replace(file)


def attack(name: str, arguments: argparse.Namespace) -> int:
    """Do the trials of one attack and return the number of its faults in this call."""
    file = arguments.results / f"{name}-seed{arguments.seed}.json"
    report = Report(arguments.seed) if arguments.only else load_report(file, arguments.seed)
    numbers = arguments.only or range(report.next_trial, arguments.trials)
    before, start = set(report.faults), time.monotonic()
    held = json.loads(file.read_text())["seconds"] if file.is_file() else 0.0

    def save(report: Report) -> None:
        if not arguments.only:
            save_report(file, name, report, held + time.monotonic() - start)

    def show(report: Report) -> None:
        save(report)
        counts = ", ".join(f"{report.count(outcome)} {outcome}" for outcome in ("right", "refused", "fault"))
        end = "\r" if sys.stderr.isatty() else "\n" if report.next_trial % 500 == 0 else ""
        print(f"{name}: {counts}" if end else "", end=end, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        run_attack(get_attack(name), Path(folder), arguments.seed, numbers, report, 60 * arguments.minutes, watch=show)
    save(report)  # a trial whose process has died is not watched
    new = [number for number in report.faults if number not in before]
    for number in new:
        print(report.faults[number])
        print(f"  again: python scripts/fuzz.py {name} --seed {arguments.seed} --only {number}")
    counts = ", ".join(f"{report.count(outcome)} {outcome}" for outcome in ("right", "refused", "fault"))
    print(f"{name}, seed {arguments.seed}: {counts}")
    return len(new)


def main(words: Sequence[str]) -> int:
    """Do what a command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", choices=[*ATTACKS, []], metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=1000, help="of an attack, with those of earlier calls")
    parser.add_argument("--minutes", type=float, default=10.0, help="no trial of an attack begins later")
    parser.add_argument(
        "--only", type=int, nargs="+", default=[], help="numbers of the trials to do; no file is written"
    )
    parser.add_argument("--results", type=Path, default=TESTS.parent / "results" / "attacks")
    arguments = parser.parse_args(words)
    return min(sum(attack(name, arguments) for name in arguments.attacks or ATTACKS), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

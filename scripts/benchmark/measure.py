"""Run cases in processes of their own, ours and the plain one in turn, and put the medians beside each other."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def run_in_child(case: str, plain: bool, num_threads: int) -> dict[str, Any]:
    """Measure one case once.

    Args:
        case: Name of one of `find_cases`.
        plain: Whether the plain implementation is measured.
        num_threads: Threads of torch.

    Returns:
        "seconds", "peak_mib" of the whole process, and "sample", some of the computed numbers.
    """
    # From the folder that holds this package, so that the package is found; the library is installed or beside it.
    folder = Path(__file__).resolve().parents[1]
    paths = [str(folder), str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    arguments = [sys.executable, "-m", "benchmark.measure", case, str(int(plain)), str(num_threads)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    finished = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(finished.stdout.strip().splitlines()[-1])


def compare(case: str, repeats: int, num_threads: int, rate: float) -> dict[str, Any]:
    """Measure both sides of a case in turn.

    Args:
        case: Name of one of `find_cases`.
        repeats: Number of runs of each side.
        num_threads: Threads of torch.
        rate: The machine's matrix products, in operations a second.

    Returns:
        Medians of seconds and peak memory of both sides, their ratio, the spread of our seconds, the largest
        difference of what they computed, and, where the case counts its operations, the share of the machine's rate
        that we reach.
    """
    runs: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(repeats):
        for plain in (False, True):
            runs[plain].append(run_in_child(case, plain, num_threads))
    seconds = {plain: statistics.median(run["seconds"] for run in runs[plain]) for plain in runs}
    peak = {plain: statistics.median(run["peak_mib"] for run in runs[plain]) for plain in runs}
    ours, theirs = (np.asarray(runs[plain][0]["sample"]) for plain in (False, True))
    operations = runs[False][0].get("operations")
    return {
        "case": case,
        "seconds": seconds[False],
        "seconds_range": [min(run["seconds"] for run in runs[False]), max(run["seconds"] for run in runs[False])],
        "plain_seconds": seconds[True],
        "times_faster": seconds[True] / seconds[False],
        "peak_mib": peak[False],
        "plain_peak_mib": peak[True],
        "largest_difference": float(np.abs(ours - theirs).max()),
        "share_of_limit": None if operations is None else operations / seconds[False] / rate,
    }


def matrix_product_rate() -> float:
    """Return the machine's best rate of float32 matrix products, in operations a second."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(left, right)
        rates.append(2 * 1024**3 / (time.perf_counter() - start))
    return max(rates)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Render comparisons as Markdown."""
    lines = [
        "| case | ours, s | plain, s | times faster | ours, peak MiB | plain, peak MiB | largest difference | "
        "share of the matrix-product limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = "" if row["share_of_limit"] is None else f"{row['share_of_limit']:.0%}"
        lines.append(
            f"| {row['case']} | {row['seconds']:.3f} | {row['plain_seconds']:.3f} | {row['times_faster']:.1f} | "
            f"{row['peak_mib']:.0f} | {row['plain_peak_mib']:.0f} | {row['largest_difference']:.1e} | "
            f"{share} |"
        )
    return "\n".join(lines)


def _child() -> None:
    import torch

    from . import find_cases

    case, plain, num_threads = sys.argv[1], sys.argv[2] == "1", int(sys.argv[3])
    torch.set_num_threads(num_threads)
    result = find_cases()[case](plain)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    _child()

"""Measure speed and memory against a plain implementation, in one run.

Usage: python scripts/benchmark.py --output results/benchmark.json
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from benchmark import find_cases
from benchmark.measure import compare, matrix_product_rate, table


def main() -> None:
    """Run the chosen cases and print their table."""
    cases = find_cases()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=sorted(cases), default=list(cases))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    rate = matrix_product_rate()
    print(f"{arguments.num_threads} threads, torch {torch.__version__}, matrix products at {rate / 1e9:.0f} GFLOP/s\n")
    rows = []
    for case in arguments.cases:
        rows.append(compare(case, arguments.repeats, arguments.num_threads, rate))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}")
    if arguments.output:
        machine = {"processor": platform.processor() or platform.machine(), "num_threads": arguments.num_threads}
        report = {"machine": machine, "torch": torch.__version__, "matrix_products_per_second": rate, "cases": rows}
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

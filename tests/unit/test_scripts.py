"""The maintainers' programs: the benchmark's cases, and the plans of what reproduces published numbers."""

import json
import subprocess
import sys
from pathlib import Path

import benchmark
import numpy as np
import pytest
from benchmark.cases_crosstimenet import exact_codes_kernel
from benchmark.cases_kernels import attention_kernel, contrast_kernel, sliding_kernel
from benchmark.measure import compare, table

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        (contrast_kernel, {"batch_size": 2, "length": 37}),
        (attention_kernel, {"num_rows": 2, "length": 40}),
        (sliding_kernel, {"num_steps": 40, "window_length": 21}),
        (exact_codes_kernel, {"num_series": 4}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_kernel_and_its_plain_side_compute_the_same(case, sizes):
    ours, plain = (case(side, **sizes)["sample"] for side in (False, True))
    assert len(ours) > 10
    assert np.std(plain) > 0
    np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-4)


def test_a_case_is_found_by_the_name_of_its_module_alone(tmp_path, monkeypatch):
    (tmp_path / "cases_toy.py").write_text("CASES = {'toy_step': lambda plain: {'seconds': 1.0, 'sample': [0.0]}}\n")
    monkeypatch.setattr(benchmark, "__path__", [*benchmark.__path__, str(tmp_path)])
    assert {"toy_step", "training_step", "tokenize", "simmtm_step", "timedrl_step"} <= set(benchmark.find_cases())
    (tmp_path / "cases_other.py").write_text("CASES = {'training_step': dict}\n")
    with pytest.raises(ValueError, match="'training_step'"):
        benchmark.find_cases()


def test_a_comparison_has_both_sides_and_a_row(monkeypatch):
    sides = {
        False: {"seconds": 1.0, "peak_mib": 10.0, "sample": [1.0, 2.0], "operations": 50.0},
        True: {"seconds": 3.0, "peak_mib": 30.0, "sample": [1.0, 2.5]},
    }
    monkeypatch.setattr("benchmark.measure.run_in_child", lambda case, plain, num_threads: sides[plain])
    row = compare("toy", 3, 1, 100.0)
    assert row["times_faster"] == 3
    assert row["share_of_limit"] == 0.5
    assert "| toy | 1.000 | 3.000 | 3.0 | 10 | 30 | 5.0e-01 | 50% |" in table([row])


def test_the_benchmark_runs_both_sides_in_processes_of_their_own(tmp_path):
    output = tmp_path / "figures.json"
    arguments = ["--cases", "windows", "--repeats", "1", "--num-threads", "1", "--output", output]
    subprocess.run([sys.executable, SCRIPTS / "benchmark.py", *arguments], check=True, cwd=tmp_path)
    (row,) = json.loads(output.read_text())["cases"]
    assert row["case"] == "windows"
    assert row["largest_difference"] == 0

"""Count the files that a series crosses on its way from a CSV to the first loss of `pretrain`.

Every call of a function of this checkout is one event; a change is two events in a row that lie in two files.
Comprehensions, lambdas and bodies of classes are no functions here, and what an import calls is left out, the finders
that wait for a module too. Run it in
two checkouts to hold one against the other:

    python scripts/studies/way_of_a_series.py [--list]
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
METHOD = "ts2vec"
TINY = {"hidden_size": 16, "embedding_size": 16, "max_steps": 1}


def write_table(path: Path) -> None:
    """Write 600 hours of two channels."""
    import numpy as np
    import pandas as pd

    values = np.random.default_rng(0).normal(size=(600, 2))
    dates = pd.date_range("2024-01-01", periods=600, freq="h", name="date")
    pd.DataFrame(values, index=dates, columns=["first", "second"]).to_csv(path)


def is_function(code: CodeType) -> bool:
    """Return whether code is a function's that has a name and a file; the body of a class has no fast locals."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED) and "<" not in code.co_name + code.co_filename


def is_of_an_import(frame: FrameType) -> bool:
    """Return whether the import machinery makes a call."""
    return frame.f_back is not None and frame.f_back.f_code.co_filename.startswith("<frozen importlib")


def files_of_calls(folder: Path) -> list[str]:
    """Return the file of every call up to the end of the first loss, in their order."""
    # All that is imported late is imported now: what imports call is no way of a series.
    from hf_tsrep.modeling import modeling_ts2vec  # noqa: F401
    from hf_tsrep.training import pretrain, stages, trainer  # noqa: F401

    calls: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "return" and code.co_name == "forward" and "ForPreTraining" in code.co_qualname:
            sys.setprofile(None)
        elif event == "call" and is_function(code) and not is_of_an_import(frame):
            file = Path(code.co_filename).resolve()
            if file.is_relative_to(ROOT) and ".venv" not in file.parts and file != Path(__file__).resolve():
                calls.append(str(file.relative_to(ROOT)))

    write_table(folder / "series.csv")
    sys.setprofile(note)
    try:
        pretrain(METHOD, str(folder / "series.csv"), folder / "out", **TINY)  # type: ignore[arg-type]  # fields
    finally:
        sys.setprofile(None)
    return calls


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print every file as it is entered")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calls = files_of_calls(Path(folder))
    changes = [after for before, after in pairwise(calls) if before != after]
    if arguments.list:
        print("\n".join([calls[0], *changes]))
    rooms = [file.split("/")[1] for file in calls if file.startswith(("hf_tsrep/training", "hf_tsrep/data"))]
    turns = sum(before != after for before, after in pairwise(rooms))
    print(f"{len(set(calls))} files, {len(changes)} changes of file, {turns} turns between training and data")


if __name__ == "__main__":
    main()

"""Reproduce a paper's numbers: do the runs of a method's grid.

Usage: python scripts/reproduce.py ts2vec ucr uea etth1 kpi --seeds 1 2
       python scripts/reproduce.py simmtm ETTh1 ETTm1 ETTh2-to-ETTh1 Epilepsy --horizons 96
       python scripts/reproduce.py timedrl sensor/HAR --smaller hidden_size=128 num_hidden_layers=3
       python scripts/reproduce.py crosstimenet --label-fractions 0.1 1.0
       python scripts/reproduce.py METHOD --help

Every run gives one file in results/METHOD, and runs whose file is there are not done again. Finished pre-trainings in
the folder of runs are used again and interrupted ones go on from their newest checkpoint, so an interrupted call goes
on where it was. --dry-run prints every run, all settings settled, as a line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

from reproduction.plan import build_parser, list_grids, load_grid, plan
from reproduction.work import carry_out

from hf_tsrep.errors import SettingsError


def main(words: Sequence[str]) -> None:
    """Do all runs that a command line asks for."""
    if not words or words[0] in ("-h", "--help"):
        print(f"{__doc__}\nMethods: {', '.join(list_grids())}")
        return
    try:
        grid = load_grid(words[0])
        arguments = build_parser(grid).parse_args(words[1:])
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        for run in list(plan(grid, arguments)):  # all of the plan is checked before the first run
            if arguments.dry_run:
                print(json.dumps(run.to_dict()))
            elif not run.result.exists():
                carry_out(run)
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Pre-train and evaluate TS2Vec by the paper's protocols.

Usage: python scripts/reproduce_ts2vec.py ucr uea etth1 kpi --seeds 1 2

Every run gives one file in results/ts2vec; runs whose file is there are not done again, so an interrupted call goes
on where it was.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

from datasets import DatasetDict, concatenate_datasets

import hf_tsrep
from hf_tsrep.data import list_known_corpora, load_corpus
from hf_tsrep.evaluation import make_result, write_results

logger = logging.getLogger("reproduce")


def jobs(group: str) -> list[tuple[str, list[str], str, dict]]:
    """Return (name, corpora, protocol, options of load_corpus) of every run of a group."""
    if group == "etth1":
        settings: tuple[dict, ...] = ({}, {"target": "univariate"})
        forecasting = {"scaler": "standard", "time_features": True}
        names = ("multivariate", "univariate")
        return [
            (f"ETTh1-{name}", ["ett/ETTh1"], "forecasting", forecasting | extra)
            for name, extra in zip(names, settings, strict=True)
        ]
    known = list_known_corpora()
    if group == "kpi":
        corpora = [name for name in known if name.startswith("anomaly/KPI_donut/")]
        return [("KPI_donut", corpora, "anomaly", {"scaler": "recommended"})]
    return [
        (name.replace("/", "-"), [name], "classification", {"scaler": "recommended"})
        for name in known
        if name.startswith(f"{group}/")
    ]


def run(name: str, corpora: list[str], protocol: str, options: dict, seed: int, arguments: argparse.Namespace) -> None:
    """Do one run and write its result, unless it is there."""
    target = arguments.results_dir / f"{name}-seed{seed}.json"
    if target.exists():
        return
    folder = arguments.runs_dir / f"{name}-seed{seed}"
    fields = {key: value for key, value in options.items() if key == "target"}
    shutil.rmtree(folder, ignore_errors=True)
    trained = hf_tsrep.pretrain("ts2vec", corpora, folder, seed=seed, save_steps=10**6, disable_tqdm=True, **fields)
    loaded = [load_corpus(corpus, **options) for corpus in corpora]
    corpus = DatasetDict({split: concatenate_datasets([one[split] for one in loaded]) for split in loaded[0]})
    outcome = hf_tsrep.evaluate(trained.model, corpus, protocol, seed=seed)
    outcome["timings"]["pretraining"] = trained.metrics["train_runtime"]
    corpus_name = corpora[0] if len(corpora) == 1 else corpora[0].rsplit("/", 1)[0]
    write_results(target, make_result(trained.model, corpus, protocol, outcome, seed=seed, corpus_name=corpus_name))
    shutil.rmtree(folder)
    logger.info(
        "%s, seed %d: %s", name, seed, {key: round(value, 4) for key, value in list(outcome["metrics"].items())[:10]}
    )


def main() -> None:
    """Do all runs of the chosen groups."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="+", choices=("ucr", "uea", "etth1", "kpi"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", help="names of runs, such as ucr-GunPoint")
    parser.add_argument("--results-dir", type=Path, default=Path("results/ts2vec"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for seed in arguments.seeds:
        for group in arguments.groups:
            for name, *job in jobs(group):
                if not arguments.only or name in arguments.only:
                    run(name, *job, seed, arguments)


if __name__ == "__main__":
    main()

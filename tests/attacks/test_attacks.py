"""Hundreds of seeded trials of every attack; scripts/fuzz.py makes thousands. And faults that every attack finds."""

import os
import time

import numpy as np
import pytest
import torch

from attacks import get_attack
from attacks.runs import Runs
from attacks.trials import REFUSED, RIGHT, Attack, Fault, Report, attempt, run_attack

# In the order of the registry, the files or the runs. Of trainings one trial a kind of run.
TRIALS = {"readers": 300, "folders": 115, "encoding": 210, "threads": 14, "kills": 0, "checkpoints": 0}
TRIALS = {name: max(number, len(get_attack(name).cases())) for name, number in TRIALS.items()}


@pytest.fixture(scope="module")
def undisturbed_runs(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


@pytest.mark.parametrize("name", TRIALS)
def test_nothing_gets_through(name, tmp_path, undisturbed_runs, monkeypatch):
    monkeypatch.setattr(Runs, "kept", undisturbed_runs)
    report = run_attack(get_attack(name), tmp_path, numbers=range(TRIALS[name]))
    assert not report.faults, "\n".join(report.faults.values())
    assert sum(report.outcomes.values()) == TRIALS[name]
    assert report.count(RIGHT) > 0
    tried = {one.rpartition(": ")[0] for one in report.outcomes}
    assert tried == set(get_attack(name).cases())


def test_a_full_disk_costs_nothing_that_was_there(tmp_path, undisturbed_runs, monkeypatch):
    monkeypatch.setattr(Runs, "kept", undisturbed_runs)
    disks = get_attack("disks")
    chosen = [place for place, case in enumerate(disks.cases()) if "ts2vec" in str(case)]
    report = run_attack(disks, tmp_path, numbers=chosen)
    assert not report.faults, "\n".join(report.faults.values())
    assert sum(report.outcomes.values()) == len(chosen) > 1


def break_readers(monkeypatch):
    from hf_tsrep.data import checks

    monkeypatch.setattr(checks, "_check_values", lambda *arguments: None)  # 1e39 becomes infinite


def break_encoding(monkeypatch):
    from hf_tsrep.modeling import encoding_time_series

    original = encoding_time_series._embed_batch
    monkeypatch.setattr(
        encoding_time_series, "_embed_batch", lambda model, batch, *more: original(model, batch, *more) + len(batch)
    )


def break_threads(monkeypatch):
    from hf_tsrep.modeling import modeling_time_series

    monkeypatch.setattr(modeling_time_series, "evaluating", lambda model: model)


def break_folders(monkeypatch):
    from hf_tsrep.modeling import configuration_time_series

    monkeypatch.setattr(configuration_time_series, "require_written", lambda *arguments: None)  # defaults come back


def break_kills(monkeypatch):
    from transformers import Trainer

    # A resumed run draws otherwise, though its weights are those of the checkpoint.
    monkeypatch.setattr(Trainer, "_load_rng_state", lambda *arguments: None)


def break_checkpoints(monkeypatch):
    from hf_tsrep.training import checkpoints

    monkeypatch.setattr(checkpoints, "_checksum", lambda path: "")  # all sums are equal


FAULTS = {
    "readers": break_readers,
    "folders": break_folders,
    "encoding": break_encoding,
    "threads": break_threads,
    "kills": break_kills,
    "checkpoints": break_checkpoints,
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_attack_finds_a_fault_of_the_library(name, tmp_path, undisturbed_runs, monkeypatch):
    monkeypatch.setattr(Runs, "kept", undisturbed_runs if name == "kills" else None)
    FAULTS[name](monkeypatch)
    numbers, cases = range(TRIALS[name]), get_attack(name).cases()
    if name in ("kills", "checkpoints"):  # one kind of run: every other one would first be done undisturbed
        first = {"kills": 0, "checkpoints": 8}[name]  # the damage of the trials before is to files that nothing reads
        numbers = range(cases.index("ts2vec model") + first * len(cases), 40 * len(cases), len(cases))
    report = run_attack(get_attack(name), tmp_path, numbers=numbers, stop_at_first=True)
    assert len(report.faults) == 1, report.outcomes
    if name in ("kills", "checkpoints"):
        assert "set-up" not in str(report.outcomes)


class Toy(Attack):
    """Trials that end in every way that there is."""

    time_limit = 0.5

    @classmethod
    def cases(cls):
        return ["right", "refused", "wrong", "raw", "hangs", "dies", "memory", "program", "several lines", "last"]

    def trial(self, case, generator):
        if case == "wrong":
            raise Fault("1 instead of 2")
        if case == "raw":
            attempt(lambda: [][0])
        if case == "hangs":
            time.sleep(60)
        if case == "dies":
            os.abort()
        if case == "memory":
            np.ones(2**40)
        if case == "program":
            os.system("true")
        if case == "several lines":
            attempt(lambda: torch.nn.Linear(1, 1).load_state_dict({}))
        return REFUSED if case == "refused" else RIGHT


def test_every_end_but_a_right_or_a_refused_one_is_a_fault(tmp_path):
    report = run_attack(Toy, tmp_path, seed=5, numbers=range(10))
    told = {name.partition("(")[2].partition(")")[0]: one for name in report.faults.values() for one in [name]}
    assert sorted(report.faults) == list(range(2, 9))
    for case, words in (
        ("wrong", "1 instead of 2"),
        ("raw", "IndexError"),
        ("hangs", "no answer within"),
        ("dies", "the process has died (-6)"),
        ("memory", "MemoryError"),
        ("program", "os.system"),
        ("several lines", "a raw error: RuntimeError"),
    ):
        assert words in told[case], case
    assert (report.count("right"), report.count("refused"), report.count("fault")) == (2, 1, 7)


def test_an_error_is_a_refusal_only_where_the_library_raises_it_in_one_line():
    from hf_tsrep.data import CorpusError, load_corpus
    from hf_tsrep.errors import SettingsError

    assert attempt(lambda: 3) == (3, None)
    _, told = attempt(lambda: load_corpus("./absent.csv"), (CorpusError,))
    assert "absent.csv" in told
    for call in (
        lambda: int("x"),  # a ValueError, but not one of ours
        lambda: attempt(lambda: load_corpus("./absent.csv"), (SettingsError,)),
    ):
        with pytest.raises(Fault, match="a raw error"):
            attempt(call)


def test_a_report_goes_on_where_it_ended(tmp_path):
    report = Report(5)
    for number in (range(0, 2), range(2, 3)):
        (tmp_path / str(number.start)).mkdir()
        run_attack(Toy, tmp_path / str(number.start), 5, number, report)
    assert (report.next_trial, sorted(report.faults)) == (3, [2])

"""Outputs, losses and gradients of the official code, reproduced.

Every `parity_METHOD.py` beside this file has KINDS: how each kind of the method's fixtures is computed by our code.
HF_TSREP_PARITY_DIR names another folder of fixtures. The check is chosen by the metadata `method` and `kind`, never by
a file's name.
"""

import copy
import importlib
import os
from pathlib import Path

import pytest
from parity_support import OfficialConfig, load_fixture, read_metadata

from hf_tsrep.registry import get_method

HERE = Path(__file__).parent
KINDS = {
    path.stem.removeprefix("parity_"): importlib.import_module(path.stem).KINDS
    for path in sorted(HERE.glob("parity_*.py"))
    if path.stem != "parity_support"
}
SHIPPED = HERE / "fixtures"
FOLDER = Path(os.environ.get("HF_TSREP_PARITY_DIR", SHIPPED))


def fixture_files(folder):
    """Fixtures of the methods we have; those of later methods are not ours to judge yet."""
    return [path for path in sorted(folder.rglob("*.safetensors")) if read_metadata(path).get("method") in KINDS]


def compare(fixture):
    checks = KINDS[fixture.method]
    assert fixture.kind in checks, f"no check for kind {fixture.kind!r} of {fixture.method}; there are {[*checks]}"
    try:
        checks[fixture.kind](fixture)
    except AssertionError as error:
        error.add_note(f"Official arguments that nothing has read so far: {', '.join(fixture.config.unread()) or '-'}")
        raise
    fixture.assert_complete()


@pytest.mark.parametrize("path", fixture_files(FOLDER), ids=lambda path: path.stem)
def test_parity(path):
    compare(load_fixture(path))


def test_every_kind_of_every_method_is_exercised():
    seen = {(read_metadata(path)["method"], read_metadata(path)["kind"]) for path in fixture_files(SHIPPED)}
    assert seen == {(method, kind) for method, kinds in KINDS.items() for kind in kinds}


def test_the_cards_count_the_kinds():
    counted = {name: get_method(name).facts.get("parity") for name in KINDS}
    assert counted == {name: len(kinds) for name, kinds in KINDS.items()}


@pytest.mark.parametrize("path", fixture_files(SHIPPED), ids=lambda path: path.stem)
def test_an_official_argument_that_nothing_reads_fails_with_its_name(path):
    fixture = load_fixture(path)
    fixture.config["activation_of_another_fork"] = "relu"
    with pytest.raises(AssertionError, match="nothing reads the official argument activation_of_another_fork"):
        compare(fixture)


def test_arguments_inside_arguments_are_watched_too():
    config = OfficialConfig(seed=1, model=OfficialConfig(depth=3, width=4), grid=OfficialConfig(a=1))
    assert [config["model"]["depth"], config.get("seed"), config.get("other", 5)] == [3, 1, 5]
    assert config.unread() == ["grid", "model.width"]
    assert {**config} == config == copy.copy(config)
    assert config.unread() == ["grid", "model.width"], "going through all is no look-up"


def test_a_pretext_step_of_timedrl_has_the_dropout_of_its_masks():
    fixture = load_fixture(SHIPPED / "timedrl_pretext_ci_etth1_defaults.safetensors")
    fixture.config["dropout"] = 0.35  # of the layers whose dropout is off
    assert fixture.config["fixed_dropout_p"] == 0.2
    compare(fixture)


@pytest.mark.parametrize(
    ("name", "after_normalisation"),
    [("timedrl_pretext_ci_etth1_defaults", "i_1_pred"), ("simmtm_forecast_pretrain_step", "series_wise")],
)
def test_a_pretext_step_in_eval_mode_normalises_by_running_statistics(name, after_normalisation):
    fixture = load_fixture(SHIPPED / f"{name}.safetensors")
    fixture.config["mode"] = "eval"
    with pytest.raises(AssertionError, match=f"{after_normalisation}: differs"):  # its numbers are of training mode
        compare(fixture)

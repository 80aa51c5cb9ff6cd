"""Every fixture of the official implementations, against ours.

Runs over all files of the folder HF_TSREP_PARITY_DIR (sub-folders included), by default the fixtures beside this
file, and dispatches on the metadata `method` and `kind`, never on a file's name.
"""

import os
from pathlib import Path

import parity_crosstimenet
import parity_simmtm
import parity_timedrl
import parity_ts2vec
import pytest
from parity_support import load_fixture, read_metadata

KINDS = {
    "crosstimenet": parity_crosstimenet.KINDS,
    "simmtm": parity_simmtm.KINDS,
    "timedrl": parity_timedrl.KINDS,
    "ts2vec": parity_ts2vec.KINDS,
}
SHIPPED = Path(__file__).parent / "fixtures"
FOLDER = Path(os.environ.get("HF_TSREP_PARITY_DIR", SHIPPED))


def fixture_files():
    """Fixtures of the methods we have; those of later methods are not ours to judge yet."""
    files = sorted(FOLDER.rglob("*.safetensors"))
    return [path for path in files if read_metadata(path).get("method") in KINDS]


@pytest.mark.parametrize("path", fixture_files(), ids=lambda path: path.stem)
def test_parity(path):
    fixture = load_fixture(path)
    checks = KINDS[fixture.method]
    assert fixture.kind in checks, f"{path.name}: no check for kind {fixture.kind!r} of {fixture.method}"
    compared = checks[fixture.kind](fixture)
    assert compared == set(fixture.outputs) | {f"grad.{name}" for name in fixture.gradients}, (
        "something was not compared"
    )


def test_every_kind_of_every_method_is_exercised():
    seen = {(read_metadata(path)["method"], read_metadata(path)["kind"]) for path in SHIPPED.rglob("*.safetensors")}
    assert seen == {(method, kind) for method, kinds in KINDS.items() for kind in kinds}


def test_a_pretext_step_of_timedrl_has_the_dropout_of_its_masks():
    fixture = load_fixture(SHIPPED / "timedrl_pretext_ci_etth1_defaults.safetensors")
    fixture.config["dropout"] = 0.35  # of the layers whose dropout is off
    assert fixture.config["fixed_dropout_p"] == 0.2
    parity_timedrl.check_pretext(fixture)

"""Every class, saved with its code, opens where hf_tsrep cannot be imported, and needs no trust where it can."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from contract_support import HEADS, METHOD_NAMES, build, random_values

SCRIPT = """
    import json, sys
    import numpy as np

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("hf_tsrep", "modeling", "tokenization"):
                raise ImportError(name + " is not here")

    sys.meta_path.insert(0, Refuse())
    import transformers

    report = {}
    for kind, (auto_class, folder) in json.loads(sys.argv[1]).items():
        for name in {auto_class, "AutoModel"}:
            model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
            series = np.load(sys.argv[2])
            report[f"{kind} {name}"] = model.encode(series).tolist()
            assert type(model).__module__.startswith("transformers_modules"), type(model)
    again = folder + "-again"
    model.save_pretrained(again)
    model = transformers.AutoModel.from_pretrained(again, trust_remote_code=True).eval()
    report["saved again"] = model.encode(series).tolist()
    json.dump(report, open(sys.argv[3], "w"))
"""
AUTO_CLASSES = {
    "model": "AutoModel",
    "pretraining": "AutoModelForPreTraining",
    "classification": "AutoModelForSequenceClassification",
    "prediction": "AutoModelForTimeSeriesPrediction",
}


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_code_travels_with_every_class(name, tmp_path):
    folders, expected = {}, {}
    series = None
    for kind in ("model", *HEADS):
        model = build(name, kind)
        series = random_values(model, 3, 20).numpy()
        folder = tmp_path / kind
        model.save_pretrained(folder)
        folders[kind] = (AUTO_CLASSES[kind], str(folder))
        expected[kind] = model.encode(series)
    np.save(tmp_path / "series.npy", series)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    arguments = [json.dumps(folders), str(tmp_path / "series.npy"), str(tmp_path / "report.json")]
    script = [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments]
    subprocess.run(script, check=True, cwd=tmp_path, env=environment)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report) == 8
    for key, found in report.items():
        kind = "prediction" if key == "saved again" else key.split()[0]
        np.testing.assert_allclose(np.asarray(found), expected[kind], rtol=1e-5, atol=1e-6)

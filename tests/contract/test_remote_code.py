"""Every class, saved with its code, opens where hf_tsrep cannot be imported, and needs no trust where it can."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from contract_support import HEADS, METHOD_NAMES, build, random_values

from hf_tsrep import TimeSeriesFeatureExtractor

# One process opens the models of all methods, because importing transformers takes longer than that; what goes wrong
# with one method is reported and leaves the others alone.
SCRIPT = """
    import json, sys, traceback
    import numpy as np

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("hf_tsrep", "modeling", "tokenization"):
                raise ImportError(name + " is not here")

    sys.meta_path.insert(0, Refuse())
    import transformers

    def encode_with(auto_class, folder):
        model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules"), type(model)
        return model, model.encode(np.load(folder + ".npy")).tolist()

    def look_at(folders):
        found = {}
        for kind, (auto_class, folder) in folders.items():
            for name in {auto_class, "AutoModel"}:
                model, found[f"{kind} {name}"] = encode_with(name, folder)
        again = folder + "-again"
        model.save_pretrained(again)
        np.save(again + ".npy", np.load(folder + ".npy"))
        found["saved again"] = encode_with("AutoModel", again)[1]
        return found

    def answer(folders):
        found = {}
        for task, kind in json.loads(sys.argv[3]).items():
            again = folders["prediction"][1] + "-again"
            for place in (folders[kind][1], *([again] if kind == "model" else [])):
                pipe = transformers.pipeline(task, model=place, trust_remote_code=True, device="cpu")
                assert type(pipe).__module__.startswith("transformers_modules"), type(pipe)
                found[task] = repr(pipe(np.load(place + ".npy")[0]))
        return found

    report = {}
    for method, folders in json.loads(sys.argv[1]).items():
        try:
            report[method] = look_at(folders), answer(folders)
        except Exception:
            report[method] = traceback.format_exc()
    json.dump(report, open(sys.argv[2], "w"))
"""
TASKS = {
    "time-series-feature-extraction": "model",
    "time-series-classification": "classification",
    "time-series-forecasting": "prediction",
}
AUTO_CLASSES = {
    "model": "AutoModel",
    "pretraining": "AutoModelForPreTraining",
    "classification": "AutoModelForSequenceClassification",
    "prediction": "AutoModelForTimeSeriesPrediction",
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Save the models of all methods; return by method what they encode here, and there."""
    place = tmp_path_factory.mktemp("models")
    folders, expected = {}, {}
    for method in METHOD_NAMES:
        folders[method], expected[method] = {}, {}
        for kind in ("model", *HEADS):
            model = build(method, kind)
            series = random_values(model, 3, 20).numpy()
            num_channels = series.shape[-1]
            model.preparation = TimeSeriesFeatureExtractor(num_channels, [10.0] * num_channels, [4.0] * num_channels)
            folder = place / f"{method}-{kind}"
            model.save_pretrained(folder)
            np.save(f"{folder}.npy", 10 + 4 * series)
            folders[method][kind] = (AUTO_CLASSES[kind], str(folder))
            expected[method][kind] = model.encode(series, prepared=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps(folders)]
    script += [str(place / "report.json"), json.dumps(TASKS)]
    subprocess.run(script, check=True, cwd=place, env=environment)
    return expected, json.loads((place / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_code_travels_with_every_class(name, encoded):
    expected, report = (part[name] for part in encoded)
    assert isinstance(report, list), report
    report, answered = report
    assert len(report) == 8
    assert set(answered) == set(TASKS)
    for key, found in report.items():
        kind = "prediction" if key == "saved again" else key.split()[0]
        np.testing.assert_allclose(np.asarray(found), expected[kind], rtol=1e-4, atol=1e-5)

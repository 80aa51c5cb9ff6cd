"""Every class opens by the code that was saved with it, where hf_tsrep cannot be imported.

Every method's classifier is opened as all four classes, since all code is in every folder; the folders of the other
classes, which differ in weights alone, are opened for one method.
"""

import json
import os
import textwrap

import numpy as np
import pytest
from contract_support import HEADS, METHOD_NAMES, build, random_values
from interpreters import run_apart

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
        return model, model.encode(np.load("series.npy")).tolist()

    def look_at(folders, auto_classes):
        found = {}
        for kind, folder in folders.items():
            for name in auto_classes:
                model, found[f"{kind} {name}"] = encode_with(name, folder)
            model.save_pretrained(folder + "-again")
        return found

    def answer(folders, values):
        folder = folders["classification"]
        for task, place in json.loads(sys.argv[4]).items():
            pipe = transformers.pipeline(task, model=folder + place, trust_remote_code=True, device="cpu")
            assert type(pipe).__module__.startswith("transformers_modules"), type(pipe)
            yield task, repr(pipe(values))

    report = {}
    for method, folders in json.loads(sys.argv[1]).items():
        try:
            report[method] = look_at(folders, json.loads(sys.argv[3])), dict(answer(folders, np.load("series.npy")[0]))
        except Exception:
            report[method] = traceback.format_exc()
    json.dump(report, open(sys.argv[2], "w"))
"""
TASKS = {  # and which of the two folders answers: the classifier's, or what was saved again, the forecaster
    "time-series-feature-extraction": "-again",
    "time-series-classification": "",
    "time-series-forecasting": "-again",
}
AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForPreTraining",
    "AutoModelForSequenceClassification",
    "AutoModelForTimeSeriesPrediction",
)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Save the models of all methods; return by method what they encode here, and there."""
    place = tmp_path_factory.mktemp("models")
    folders, expected = {}, {}
    for method in METHOD_NAMES:
        folders[method], expected[method] = {}, {}
        for kind in ("model", *HEADS) if method == METHOD_NAMES[0] else ("classification",):
            model = build(method, kind)
            series = random_values(model, 3, 20).numpy()
            num_channels = series.shape[-1]
            model.preparation = TimeSeriesFeatureExtractor(num_channels, [10.0] * num_channels, [4.0] * num_channels)
            folders[method][kind] = str(place / f"{method}-{kind}")
            model.save_pretrained(folders[method][kind])
            expected[method][kind] = model.encode(series, prepared=True)
    np.save(place / "series.npy", 10 + 4 * series)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    arguments = (json.dumps(folders), "report.json", json.dumps(AUTO_CLASSES), json.dumps(TASKS))
    run_apart(textwrap.dedent(SCRIPT), place, environment, arguments)
    return expected, json.loads((place / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_code_travels_with_every_class(name, encoded):
    expected, report = (part[name] for part in encoded)
    assert isinstance(report, list), report
    report, answered = report
    assert len(report) == len(expected) * len(AUTO_CLASSES)
    assert set(answered) == set(TASKS)
    for key, found in report.items():
        np.testing.assert_allclose(np.asarray(found), expected[key.split()[0]], rtol=1e-4, atol=1e-5)

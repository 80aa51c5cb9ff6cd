"""Publishing to a Hub on this machine and loading back in fresh processes."""

import json

import numpy as np
import pytest
from loopback_hub import LoopbackHub

import hf_tsrep
from hf_tsrep.data import CorpusMetadata
from hf_tsrep.hub import build_model_card, feature_extractor_of_corpus

pytestmark = pytest.mark.slow

REPOSITORY = "tester/tiny-ts2vec"
METADATA = CorpusMetadata(
    name="ett/ETTh1",
    task="forecasting",
    channel_names=("load", "oil", "heat"),
    freq="h",
    scaler={"kind": "standard", "mean": [1.0, -2.0, 0.5], "scale": [2.0, 0.5, 3.0]},
    licence="cc-by-nd-4.0",
)
RESULTS = [
    {
        "protocol": "forecasting",
        "method": "ts2vec",
        "corpus": "ett/ETTh1",
        "corpus_fingerprint": "ab" * 32,
        "seed": seed,
        "metrics": {"mse_24": 0.5 + 0.01 * seed, "mae_24": 0.4},
        "settings": {"setting": "multivariate"},
    }
    for seed in (0, 1)
]
ENCODE = """
import numpy as np
series = np.load({series!r})
extractor = AutoFeatureExtractor.from_pretrained({place!r}{arguments})
model = AutoModel.from_pretrained({place!r}{arguments})
encoded = model.encode(extractor.transform(list(series)))
with_padding = model(**extractor([series[0], series[1][:30]], return_tensors="pt")).pooler_output.detach().numpy()
np.savez({output!r}, encoded=encoded, with_padding=with_padding)
"""
WITHOUT_LIBRARY = "import sys; sys.modules['hf_tsrep'] = None\n"
NO_SOCKETS = """
import socket
def refuse(*arguments, **keywords):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = hf_tsrep.TS2VecConfig(num_input_channels=3, hidden_size=8, embedding_size=12, num_hidden_layers=3)
    hf_tsrep.TS2VecForPreTraining(config).save_pretrained(folder)
    feature_extractor_of_corpus(METADATA).save_pretrained(folder)
    (folder / "results.json").write_text(json.dumps({"format": 1, "results": RESULTS}))
    (folder / "figures").mkdir()
    (folder / "figures" / "loss.png").write_bytes(bytes(range(256)))
    card = build_model_card(
        folder, corpus_metadata=METADATA, training={"seed": 0}, figures={"Loss": "figures/loss.png"}
    )
    card.save(folder / "README.md")
    return folder


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    path = tmp_path_factory.mktemp("series") / "series.npy"
    values = np.random.default_rng(0).normal(size=(4, 50, 3)).astype(np.float32)
    values[2, 10:14] = np.nan
    np.save(path, values)
    return path


@pytest.fixture(scope="module")
def expected(folder, series):
    values = np.load(series)
    extractor = hf_tsrep.TimeSeriesFeatureExtractor.from_pretrained(folder)
    model = hf_tsrep.TS2VecModel.from_pretrained(folder)
    batch = extractor([values[0], values[1][:30]], return_tensors="pt")
    return {
        "encoded": model.encode(extractor.transform(list(values))),
        "with_padding": model(**batch).pooler_output.detach().numpy(),
    }


@pytest.fixture(scope="module")
def published(hub, folder, tmp_path_factory):
    code = f"""
import json, pathlib, shutil
from hf_tsrep import TS2VecModel, push_to_hub
from huggingface_hub import HfApi, ModelCard
folder, repository = {str(folder)!r}, {REPOSITORY!r}
urls = [push_to_hub(folder, repository) for _ in range(2)]
shutil.copytree(folder, "changed")
pathlib.Path("changed", "results.json").write_text("[]")
urls.append(push_to_hub("changed", repository, revision="dev", commit_message="Try it"))
urls.append(push_to_hub("changed", repository, create_pr=True))
push_to_hub(folder, repository + "-private", private=True)
push_to_hub(TS2VecModel.from_pretrained(folder), "tester/of-an-object")
refused = None
try:
    push_to_hub(folder, "tester/other", token="hf_wrong")
except Exception as error:
    refused = type(error).__name__
entries = [(entry.dataset_name, entry.metric_type, entry.metric_value, entry.metric_args)
           for entry in ModelCard.load(repository).data.eval_results]
print(json.dumps(dict(urls=urls, refused=refused, entries=entries, sha=HfApi().model_info(repository).sha)))
"""
    return json.loads(hub.run(code, tmp_path_factory.mktemp("home")).splitlines()[-1])


def check_equal(expected, path):
    loaded = np.load(path)
    for name, value in expected.items():
        np.testing.assert_allclose(loaded[name], value, rtol=0, atol=1e-6)


def test_all_files_arrive_in_one_commit(hub, folder, published):
    stored = hub.files(REPOSITORY)
    local = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert stored.keys() == local.keys()
    assert {name for name in stored if stored[name] != local[name]} == {"README.md"}
    card = stored["README.md"].decode()
    assert f'AutoModel.from_pretrained("{REPOSITORY}")' in card
    assert "your-name" not in card
    assert len(hub.repositories["models", REPOSITORY].branches["main"]) == 2, "the first commit and one more"


def test_the_urls_are_those_of_the_commits(hub, published):
    first, again, on_branch, of_request = published["urls"]
    assert first.endswith(f"/{REPOSITORY}/commit/{published['sha']}")
    assert again == first, "nothing had changed"
    branches = hub.repositories["models", REPOSITORY].branches
    assert on_branch.endswith(f"/commit/{branches['dev'][-1].commit_id}")
    assert branches["dev"][-1].message == "Try it"
    assert of_request.endswith(f"/{REPOSITORY}/discussions/1")
    for revision in ("dev", "refs/pr/1"):
        assert hub.files(REPOSITORY, revision=revision)["results.json"] == b"[]"
    assert hub.repositories["models", REPOSITORY + "-private"].is_private
    assert {"config.json", "model.safetensors", "README.md"} <= hub.files("tester/of-an-object").keys()
    assert published["refused"] is not None
    assert ("models", "tester/other") not in hub.repositories


def test_the_published_card_has_the_numbers_of_the_results_file(hub, published):
    stored = json.loads(hub.files(REPOSITORY)["results.json"])["results"]
    values = {metric: (value, arguments["seeds"]) for _, metric, value, arguments in published["entries"]}
    seeds = [result["seed"] for result in stored]
    assert values == {
        metric: (pytest.approx(np.mean([result["metrics"][metric] for result in stored])), seeds)
        for metric in ("mse_24", "mae_24")
    }


def test_it_loads_with_its_own_code_where_the_library_is_missing(hub, published, series, expected, tmp_path):
    code = ENCODE.format(
        series=str(series), place=REPOSITORY, output=str(tmp_path / "out.npz"), arguments=", trust_remote_code=True"
    )
    imports = "from transformers import AutoFeatureExtractor, AutoModel\n"
    hub.run(WITHOUT_LIBRARY + imports + code, tmp_path, PYTHONPATH="")
    check_equal(expected, tmp_path / "out.npz")


def test_it_loads_without_trust_where_the_library_is_installed(hub, published, series, expected, tmp_path):
    code = ENCODE.format(series=str(series), place=REPOSITORY, output=str(tmp_path / "out.npz"), arguments="")
    begin = len(hub.requests)
    hub.run("import hf_tsrep\nfrom transformers import AutoFeatureExtractor, AutoModel\n" + code, tmp_path)
    check_equal(expected, tmp_path / "out.npz")
    requested = [path for method, path in hub.requests[begin:] if method == "GET"]
    assert any(path.endswith("model.safetensors") for path in requested)
    assert not any(path.endswith(".py") for path in requested), "local code is used"


@pytest.mark.parametrize("with_library", [True, False])
def test_a_local_folder_needs_no_network(hub, folder, series, expected, tmp_path, with_library):
    arguments = "" if with_library else ", trust_remote_code=True"
    code = ENCODE.format(series=str(series), place=str(folder), output=str(tmp_path / "out.npz"), arguments=arguments)
    imports = ("import hf_tsrep\n" if with_library else WITHOUT_LIBRARY) + NO_SOCKETS
    begin = len(hub.requests)
    hub.run(imports + "from transformers import AutoFeatureExtractor, AutoModel\n" + code, tmp_path)
    assert hub.requests[begin:] == []
    check_equal(expected, tmp_path / "out.npz")

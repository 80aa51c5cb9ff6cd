"""Publishing to a Hub on this machine and loading back, where the library is installed and where it is not.

Two processes do it all, because importing transformers takes longer than that.
"""

import hashlib
import json

import numpy as np
import pytest
import yaml
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
WITHOUT_LIBRARY = "import sys; sys.modules['hf_tsrep'] = None\n"
# The folder comes before the Hub: a connection that is kept alive would need no new socket.
LOAD = """
import socket
from unittest import mock
import numpy as np
from transformers import AutoFeatureExtractor, AutoModel

def encode_with(place, output, **arguments):
    series = np.load({series!r})
    extractor = AutoFeatureExtractor.from_pretrained(place, **arguments)
    model = AutoModel.from_pretrained(place, **arguments)
    encoded = model.encode(extractor.transform(list(series)))
    batch = extractor([series[0], series[1][:30]], return_tensors="pt")
    np.savez(output, encoded=encoded, with_padding=model(**batch).pooler_output.detach().numpy())

def refuse(*arguments, **keywords):
    raise AssertionError("a socket was opened")

methods = mock.patch.multiple(socket.socket, connect=refuse, connect_ex=refuse)
with methods, mock.patch.multiple(socket, create_connection=refuse, getaddrinfo=refuse):
    encode_with({folder!r}, "of_folder.npz"{arguments})
"""
LOAD_FROM_HUB = f"encode_with({REPOSITORY!r}, 'of_hub.npz'{{arguments}})\n"


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
def published(hub, folder, series, tmp_path_factory):
    """Load the folder, publish it, load it from the Hub; return what was seen, the home, and the paths of the last."""
    home = tmp_path_factory.mktemp("home")
    load = LOAD.format(series=str(series), folder=str(folder), arguments="")
    code = f"""
import hf_tsrep
{load}
import json, pathlib, shutil
from hf_tsrep import TS2VecModel, push_to_hub
from huggingface_hub import HfApi, ModelCard
folder, repository = {str(folder)!r}, {REPOSITORY!r}
urls = [push_to_hub(folder, repository) for _ in range(2)]
shutil.copytree(folder, "changed")
pathlib.Path("changed", "results.json").write_text('{{"results": []}}')
urls.append(push_to_hub("changed", repository, revision="dev", commit_message="Try it"))
urls.append(push_to_hub("changed", repository, create_pr=True))
push_to_hub(folder, repository + "-private", private=True)
api = HfApi()
api.create_repo("tester/loads", repo_type="dataset")
tasks = b"name: Loads\\ntasks:\\n- id: day-ahead\\n  config: default\\n  split: test\\n"
api.upload_file(path_or_fileobj=tasks, path_in_repo="eval.yaml", repo_id="tester/loads", repo_type="dataset")
shutil.copytree(folder, "measured")
results = pathlib.Path("measured", "results.json")
results.write_text(results.read_text().replace("ett/ETTh1", "tester/loads"))
push_to_hub("measured", "tester/measured")
AutoModel.from_pretrained("tester/measured").push_to_hub("tester/measured-again")
model = TS2VecModel.from_pretrained(folder)
push_to_hub(model, "tester/of-an-object")
AutoModel.from_pretrained(folder).push_to_hub("tester/of-transformers", tags=["mine"])
from transformers import Trainer, TrainingArguments
from hf_tsrep.training.trainer import TimeSeriesTrainer
for kind, name in ((TimeSeriesTrainer, "TimeSeriesTrainer"), (Trainer, "Trainer"), (Trainer, "Trainer-mended")):
    options = dict(push_to_hub=True, hub_model_id="tester/of-" + name, report_to="none", use_cpu=True)
    trainer = kind(model, TrainingArguments(name, **options))
    trainer.push_to_hub()
push_to_hub(trainer.model, trainer.hub_model_id)
next(iter(model.parameters())).data.add_(1.0)
model.push_to_hub("tester/of-changed-weights")
refused = None
try:
    push_to_hub(folder, "tester/other", token="hf_wrong")
except Exception as error:
    refused = type(error).__name__
entries = [(entry.dataset_name, entry.metric_name, entry.metric_value, entry.metric_args)
           for entry in ModelCard.load(repository).data.eval_results]
sha = HfApi().model_info(repository).sha
{LOAD_FROM_HUB.format(arguments="")}
print(json.dumps(dict(urls=urls, refused=refused, entries=entries, sha=sha)))
"""
    return {**json.loads(hub.run(code, home).splitlines()[-1]), "home": home, "requests": list(hub.requests)}


@pytest.fixture(scope="module")
def loaded_without_the_library(hub, published, folder, series, tmp_path_factory):
    """Load the folder and the published model where hf_tsrep cannot be imported; return the home."""
    home = tmp_path_factory.mktemp("without")
    arguments = ", trust_remote_code=True"
    load = LOAD.format(series=str(series), folder=str(folder), arguments=arguments)
    push = f"""
for place, name in (({str(folder)!r}, "a-folder"), ({REPOSITORY!r}, "the-hub")):
    AutoModel.from_pretrained(place, trust_remote_code=True).push_to_hub("tester/by-remote-code-of-" + name)
"""
    hub.run(WITHOUT_LIBRARY + load + LOAD_FROM_HUB.format(arguments=arguments) + push, home, PYTHONPATH="")
    return home


def check_equal(expected, path):
    loaded = np.load(path)
    for name, value in expected.items():
        np.testing.assert_allclose(loaded[name], value, rtol=0, atol=1e-6)


def test_all_files_arrive_in_one_commit(hub, folder, published):
    stored = hub.files(REPOSITORY)
    local = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert stored.keys() == local.keys()
    assert {name for name in stored if stored[name] != local[name]} == {"README.md", "SHA256SUMS"}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in stored.items() if name != "SHA256SUMS"}
    assert stored["SHA256SUMS"].decode() == "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
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
        assert hub.files(REPOSITORY, revision=revision)["results.json"] == b'{"results": []}'
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


@pytest.mark.parametrize("name", ["measured", "measured-again"])
def test_results_on_a_benchmark_of_the_hub_are_published_in_its_own_form(hub, published, name):
    (entry,) = yaml.safe_load(hub.files(f"tester/{name}")[".eval_results/hf-tsrep.yaml"])
    assert entry == {
        "dataset": {"id": "tester/loads", "task_id": "day-ahead"},
        "value": 0.505,
        "source": {"url": f"https://huggingface.co/tester/{name}/blob/main/results.json", "name": "results.json"},
        "notes": "mse_24; forecasting; multivariate; seeds 0, 1",
    }
    assert ".eval_results/hf-tsrep.yaml" not in hub.files(REPOSITORY), "ett/ETTh1 is no data set of the Hub"


def test_it_loads_with_its_own_code_where_the_library_is_missing(loaded_without_the_library, expected):
    check_equal(expected, loaded_without_the_library / "of_hub.npz")


def test_it_loads_without_trust_where_the_library_is_installed(published, expected):
    check_equal(expected, published["home"] / "of_hub.npz")
    requested = [path for method, path in published["requests"] if method == "GET" and "/resolve/" in path]
    assert any(path.endswith("model.safetensors") for path in requested)
    assert not any(path.endswith(".py") for path in requested), "local code is used"


def test_a_local_folder_needs_no_network_where_the_library_is_installed(published, expected):
    check_equal(expected, published["home"] / "of_folder.npz")


def test_a_local_folder_needs_no_network_where_the_library_is_missing(loaded_without_the_library, expected):
    check_equal(expected, loaded_without_the_library / "of_folder.npz")


WHAT_MAKES_IT_USABLE = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
WHAT_MAKES_IT_USABLE |= {"modeling_ts2vec.py", "pipeline_time_series.py", "feature_extraction_time_series.py"}


@pytest.mark.parametrize(
    "name",
    [
        "of-an-object",
        "of-transformers",
        "of-TimeSeriesTrainer",
        "by-remote-code-of-a-folder",
        "by-remote-code-of-the-hub",
    ],
)
def test_every_push_of_a_loaded_model_takes_its_card_results_and_pictures(
    hub, published, loaded_without_the_library, folder, name
):
    stored = hub.files(f"tester/{name}")
    assert stored.keys() >= WHAT_MAKES_IT_USABLE | {"results.json", "figures/loss.png"}
    assert not {path for path in stored if path.endswith(".bin")}
    card = stored["README.md"].decode()
    assert "cc-by-nd-4.0" in card, "the corpus that it was trained on"
    assert f'AutoModel.from_pretrained("tester/{name}")' in card
    assert "your-name" not in card
    assert "mse_24" in card
    assert ("- mine" in card) == (name == "of-transformers")


def test_a_push_of_changed_weights_tells_nothing_of_those_that_were_loaded(hub, published):
    stored = hub.files("tester/of-changed-weights")
    assert stored.keys() >= WHAT_MAKES_IT_USABLE
    assert "results.json" not in stored
    card = stored["README.md"].decode()
    assert "No results were recorded" in card
    assert "cc-by-nd-4.0" not in card
    assert 'AutoModel.from_pretrained("tester/of-changed-weights")' in card


def test_the_plain_trainer_sends_what_makes_the_model_usable(hub, published):
    """Its own card it writes itself, after everything that a model is asked for."""
    stored = hub.files("tester/of-Trainer")
    assert stored.keys() >= WHAT_MAKES_IT_USABLE
    assert "generated automatically" in stored["README.md"].decode(), "else README need not say how to mend it"
    assert hub.files("tester/of-Trainer-mended")["README.md"] == hub.files("tester/of-an-object")["README.md"].replace(
        b"of-an-object", b"of-Trainer-mended"
    )

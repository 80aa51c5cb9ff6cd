"""`.eval_results`: results on benchmarks of the Hub in its own form, and what `hf-tsrep card check` says of them."""

import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

import hf_tsrep
from hf_tsrep.hub import build_model_card
from hf_tsrep.hub.card_parts import result_rows
from hf_tsrep.hub.evaluation_results import evaluation_entries, hub_dataset_id, write_evaluation_results
from hf_tsrep.modeling.publishing_time_series import EVAL_RESULTS_FILE

TASKS = {
    "owner/loads": [{"id": "loads", "config": "default", "split": "test"}, {"id": "tuning", "split": "validation"}],
    "owner/machines": [{"id": "small", "config": "small"}, {"id": "large", "config": "large"}],
}


def result(corpus, metrics, seed=0, **settings):
    return {"protocol": "forecasting", "method": "ts2vec", "corpus": corpus, "seed": seed, "metrics": metrics} | {
        "settings": settings,
        "date": f"2026-11-0{seed + 1}T10:00:00+00:00",
    }


RESULTS = [
    result("owner/loads", {"mse_24": 0.5, "mse_48": 0.7, "mse": 0.6, "mae": 0.4}, setting="univariate"),
    result("owner/loads", {"mse_24": 0.6, "mse_48": 0.8, "mse": 0.7, "mae": 0.4}, seed=1, setting="univariate"),
    result("owner/machines:large", {"svm_accuracy": 0.9, "svm_kappa": 0.8}),
    result("owner/machines", {"svm_accuracy": 0.1}),  # no configuration of this name
    result("owner/no-benchmark", {"mse": 0.1}),
    result("ett/ETTh1", {"mse": 0.2}),  # a name that the Hub does not know
    result("table.csv", {"mse": 0.3}),
]


def tasks_of(dataset_id):
    return TASKS.get(dataset_id, [])


@pytest.mark.parametrize(
    ("corpus", "found"),
    [
        ("owner/loads", ("owner/loads", "default")),
        ("owner/loads:large", ("owner/loads", "large")),
        ("ett/ETTh1", None),
        ("table.csv", None),
        ("a/b/c", None),
    ],
)
def test_only_an_id_of_the_hub_is_one(corpus, found):
    assert hub_dataset_id(corpus) == found


def test_each_protocol_on_a_benchmark_gives_its_main_metric():
    loads, machines = evaluation_entries(result_rows(RESULTS), tasks_of)
    assert (loads.dataset_id, loads.task_id, loads.value) == ("owner/loads", "loads", pytest.approx(0.65))
    assert loads.notes == "mse; forecasting; univariate; seeds 0, 1"
    assert loads.date == "2026-11-02T10:00:00+00:00"
    assert (machines.dataset_id, machines.task_id, machines.value) == ("owner/machines", "large", 0.9)


@pytest.fixture
def folder(tmp_path):
    config = hf_tsrep.TS2VecConfig(num_input_channels=1, hidden_size=4, embedding_size=4, num_hidden_layers=1)
    hf_tsrep.TS2VecModel(config).save_pretrained(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"format": 1, "results": RESULTS[:3]}))
    build_model_card(tmp_path).save(tmp_path / "README.md")
    return tmp_path


def test_the_file_is_the_hubs_form_and_nothing_is_written_without_a_benchmark(folder, command_line):
    assert write_evaluation_results(folder, lambda dataset_id: []) is None
    assert not (folder / ".eval_results").exists()
    path = write_evaluation_results(folder, tasks_of)
    assert path == folder / EVAL_RESULTS_FILE
    stored = yaml.safe_load(path.read_text())
    assert parse_eval_result_entries(stored) == evaluation_entries(result_rows(RESULTS[:3]), tasks_of)
    assert stored[0]["source"] == {
        "url": "https://huggingface.co/your-name/your-model/blob/main/results.json",
        "name": "results.json",
    }
    code, _, err = command_line("card", "check", folder)
    assert code == 0, err


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("id: owner/loads", "id: loads", "dataset.id is loads, which is no id of the Hub"),
        (
            "  value: 0.9\n",
            "  value: 0.95\n",
            "0.95 on owner/machines is not from results.json, where it is 0.9",
        ),
        ("  value: 0.9\n", "  value: high\n", "value is high, which is no number"),
        ("    task_id: loads\n", "", "dataset.task_id is missing"),
        ("    task_id: loads\n", "    task_id: loads\n    split: test\n", "the Hub knows no field split"),
        ("    url: https", "    link: https", "source has no url"),
        ("'2026-11-02T", "'in November", "which is not as ISO 8601 writes one"),
        ("- dataset", "dataset", "it is no"),
    ],
)
def test_each_fault_is_named(folder, command_line, old, new, told):
    path = write_evaluation_results(folder, tasks_of)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    code, _, err = command_line("card", "check", folder)
    assert code == 2
    assert f"{EVAL_RESULTS_FILE}" in err
    assert told in err

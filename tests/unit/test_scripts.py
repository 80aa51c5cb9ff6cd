"""The maintainers' programs: the benchmark's cases, and the plans of what reproduces published numbers."""

import json
import runpy
from pathlib import Path

import benchmark
import numpy as np
import pytest
import reproduce
import yaml
from benchmark.cases_crosstimenet import exact_codes_kernel
from benchmark.cases_kernels import attention_kernel, contrast_kernel, sliding_kernel, stream_kernel
from benchmark.cases_mug import mug_step, soft_spearman
from benchmark.cases_timedart import timedart_encode, timedart_forecast
from benchmark.measure import compare, table
from reproduction.plan import build_parser, list_grids, load_grid, plan
from reproduction.work import complete, own_function, record_file
from rivals import problems_of
from safetensors.torch import load_file

import hf_tsrep
from hf_tsrep.data.known_corpora import find_known_corpus
from hf_tsrep.errors import SettingsError
from hf_tsrep.results import read_results
from hf_tsrep.training import finetuning_fields, list_recipes, pretraining_fields

SCRIPTS = Path(__file__).parents[2] / "scripts"
RESULTS = SCRIPTS.parent / "results"


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        (contrast_kernel, {"batch_size": 2, "length": 37}),
        (attention_kernel, {"num_rows": 2, "length": 40}),
        (sliding_kernel, {"num_steps": 40, "window_length": 21}),
        (stream_kernel, {"num_steps": 20, "window_length": 21}),
        (exact_codes_kernel, {"num_series": 4}),
        (timedart_encode, {"batch_size": 2}),
        (timedart_forecast, {"batch_size": 1, "prediction_length": 8}),
        (mug_step, {"length": 270, "batch_size": 2}),
        (soft_spearman, {"num_queries": 3, "num_candidates": 40}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_kernel_and_its_plain_side_compute_the_same(case, sizes):
    ours, plain = (case(side, **sizes)["sample"] for side in (False, True))
    assert len(ours) > 10
    assert np.std(plain) > 0
    np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-4)


def test_a_case_is_found_by_the_name_of_its_module_alone(tmp_path, monkeypatch):
    (tmp_path / "cases_toy.py").write_text("CASES = {'toy_step': lambda plain: {'seconds': 1.0, 'sample': [0.0]}}\n")
    monkeypatch.setattr(benchmark, "__path__", [*benchmark.__path__, str(tmp_path)])
    assert {"toy_step", "training_step", "tokenize", "simmtm_step", "timedrl_step"} <= set(benchmark.find_cases())
    (tmp_path / "cases_other.py").write_text("CASES = {'training_step': dict}\n")
    with pytest.raises(ValueError, match="'training_step'"):
        benchmark.find_cases()


def test_a_comparison_has_both_sides_and_a_row(monkeypatch):
    sides = {
        False: {"seconds": 1.0, "peak_mib": 10.0, "sample": [1.0, 2.0], "operations": 50.0},
        True: {"seconds": 3.0, "peak_mib": 30.0, "sample": [1.0, 2.5]},
    }
    monkeypatch.setattr("benchmark.measure.run_in_child", lambda case, plain, num_threads: sides[plain])
    row = compare("toy", 3, 1, 100.0)
    assert row["times_faster"] == 3
    assert row["share_of_limit"] == 0.5
    assert "| toy | 1.000 | 3.000 | 3.0 | 10 | 30 | 5.0e-01 | 50% |" in table([row])


def test_the_benchmark_runs_both_sides_in_processes_of_their_own(tmp_path, monkeypatch):
    output = tmp_path / "figures.json"
    arguments = ["--cases", "windows", "--repeats", "1", "--num-threads", "1", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments])
    runpy.run_path(str(SCRIPTS / "benchmark.py"), run_name="__main__")
    (row,) = json.loads(output.read_text())["cases"]
    assert row["case"] == "windows"
    assert row["largest_difference"] == 0


@pytest.fixture
def known_corpora(monkeypatch):
    """Make these the corpora that there are, whatever this machine has."""
    ucr = {path.name.partition("-seed")[0].replace("ucr-", "ucr/") for path in RESULTS.glob("ts2vec/ucr-*")}
    uea = {path.name.partition("-seed")[0].replace("uea-", "uea/") for path in RESULTS.glob("ts2vec/uea-*")}
    names = sorted({*ucr, *uea, "anomaly/KPI_donut/one", "anomaly/KPI_donut/two", "anomaly/Yahoo/one"})
    monkeypatch.setattr("reproduction.plan.list_known_corpora", lambda: names)


def plan_of(method, words):
    grid = load_grid(method)
    return list(plan(grid, build_parser(grid).parse_args(words.split())))


@pytest.mark.parametrize("method", list_grids())
def test_a_grid_asks_for_what_there_is(method, known_corpora):
    assert method in hf_tsrep.list_methods()
    grid = load_grid(method)
    for job, described in grid["jobs"].items():
        variants = described.get("variants", grid["options"].get("variants", {}).get("choices", {}))
        words = f"{job} --variants {' '.join(variants)}" if variants else job
        for run in plan_of(method, words):
            corpora = [*run.corpora, *(corpus for stage in run.stages for corpus in stage.corpora)]
            assert all(find_known_corpus(corpus) for corpus in corpora), corpora
            for stage in run.stages:
                if stage.start in (None, "random_weights"):
                    fields = dict(stage.fields)
                    assert set(fields) <= {*pretraining_fields(method, fields.pop("stage", "model")), "stage"}
                else:
                    assert callable(own_function(method, stage.start))
            if run.trained_by:
                assert callable(own_function(method, run.trained_by))
            recipe = (run.finetuning or {}).get("recipe")
            assert recipe is None or recipe in list_recipes("finetuning")
            assert set(run.finetuning or ()) <= {*finetuning_fields(method), "recipe", "task"}


# The commands behind results/.
COMMANDS = {
    "ts2vec": ["etth1 --seeds 1 2 3 42", "kpi --seeds 1", "ucr uea --seeds 1 2"],
    "timedrl": [
        "ett/ETTh1 ett/ETTh2",
        "forecasting/exchange_rate --variants full without_contrastive without_predictive",
        "uea/FingerMovements --seeds 1 2 3",
        "sensor/HAR uea/PenDigits --variants random_weights --seeds 1",
        "sensor/Epilepsy_TSTCC sensor/HAR uea/PenDigits --variants full random_weights "
        "--smaller hidden_size=384 num_attention_heads=3 num_hidden_layers=3",
        "sensor/HAR --smaller hidden_size=128 num_attention_heads=2 num_hidden_layers=3 --seeds 1",
    ],
    "simmtm": [
        "ETTh1 ETTm1 --linear-probe",
        "ETTh1 ETTm1 --variants full random --horizons 96",
        "ETTh1 --variants random --linear-probe --horizons 96",
        "ETTh1 --variants full without-constraint masked-modelling random --look-back 96 --horizons 96",
        "ETTh2-to-ETTh1 --variants full random --look-back 96 --horizons 96",
        "Epilepsy --variants full without-constraint masked-modelling random --seeds 1 2 3",
        "Epilepsy --variants full without-constraint masked-modelling random --selection last --seeds 1 2 3",
    ],
    "crosstimenet": ["--tokenizer-steps 1000"],
    "tst": ["--seeds 1 2"],
    "shapenet": ["--seeds 1 2"],
    "mug": ["--seeds 1 2"],
}


@pytest.mark.parametrize("method", COMMANDS)
def test_every_result_is_the_file_of_a_planned_run_with_its_setting(method, known_corpora):
    planned = {run.result.name: run for words in COMMANDS[method] for run in plan_of(method, words)}
    files = sorted((RESULTS / method).glob("*.json"))
    assert files
    for file in files:
        run = planned[file.name]
        (result,) = read_results(file)
        wanted = (result.method, result.corpus, result.protocol, result.seed)
        assert (run.method, run.corpus, run.protocol, run.seed) == wanted
        assert run.settings.get("setting", result.setting) == result.setting
        assert set(run.settings) <= set(result.settings)


def test_mug_is_compared_with_its_branches_on_the_same_problems(known_corpora):
    problems = {method: problems_of(method) for method in ("mug", "tst", "shapenet")}
    assert set(problems["tst"]) == set(problems["shapenet"]) == set(problems["mug"])
    assert [sum(name.startswith(family) for name in problems["mug"]) for family in ("ucr/", "uea/")] == [21, 11]
    assert len({run.result for run in plan_of("mug", "--seeds 1 2")}) == 32 * 5 * 2


def test_the_series_of_kpi_are_one_run_and_every_ucr_corpus_its_own(known_corpora):
    (joined,) = plan_of("ts2vec", "kpi --seeds 1")
    assert joined.corpora == ["anomaly/KPI_donut/one", "anomaly/KPI_donut/two"] == joined.stages[0].corpora
    assert joined.corpus == "anomaly/KPI_donut"
    assert [run.seed for run in plan_of("ts2vec", "ucr-GunPoint ucr-GunPoint --seeds 3 4")] == [3, 4]
    univariate = plan_of("ts2vec", "ETTh1-univariate")[0]
    assert univariate.stages[0].fields == {"seed": 1, "target": "univariate"}
    assert univariate.loading == {"scaler": "standard", "time_features": True, "target": "univariate"}


def test_a_linear_probe_replaces_the_fine_tuning_of_the_job_and_horizons_share_a_pre_training():
    words = (
        "ETTh1 --linear-probe --look-back 96 --horizons 24 48 --pretraining-steps 200 --finetuning-stride 4 --seeds 7"
    )
    first, second = plan_of("simmtm", words)
    assert first.stages == second.stages
    assert first.stages[0].folder == Path("runs/simmtm/ETTh1-look-back-96-seed7")
    lengths = {"context_length": 96, "max_train_length": 96}
    assert first.stages[0].fields == {"seed": 7, "max_steps": 200, "validation_loss": False, **lengths}
    assert second.result.name == "ETTh1-look-back-96-48-linear-probe-seed7.json"
    assert second.protocol == "linear"
    assert second.finetuning == {
        **{"mode": "linear-probe", "num_train_epochs": 10, "early_stopping_patience": 3, "feature_memory": 12.0},
        **{"stride": 4, "context_length": 96, "prediction_length": 48},
    }
    assert second.settings["pretraining"] == {"max_steps": 200}
    assert second.settings["setting"] == "full, look-back 96, head alone"


def test_random_weights_have_the_sizes_of_the_corpus_of_the_pre_training():
    (run,) = plan_of("simmtm", "ETTh2-to-ETTh1 --variants random --horizons 96 --seeds 1")
    assert run.stages == []
    assert run.corpus == "ett/ETTh1"
    assert run.finetuning["hidden_size"] == 8  # ETTh1 has 32
    assert run.finetuning["dropout"] == 0.2  # the fine-tuning's own
    assert run.settings["source"] is None
    (saved,) = plan_of("timedrl", "sensor/HAR --variants random_weights --smaller num_hidden_layers=3 --seeds 2")
    assert saved.result.name == "HAR-random_weights-hidden_layers-3-seed2.json"
    assert saved.stages[0].start == "random_weights"
    assert saved.settings == {
        "pretraining": {"num_hidden_layers": 3},
        "setting": "random weights, num_hidden_layers 3",
    }


def test_the_horizons_of_timedrl_are_one_run_whose_head_learns_ten_times_as_fast():
    (run,) = plan_of("timedrl", "ett/ETTm1 --horizons 24 96 168 --linear-epochs 7 --stride 2 --seeds 1")
    assert run.horizons == [24, 96]
    recipe = hf_tsrep.training.load_recipe("timedrl", "ettm1")
    assert run.finetuning["learning_rate"] == 10 * recipe["learning_rate"]
    assert run.finetuning["context_length"] == recipe["max_train_length"]
    assert (run.finetuning["num_train_epochs"], run.finetuning["stride"]) == (7, 2)
    assert run.stages[0].fields == {"seed": 1, "window_stride": 2}


def test_raw_patches_start_from_another_variant_and_all_share_a_tokenizer():
    words = (
        "har --variants language_model-raw_patches language_model-random_embeddings --seeds 1 --label-fractions 0.1"
    )
    patches, tokens = plan_of("crosstimenet", f"{words} --learning-rate 0.0003 --few-label-epochs 9")
    assert patches.stages == tokens.stages
    folders = ["all-minilm-3-layers", "tokenizer", "language_model-random_embeddings-seed1"]
    assert [stage.folder.name for stage in tokens.stages] == folders
    assert patches.trained_by == "raw_patches_on_language_model"
    assert tokens.trained_by is None
    assert tokens.finetuning["num_train_epochs"] == 9
    assert patches.result.name == "har-language_model-raw_patches-learning_rate_0.0003-0.1-seed1.json"
    assert patches.settings["setting"] == "language model, raw patches, 10% of the labels, learning rate 0.0003"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("simtm", r"Did you mean 'simmtm'\?"),
        ("simmtm ETTh11", r"no job 'ETTh11'.*Did you mean 'ETTh1'"),
        (
            "simmtm ETTh2-to-ETTh1 --variants masked-modelling",
            "has no variant 'masked-modelling'; it has full, random",
        ),
        ("timedrl ett/ETTh1 --horizons 5", r"none of the horizons \[5\]"),
    ],
)
def test_what_a_grid_does_not_have_is_named_with_the_near_match(words, message):
    with pytest.raises(SystemExit, match=message):
        reproduce.main(words.split())


@pytest.fixture
def tiny_grid(tmp_path, monkeypatch):
    """Write a grid for a method that needs a file of its own only, and return its folder."""
    stage = {"folder": "{job}-seed{seed}", "corpora": "{corpora}", "fields": {"seed": "{seed}"}}
    job = {"corpora": ["uea/BasicMotions"], "protocol": "classification", "loading": {"scaler": "recommended"}}
    sizes = {"embedding_size": 8, "hidden_size": 4, "num_hidden_layers": 1}
    job["pretraining"] = {**sizes, "max_steps": 2, "save_steps": 1, "save_total_limit": 5}
    head = {"mode": "linear-probe", "max_steps": 2, "learning_rate": 1.0e-3}
    tuned = {**job, "protocol": "linear", "task": "classification", "finetuning": head}
    grid = {"loops": ["seeds", "jobs"], "result": "{job}-seed{seed}", "stages": {"pretraining": stage}}
    grid |= {"jobs": {"frozen": job, "head": tuned}, "setting": ["{job}"]}
    (tmp_path / "ts2vec.yaml").write_text(yaml.safe_dump(grid))
    monkeypatch.setattr("reproduction.plan.GRIDS", tmp_path)
    return tmp_path


def test_a_grid_is_carried_out_from_the_pre_training_to_the_result_once(tiny_grid, monkeypatch, capsys):
    folders = ["--results-dir", str(tiny_grid / "results"), "--runs-dir", str(tiny_grid / "runs")]
    words = ["ts2vec", "--seeds", "5", *folders]
    reproduce.main(words)
    (frozen,), (head,) = (read_results(tiny_grid / f"results/{job}-seed5.json") for job in ("frozen", "head"))
    assert (frozen.protocol, frozen.method, frozen.seed, frozen.model) == ("classification", "ts2vec", 5, "")
    assert 0 <= frozen.metrics["svm_accuracy"] <= 1
    assert frozen.timings["pretraining"] > 0
    assert (head.protocol, head.setting) == ("linear", "head")
    assert 0 <= head.metrics["accuracy"] <= 1
    assert not list((tiny_grid / "runs").iterdir())
    monkeypatch.setattr("reproduction.work.hf_tsrep.pretrain", None)  # would fail
    reproduce.main(words)
    capsys.readouterr()
    reproduce.main([*words, "--dry-run"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["done"] for line in lines] == [True, True]


def test_an_interrupted_pre_training_goes_on_from_its_checkpoint_with_the_same_settings_only(tiny_grid, monkeypatch):
    (run, _) = plan_of("ts2vec", f"--seeds 5 --runs-dir {tiny_grid / 'runs'}")
    (stage,) = run.stages
    complete("ts2vec", stage)
    weights = load_file(stage.folder / "model.safetensors")
    (stage.folder / "model.safetensors").unlink()
    (stage.folder / "checkpoint-2/trainer_state.json").unlink()  # killed while it was written
    calls = []
    pretrain = hf_tsrep.pretrain

    def record(*arguments, **fields):
        calls.append(fields["resume_from_checkpoint"])
        return pretrain(*arguments, **fields)

    monkeypatch.setattr("reproduction.work.hf_tsrep.pretrain", record)
    complete("ts2vec", stage)
    complete("ts2vec", stage)
    assert calls == [True]
    resumed = load_file(stage.folder / "model.safetensors")
    assert all(bool((resumed[name] == value).all()) for name, value in weights.items())
    record_file(stage.folder).write_text(record_file(stage.folder).read_text().replace('"seed": 5', '"seed": 6'))
    with pytest.raises(SettingsError, match="was begun with seed=6, not 5"):
        complete("ts2vec", stage)

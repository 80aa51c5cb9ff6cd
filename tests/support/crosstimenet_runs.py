"""Arguments of tiny trainings of CrossTimeNet's two stages, their corpora, and runs that are killed on the way."""

import json
from pathlib import Path

import numpy as np

COMMON = {"method": "crosstimenet", "item_column": "item", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
TINY_CODEC = {"stage": "tokenizer", "hidden_size": 8, "num_blocks": 1, "codebook_size": 16, "patch_length": 3}
TINY_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
TINY_MODEL = {**TINY_SIZES, "warmup_steps": 2}

# Arguments: a JSON of the arguments of pretrain, and after which step to be killed by SIGKILL, or while writing which
# checkpoint. Every process leaves its weights and buffers beside the output folder.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from safetensors.torch import save_file
from hf_tsrep.training import TimeSeriesTrainer, pretrain, trainer

given, moment, number = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
step_end, save_model = trainer._EpochAndLogCallback.on_step_end, TimeSeriesTrainer.save_model

def killed_at_step(self, arguments, state, control, **more):
    if moment == "step" and state.global_step == number:
        os.kill(os.getpid(), signal.SIGKILL)
    step_end(self, arguments, state, control, **more)

def killed_while_saving(self, output_dir=None, _internal_call=False):
    save_model(self, output_dir, _internal_call)
    if moment == "saving" and str(output_dir).endswith(f"checkpoint-{number}"):
        os.kill(os.getpid(), signal.SIGKILL)

trainer._EpochAndLogCallback.on_step_end = killed_at_step
TimeSeriesTrainer.save_model = killed_while_saving
result = pretrain(**given)
state = {name: value.clone() for name, value in result.model.state_dict().items()}
save_file(state, Path(given["output_dir"]).parent / f"rank{os.environ.get('RANK', '0')}.safetensors")
"""


def start(interpreters, given, moment="never", number=0, num_processes=1):
    """Run PROGRAM in processes of its own and return the exit status."""
    folder = Path(given["output_dir"]).parent
    folder.mkdir(exist_ok=True)
    return interpreters.run(PROGRAM, [json.dumps(given), moment, str(number)], folder, num_processes)


def codec_run(corpora, output_dir, **fields):
    """Return the arguments of pretrain for a tokenizer."""
    return {**COMMON, **TINY_CODEC, "corpus": corpora, "output_dir": str(output_dir), **fields}


def model_run(corpora, output_dir, tokenizer, **fields):
    """Return the arguments of pretrain for a model of a tokenizer, which is a result of pretrain."""
    own = {"tokenizer": str(tokenizer.output_dir), "corpus": corpora, "output_dir": str(output_dir)}
    return {**COMMON, **TINY_MODEL, **own, **fields}


def write_corpora(folder):
    """Write 23 series of two channels and 14 of one, unequally long and with missing values; return the CSV files."""
    generator = np.random.default_rng(0)
    for name, num_series, channels in (("walk", 23, ("first", "second")), ("pulse", 14, ("beat",))):
        lines = [",".join(["item", "date", *channels])]
        for item in range(num_series):
            values = np.cumsum(generator.normal(size=(int(generator.integers(20, 40)), len(channels))), axis=0)
            for step, row in enumerate(values):
                date = np.datetime64("2024-01-01T00:00") + np.timedelta64(step, "h")
                cells = ["" if item % 4 == 1 and step in (5, 6) else f"{value:.4f}" for value in row]
                lines.append(",".join([f"item_{item}", str(date), *cells]))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return [str(folder / "walk.csv"), str(folder / "pulse.csv")]

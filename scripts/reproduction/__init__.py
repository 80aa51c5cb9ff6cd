"""From a grid, `scripts/grids/METHOD.yaml`, to files in `results/METHOD`: `plan` settles every run, `work` does it.

A grid has
- `jobs`: by name, a corpus and what is done with it. A job whose name ends in * is one job for each of its corpora.
- `options` of the command line, beside `--seeds`: `type` (int, float, text, flag, or fields: FIELD=NUMBER),
  `default`, `many` (values), `help`, `choices`, and what an option changes. The option `variants` can be changed by
  a job.
- `loops`: what there is one run for each value of, the outermost first. Horizons come last: `horizons: together` is
  one run for all, whose file has their means too, and `horizons: apart` one run each.
- `stages`: what must be there before the last training, in order; the last is the encoder. Each has its `folder`,
  its `corpora`, `fields` for `hf_tsrep.pretrain`, `weights_file` (that it is finished) and `shared: true` where the
  folder stays for other runs. `start` names a function of `grids/METHOD.py` that makes the folder in place of
  `pretrain`.
- `result`: name of the file. `setting`: words that tell a result from others of its corpus. `settings`: what else
  the result says; `untold`: fields of the pre-training that it does not. `details: facts`: it says what was found
  out about the fine-tuning.

Jobs and options are layers of fields. A run's fields are those of `common`, of its task in `tasks`, of its job and
of its options, in the grid's order, one over the other. An option that is neither given nor has a default changes
nothing. A layer has
- groups of fields: `finetuning` for `hf_tsrep.finetune`, `pretraining` (or another stage's name), `loading` for
  `load_corpus`, `evaluation` for the protocol of a run without fine-tuning.
  `replaces: [GROUP]` drops what the layers before say of a group.
- `corpus` (a job's own name, where it is not said), `source` (corpus of the pre-training; default: corpus),
  `corpora` (joined; names may end in *), `task`, `horizons`, `protocol`, and `group`, by which jobs can be asked
  for.
- `start`: `random_weights` in place of the pre-training; `drawn`: random weights, drawn by every fine-tuning itself;
  or a function of `grids/METHOD.py`. `trained_by`: such a function in place of `hf_tsrep.finetune`.
- of an option: `name`, the suffix that it gives to names, and `setting`, its words, both where it has not its
  default; `tasks`, `choices` or `values`: further layers for a task or a value.
- anything else, as a variable.

A text may hold {variables}: what is said above, every option and job, seed, variant, horizon, corpus_name (without
its folder), recipe (of the pre-training), folders (of the stages). A text that is one variable alone is its value.
In names and in `setting`, an option with a suffix or words stands for these. A run without `finetuning` evaluates
the frozen encoder by its protocol.
"""

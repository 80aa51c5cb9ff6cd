"""Trainings that are killed, whose checkpoints are damaged, whose disk is full: gone on with, they give the same bits.

A kind of run is a stage of the pre-training of a registered method, or the fine-tuning of one. Every run is a fork.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from machines import COLUMNS, QUICK, machines
from safetensors.numpy import load_file

from hf_tsrep.modeling.files_time_series import FullDiskError
from hf_tsrep.registry import METHODS
from hf_tsrep.training import finetune, pretrain, pretraining_fields

from .damage import changed_bytes, pick
from .trials import REFUSED, RIGHT, Attack, Fault, in_a_fork

COMMON = {**QUICK, **COLUMNS, "per_device_train_batch_size": 4, "logging_steps": 1}
TRAINING = {"max_steps": 6, "save_steps": 2, "max_train_length": 18}
WEIGHTS = ("model.safetensors", "codec.safetensors")  # what makes a folder finished: the last of those that are there
FREE_OF_TIME = ("runtime", "per_second", "flos")  # numbers of a log that no two runs share
_NEW_NAMESPACE, _NEW_USER, _REMOUNT = 0x00020000, 0x10000000, 32  # Linux: sched.h, mount.h


def kinds_of_run():
    """Return "METHOD STAGE" of every stage of every registered method, and "METHOD finetune"."""
    stages = [f"{name} {stage}" for name, method in METHODS.items() for stage in method.config_class.stages]
    return stages + [f"{name} finetune" for name in METHODS]


def tiny_fields(name, stage):
    """Return the fields of a method's tiny config and tokenizer that a stage takes."""
    method = METHODS[name]
    config = method.tiny_config
    given = {**config.get("backbone_config", {}), **config}
    if stage != method.config_class.stages[-1]:
        given = method.tiny_tokenizer[0]
    known = set(pretraining_fields(name, stage)) - {"num_input_channels", "max_position_embeddings", "name"}
    return {field: value for field, value in given.items() if field in known and field != "model_type"}


class Runs(Attack):
    """What all attacks on trainings share: undisturbed runs, made when they are first needed."""

    time_limit = 240.0
    kept = None  # a folder whose undisturbed runs serve several attacks; None for one of this attack's own

    def __init__(self, folder):
        super().__init__(folder)
        self.undisturbed = self.kept or folder
        self.corpus = self.undisturbed / "tiny"  # the name of the domain of the tiny configs
        if not self.corpus.exists():
            self.write_corpus(self.corpus)

    def write_corpus(self, corpus):
        """Write what all runs train on."""
        corpus.mkdir()
        for place, (part, number) in enumerate({"train": 12, "test": 6}.items()):
            table = machines(place, number)
            table.insert(3, "heat", table.load.cumsum())
            table.to_csv(corpus / f"{part}.csv", index=False)

    def start(self, kind, output_dir, resume=None):
        """Train."""
        name, stage = kind.split()
        shared = {**COMMON, "resume_from_checkpoint": resume}
        if stage == "finetune":
            encoder, _ = self.whole(f"{name} {METHODS[name].config_class.stages[-1]}")
            return finetune(encoder, str(self.corpus), output_dir, num_train_epochs=3, **shared)
        stages = METHODS[name].config_class.stages
        before = {one: str(self.whole(f"{name} {one}")[0]) for one in stages[: stages.index(stage)]}
        fields = {**tiny_fields(name, stage), **before, **TRAINING, **shared}
        if "max_train_length" not in pretraining_fields(name, stage):
            del fields["max_train_length"]
        return pretrain(name, str(self.corpus), output_dir, stage=stage, **fields)

    def whole(self, kind):
        """Return the folder of an undisturbed run and how many moments of each sort it has."""
        folder = self.undisturbed / "whole" / kind.replace(" ", "-")
        counts = folder.parent / f"{folder.name}.json"
        if not counts.exists():
            for name, stage in [kind.split()]:  # what it begins with, here and not in the fork
                for one in METHODS[name].config_class.stages:
                    if stage not in (one, METHODS[name].config_class.stages[0]):
                        self.whole(f"{name} {one}")
                    if stage == one:
                        break
            folder.parent.mkdir(exist_ok=True)
            moments = Moments(folder)

            def run():
                moments.watch()
                self.start(kind, folder)
                counts.write_text(json.dumps(moments.counts))

            if in_a_fork(run) != 0:
                raise Fault(f"an undisturbed run of {kind} has failed: {self.printed()}")
        return folder, json.loads(counts.read_text())

    def printed(self):
        """Return the end of what runs have printed."""
        sys.stdout.flush()
        return (self.folder / "output.txt").read_text(errors="replace")[-1500:]

    def fresh(self):
        """Return a folder that does not exist, for a run."""
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def compare(self, kind, folder):
        """Raise Fault where a run has not the bits and the log of the undisturbed one."""
        whole, _ = self.whole(kind)
        for name in WEIGHTS:
            if (whole / name).is_file() != (folder / name).is_file():
                raise Fault(f"{name} is only in one of the folders")
            if (whole / name).is_file():
                ours, right = load_file(folder / name), load_file(whole / name)
                differing = [one for one in right if one not in ours or ours[one].tobytes() != right[one].tobytes()]
                if differing or ours.keys() != right.keys():
                    raise Fault(f"{name}: {len(differing)} of {len(right)} tensors differ, such as {differing[:3]}")
        if _history(folder) != _history(whole):
            raise Fault("the log has other numbers")
        left = [one.name for one in folder.iterdir() if one.name.startswith(".")]
        if left:
            raise Fault(f"the folder holds {left}")

    def go_on(self, kind, folder):
        """Resume a run in a fork to its end, and compare."""
        if in_a_fork(lambda: self.start(kind, folder, resume=True)) != 0:
            raise Fault(f"{kind} cannot be gone on with: {self.printed()}")
        self.compare(kind, folder)


def _history(folder):
    history = json.loads((folder / "training_log.json").read_text())["history"]
    return [
        {name: value for name, value in one.items() if not any(word in name for word in FREE_OF_TIME)}
        for one in history
        if "train_runtime" not in one
    ]


class Moments:
    """What happens in a run: its steps, and what it does to the files of its folder.

    Args:
        folder: Output folder of the run.
        last: A sort and a number: the process kills itself at that moment.
    """

    FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

    def __init__(self, folder, last=None):
        self.folder, self.last, self.counts = str(folder), last, Counter()

    def add(self, sort):
        """Count a moment."""
        self.counts[sort] += 1
        if self.last == (sort, self.counts[sort]):
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self):
        """Begin to count in this process."""
        from transformers import Trainer

        step = Trainer.training_step

        def training_step(*arguments, **named):
            self.add("step")
            return step(*arguments, **named)

        def hook(event, arguments):
            if event in self.FILE_EVENTS and str(arguments[0]).startswith(self.folder):
                if event != "open" or _writes(arguments):
                    self.add("file")

        Trainer.training_step = training_step
        sys.addaudithook(hook)


def _writes(arguments):
    mode, flags = arguments[1:3]
    return any(one in (mode or "") for one in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


class Kills(Runs):
    """SIGKILL at a step, or before something is done to a file; up to three times, then to the end."""

    @classmethod
    def cases(cls):
        """Every kind of run."""
        return kinds_of_run()

    def trial(self, case, generator):
        """Kill a run, and go on with it."""
        _, counts = self.whole(case)
        folder = self.fresh()
        for turn in range(pick(generator, (1, 1, 2, 3))):
            sort = pick(generator, ("step", "file", "file"))
            moments = Moments(folder, (sort, int(generator.integers(1, counts[sort] + 1))))

            def run(moments=moments, resume=bool(turn)):
                moments.watch()
                self.start(case, folder, resume=resume)

            status = in_a_fork(run)
            if status not in (0, -signal.SIGKILL):
                raise Fault(f"killed at {moments.last}, turn {turn}: exit status {status}: {self.printed()}")
            if status == 0:
                break
        self.go_on(case, folder)
        return RIGHT


class Checkpoints(Runs):
    """Damaged files in the newest checkpoint, or in all of them."""

    @classmethod
    def cases(cls):
        """Every kind of run."""
        return kinds_of_run()

    def trial(self, case, generator):
        """Damage a finished run's checkpoints and take its weights away, then go on with it."""
        whole, _ = self.whole(case)
        folder = self.fresh()
        shutil.copytree(whole, folder)
        for name in WEIGHTS:
            (folder / name).unlink(missing_ok=True)
        found = sorted(folder.glob("checkpoint-*"), key=lambda one: -int(one.name.rpartition("-")[2]))
        for checkpoint in found if generator.integers(4) == 0 else found[:1]:
            files = sorted(one for one in checkpoint.iterdir() if one.is_file())
            for file in generator.choice(files, size=pick(generator, (1, 1, 2)), replace=False):
                self.damage(file, generator)
        self.go_on(case, folder)
        return RIGHT

    def damage(self, file, generator):
        """Change a file, cut it off, empty it, or remove it."""
        content = file.read_bytes()
        kind = pick(generator, ("change", "change", "half", "empty", "remove"))
        if kind == "remove":
            file.unlink()
            return
        changed = {"half": content[: len(content) // 2], "empty": b""}.get(kind) if kind != "change" else None
        file.write_bytes(changed_bytes(content, generator) if changed is None else changed)


class Disks(Runs):
    """A disk that is full at some moment of a run: one line, and with more room the same bits.

    The disk is a tmpfs where the user may mount one, also in a name space of his own; else no file may be longer than
    some bytes.
    """

    @classmethod
    def cases(cls):
        """Every kind of run."""
        return kinds_of_run()

    def trial(self, case, generator):
        """Train on a small disk, then on a larger one."""
        whole, _ = self.whole(case)
        sizes = [one.stat().st_size for one in whole.rglob("*") if one.is_file()]
        share = float(generator.uniform(0.02, 1.1))
        place, answer = self.fresh(), self.folder / "answer.json"
        place.mkdir()
        answer.unlink(missing_ok=True)

        def run():
            disk = Disk(place, int(sum(sizes) * share), int(max(sizes) * share))
            told = self.until_full(case, place / "out")
            disk.enlarge()
            if told is not None:
                self.start(case, place / "out", resume=True)
            self.compare(case, place / "out")
            answer.write_text(json.dumps(told))

        if in_a_fork(run) != 0:
            raise Fault(f"a disk of {share:.3f} of what {case} needs: {self.printed()}")
        return RIGHT if json.loads(answer.read_text()) is None else REFUSED

    def until_full(self, case, folder):
        """Train, and return the one line that tells which file finds no room; None where all do."""
        try:
            self.start(case, folder)
        except OSError as error:
            is_told = type(error) is FullDiskError and str(folder) in str(error) and "bytes" in str(error)
            if not is_told or len(str(error).splitlines()) > 1:
                raise Fault(f"no line that names file and size: {type(error).__name__}: {error}") from error
            return str(error)
        return None


class Disk:
    """A small disk at a folder, for this process and its forks.

    Args:
        folder: An empty folder.
        size: Bytes of the disk.
        largest: Bytes of the longest file, where no disk can be mounted.
    """

    def __init__(self, folder: Path, size: int, largest: int) -> None:
        self.folder = folder
        self.system: Any = ctypes.CDLL(None, use_errno=True)
        apart = _NEW_NAMESPACE if os.geteuid() == 0 else _NEW_NAMESPACE | _NEW_USER
        self.is_mounted = self.system.unshare(apart) == 0 and self._mount(size, 0)
        if not self.is_mounted:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    def _mount(self, size: int, flags: int) -> bool:
        # A mount in a name space whose parent shares its mounts would be seen outside: make all private first.
        self.system.mount(None, b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
        done = self.system.mount(b"tmpfs", bytes(self.folder), b"tmpfs", flags, f"size={max(size, 4096)}".encode())
        return done == 0

    def enlarge(self) -> None:
        """Give it room for everything."""
        if self.is_mounted:
            assert self._mount(2**28, _REMOUNT), "the disk cannot be enlarged"
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

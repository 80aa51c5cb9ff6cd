"""Python interpreters that have imported the library and fork for every program: an import costs more than a tiny run.

There are two, and programs that follow one another run in different ones: neither the order of a set nor an unseeded
generator is the same in both.

    with Interpreters() as interpreters:
        status = interpreters.run("import sys; print(sys.argv[1])", ["word"], tmp_path)

A third one has imported torch, pandas and the like, and nothing that asks the environment for a Hub, a home or a path:
there a program imports transformers and hf_tsrep, or what stands in their place, as in a process of its own.

    printed = run_apart("import hf_tsrep; print(hf_tsrep.__file__)", tmp_path, os.environ)
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}
TIME_LIMIT = 600  # seconds a program may run
# What takes most of an import of transformers' models and of hf_tsrep, and knows nothing of a Hub.
LIBRARIES = ("torch", "torch._dynamo", "torch.distributed.tensor", "pandas", "pyarrow.dataset", "pydantic")
LIBRARIES += ("sklearn.svm",)


class _Interpreter:
    """A process that runs `_serve`.

    Args:
        imports: What it has imported: "everything" of a training, or the "libraries".
    """

    def __init__(self, imports="everything"):
        environment = {**os.environ, **ENVIRONMENT}
        if imports == "libraries":
            del environment["PYTHONPATH"]  # a program says where it finds the rest
        self.process = subprocess.Popen(
            [sys.executable, __file__, imports],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, **task):
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def wait(self):
        answer = self.process.stdout.readline()
        assert answer, "the interpreter has ended"
        return int(answer)

    def close(self):
        self.process.communicate()


class Interpreters:
    """Two interpreters, until the end of the `with` block."""

    def __enter__(self):
        self.waiting = [_Interpreter(), _Interpreter()]
        return self

    def __exit__(self, *error):
        for one in self.waiting:
            one.close()

    def run(self, program, arguments, folder, num_processes=1):
        """Run Python code in one process, or in two that find each other as those of torch.distributed.run do.

        Args:
            program: Text of the program.
            arguments: Strings, for sys.argv.
            folder: Where what it prints is kept.
            num_processes: 1 or 2.

        Returns:
            The exit status of the first process that failed, -9 for SIGKILL; 0 if none did.

        Raises:
            AssertionError: It failed and was not killed by SIGKILL; the message is what it printed.
        """
        chosen = self.waiting[:num_processes]
        assert len(chosen) == num_processes
        self.waiting = self.waiting[num_processes:] + chosen
        group = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        outputs = [Path(folder) / f"output{rank}.txt" for rank in range(num_processes)]
        for rank, (interpreter, output) in enumerate(zip(chosen, outputs, strict=True)):
            place = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if num_processes > 1 else {}
            interpreter.begin(program=program, arguments=arguments, environment=place, output=str(output))
        statuses = [interpreter.wait() for interpreter in chosen]
        for status, output in zip(statuses, outputs, strict=True):
            assert status in (0, -signal.SIGKILL), f"exit status {status}\n{output.read_text()[-6000:]}"
        return next((status for status in statuses if status), 0)


@cache
def _with_libraries():
    interpreter = _Interpreter("libraries")
    atexit.register(interpreter.close)
    return interpreter


def run_apart(program, folder, environment, arguments=()):
    """Run Python code as in a process of its own, whose environment is there before it imports transformers.

    Args:
        program: Text of the program.
        folder: Where it runs.
        environment: All its variables; those that torch reads when it is imported come too late.
        arguments: Strings, for sys.argv.

    Returns:
        What it wrote to stdout and stderr.

    Raises:
        AssertionError: It failed; the message is what it wrote.
    """
    interpreter = _with_libraries()
    with tempfile.NamedTemporaryFile("r") as output:
        place = {"environment": dict(environment), "output": output.name, "folder": str(folder)}
        interpreter.begin(program=program, arguments=list(arguments), **place)
        status, printed = interpreter.wait(), output.read()
    assert status == 0, f"exit status {status}\n{printed[-6000:]}"
    return printed


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _execute(program, arguments, environment, output, folder=None):
    """Be the program: called in a fork, never returns."""
    status = 1
    try:
        signal.alarm(TIME_LIMIT)
        if folder is not None:
            os.chdir(folder)
            os.environ.clear()
            sys.path[:1] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.environ.update(environment)
        sys.argv = ["program", *arguments]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(program, "program", "exec"), vars(sys.modules["__main__"]))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _import_everything():
    """Import what a training imports, much of which the library and its dependencies import when it is asked for."""
    import hf_tsrep.training

    for module in pkgutil.walk_packages(hf_tsrep.training.__path__, "hf_tsrep.training."):
        importlib.import_module(module.name)
    for name in ("accelerate", "datasets", "matplotlib.pyplot", "pandas", "sklearn.cluster", "transformers.trainer"):
        importlib.import_module(name)


def _serve():
    """Answer every task, a line of stdin, with the exit status of a fork that has executed it."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        if sys.argv[1] == "everything":
            _import_everything()
        else:
            for name in LIBRARIES:
                importlib.import_module(name)
        gc.freeze()  # a collection in a fork need not look at all that was imported
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                _execute(**json.loads(line))
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    _serve()

"""Calls from a program restore global state and emit no warnings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import told_by
from tests.place import adapt_words
from tests.warm import ROOT, Warm

# What an import may not touch, and a call must give back; `numbers` where NumPy and torch are there already.
STATE = """
import json, logging, os, random, signal, sys, threading, warnings

def loggers():
    return {name: (each.level, len(each.handlers), each.disabled)
            for name, each in logging.root.manager.loggerDict.items() if isinstance(each, logging.Logger)}

def state():
    return {
        "environment": dict(os.environ),
        "random": hash(random.getstate()),
        "logging": (logging.root.level, list(map(repr, logging.root.handlers)), logging.root.manager.disable),
        "warnings": [repr(each) for each in warnings.filters],
        "signals": [repr(signal.getsignal(each)) for each in sorted(signal.valid_signals())],
        "folder": os.getcwd(),
        "arguments": list(sys.argv),
        "hooks": [repr(each) for each in (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook)],
        "streams": [id(each) for each in (sys.stdout, sys.stderr, sys.stdin)],
        "recursion": sys.getrecursionlimit(),
    }

def numbers():
    import numpy, torch
    return {
        "numpy": str(numpy.random.get_state()) + str(numpy.geterr()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
                          torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()),
        "defaults": (str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
    }

def told(before, after):
    changed = [key for key in before if before[key] != after[key]]
    print(json.dumps({key: [str(before[key])[-300:], str(after[key])[-300:]] for key in changed}))
"""


# Calls the command line; any look at the network ends it at once, whatever would have caught an error.
OFFLINE = """
import os, sys

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        os.write(2, f"{event} {arguments!r}".encode())
        os._exit(99)

sys.addaudithook(no_network)
from nlp_transfer.cli import main
sys.exit(main(sys.argv[1:]))
"""


def python(code: str, *options: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_importing_the_package_is_light_and_has_no_side_effects():
    done = python(
        f"{STATE}before, threads = state(), threading.active_count()\n"
        "import nlp_transfer, nlp_transfer.cli, nlp_transfer.config, nlp_transfer.errors, nlp_transfer.machine.launch\n"
        "assert threading.active_count() == threads\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sklearn', 'accelerate', 'datasets', 'peft'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "told(before, state())"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["finetune", "lora"])
def test_a_call_restores_global_state(running: Warm, place: Path, tmp_path: Path, strategy: str):
    """The second call is compared: what libraries do when they are imported is theirs. One of the processes is cold."""
    words = [word for word in adapt_words(place)[1:] if not word.startswith(("strategy=", "output="))]
    words += [f"strategy={strategy}", "training.precision=fp32", "training.max_steps=3"]
    quiet = "ignore::FutureWarning"  # peft asks transformers for what it calls by another name now
    start = running.run if strategy == "finetune" else lambda code: python(code, "-W", quiet)
    done = start(
        f"{STATE}import nlp_transfer\nwords = {words!r}\n"
        f"nlp_transfer.adapt(None, [*words, 'output={tmp_path / 'first'}'])\n"
        "import numpy, torch\n"
        "random.seed(11), numpy.random.seed(12), torch.manual_seed(13)\n"
        "before = state() | numbers() | {'loggers': loggers()}\n"
        f"run = nlp_transfer.adapt(None, [*words, 'output={tmp_path / 'second'}'])\n"
        "run.predict(['where is my card']), nlp_transfer.load(run.folder).predict(['good movie'])\n"
        "told(before, state() | numbers() | {'loggers': loggers()})"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
    assert done.stderr == ""  # who calls from Python is told nothing but what is returned


@pytest.mark.slow
def test_the_package_emits_no_warnings(place: Path, tmp_path: Path):
    """A warning that our code causes is an error; one that a library raises about itself is not ours to mend."""
    words = adapt_words(place, "strategy=finetune", f"output={tmp_path}", "training.max_steps=3")
    done = python(
        "import sys, warnings\n"
        "seen = []\n"
        "def show(message, category, filename, *_, **__): seen.append(f'{filename}: {category.__name__}: {message}')\n"
        "warnings.showwarning = show\n"
        "warnings.simplefilter('always')\n"
        "from nlp_transfer.cli import main\n"
        f"words = {words!r}\n"
        "assert main(['plan', *words[1:]]) == 0 and main(words) == 0\n"
        "import gc; gc.collect()\n"
        "print('\\n'.join(seen), file=sys.stderr)",
        "-X",
        "dev",
    )
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "/nlp_transfer/" in line or "ResourceWarning" in line]
    assert ours == []


def without_network(code: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code with arguments, without a setting that disables the Hub."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(cwd / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--help"], "usage: nlp-transfer VERB"),
        pytest.param(["--version"], "", marks=pytest.mark.exhaustive),
        (["doctor"], '"default_encoder": "sentence-transformers/all-MiniLM-L6-v2 (package'),
        (["ls"], "recipes\tintent\t"),
        pytest.param(["plan", "--cfg"], "name: sentence-transformers/all-MiniLM-L6-v2", marks=pytest.mark.exhaustive),
        (
            ["plan", "--cfg", "intent", "data=hub", "data.hub=acme/intents", "encoder.name=acme/tiny"],
            "hub: acme/intents",
        ),
        (["cp", "intent"], ""),
    ],
    ids=" ".join,
)
def test_offline_work_makes_no_requests(tmp_path: Path, words: list[str], message: str):
    done = without_network(OFFLINE, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout
    assert "socket" not in done.stderr


@pytest.mark.parametrize(
    "call", ["socket.create_connection(('127.0.0.1', 9), 1)", "socket.getaddrinfo('example.org', 80)"]
)
def test_the_network_check_detects_requests(tmp_path: Path, call: str):
    """Else the test above could not fail."""
    looking = OFFLINE.replace("from nlp_transfer.cli import main", f"import socket\ntry: {call}\nexcept OSError: pass")
    done = without_network(looking, cwd=tmp_path)
    assert done.returncode == 99
    assert done.stderr.startswith("socket.")


@pytest.mark.slow
@pytest.mark.parametrize(("case", "every"), [("finetune", 40), pytest.param("probe", 12, marks=pytest.mark.exhaustive)])
def test_an_interrupt_at_any_operation_leaves_a_resumable_run(running: Warm, case: str, every: int):
    messages = told_by(running, "tests.faults", case, "--kind", "interrupt", "--every", str(every))
    assert messages["failures"] == []
    assert messages["ended"]["interrupted"] > messages["tried"] / 2

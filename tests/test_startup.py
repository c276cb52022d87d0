"""What a command imports before it answers or trains: that, and not seconds, is the same on every machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.place import adapt_words

from .warm import Warm

ROOT = Path(__file__).parent.parent
# What trains and computes, and libraries that only some runs need: none of it says what is wrong with a word.
HEAVY = {
    *("torch", "transformers", "accelerate", "peft", "datasets", "evaluate", "sentence_transformers"),
    *("sklearn", "scipy", "pandas", "pyarrow", "tokenizers", "safetensors", "huggingface_hub"),
    *("onnx", "onnxscript", "onnxruntime", "openvino"),
}
COMPOSING = {"hydra", "omegaconf", "yaml"}
# Answers one command after the other, and tells what was imported after each.
REPORT = """
import json, shlex, sys
from nlp_transfer.cli import main
imported = {}
for command in sys.argv[1:]:
    try:
        main(shlex.split(command))
    except SystemExit:
        pass
    imported[command] = sorted(sys.modules)
print(json.dumps(imported))
"""
# Up to the first step of an optimizer, and no further.
FIRST_STEP = """
import gc, json, os, sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
from nlp_transfer.cli import main
def stop(*_):
    print(json.dumps([sorted(sys.modules), gc.isenabled(), gc.get_freeze_count()]), flush=True)
    os._exit(0)
register_optimizer_step_pre_hook(stop)
sys.exit(main(sys.argv[1:]))
"""


def printed(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


RICH = {"numpy", "rich"}
# What is not needed -> the words of a command each, as in a shell.
NEEDLESS: list[tuple[set[str], list[str]]] = [
    (HEAVY | COMPOSING | RICH, ["--help", "adapt --help", "check --help", "--version", "nonsense"]),
    (
        HEAVY | COMPOSING | {"numpy", "fastapi", "uvicorn", "gradio"},
        [
            *("ls", "cp nonsense", "adapt nonsense", "predict no/such/run", "evaluate no/such/run"),
            *("serve no/such/run", "demo no/such/run", "export no/such/run", "merge no/such/run whole"),
        ],
    ),
    (HEAVY | COMPOSING, ["compare nonsense"]),
    (
        HEAVY | RICH,
        [
            *("plan --cfg", "plan intent strategy=lora data.path=no/such.csv --cfg", "adapt training.epoch=1"),
            *("adapt strategy=loro", "adapt training.epochs=many", "adapt training.epochs=-1"),
            "adapt data=files data.path=no/such.csv",
        ],
    ),
    (
        HEAVY,
        [
            *("cache ls", "plan data=files data.path=pyproject.toml", "adapt data=files data.path=pyproject.toml"),
            *("rank minilm strategy=lora", "rank minilm data=files data.path=pyproject.toml"),
            *("compare training.epoch=1", "compare compare.candidates=[prob]"),
            "compare \"compare.candidates=['lora strategy.rank=0']\"",
            "compare data=files data.path=no/such.csv",
            *("compare data=files data.path=pyproject.toml", "compare decision.threshold=0.1"),
            "compare evaluation.metric=pearson",
        ],
    ),
]


@pytest.mark.parametrize(("unneeded", "commands"), NEEDLESS, ids=[commands[0] for _, commands in NEEDLESS])
def test_commands_import_only_what_they_need(composing: Warm, unneeded: set[str], commands: list[str]):
    """Modules that are not imported after all of them are imported by none of them."""
    if unneeded & COMPOSING:
        messages = printed(REPORT, *commands)
    else:
        done = composing.run(REPORT, *commands)
        assert done.returncode == 0, done.stderr
        messages = done.stdout.splitlines()[-1]
    imported = json.loads(messages)
    assert list(imported) == commands
    assert {command: found for command in commands if (found := unneeded & set(imported[command]))} == {}


def test_a_push_leaves_torch_to_the_process_that_loads_the_model():
    code = "import json, sys\nimport nlp_transfer.publishing.publication\nprint(json.dumps(sorted(sys.modules)))"
    assert not (HEAVY - {"huggingface_hub", "safetensors"}) & set(json.loads(printed(code)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "needed"), [("finetune", set()), pytest.param("lora", {"peft"}, marks=pytest.mark.exhaustive)]
)
def test_the_first_step_is_made_without_libraries_that_it_does_not_need(
    place: Path, tmp_path: Path, strategy: str, needed: set[str]
):
    words = adapt_words(place, f"strategy={strategy}", f"output={tmp_path}", "training.precision=fp32")
    imported, collects, frozen = json.loads(printed(FIRST_STEP, *words))
    optional = {"peft", "datasets", "evaluate", "sklearn", "pandas", "pyarrow", "sentence_transformers", "IPython"}
    trackers = {"tensorboard", "wandb", "mlflow", "trackio"}
    assert (optional | trackers) & set(imported) == needed
    assert collects
    assert frozen > 100_000  # what was imported is not looked through again


@pytest.mark.parametrize("enabled", [True, False])
def test_imports_for_good_leave_the_collector_as_it_was(enabled: bool):
    code = f"""
import gc, json
from nlp_transfer.machine.importing import permanent_imports
gc.enable() if {enabled} else gc.disable()
with permanent_imports():
    within = gc.isenabled()
nothing = gc.get_freeze_count()
try:
    with permanent_imports():
        import decimal, fractions, no_such_module
except ModuleNotFoundError:
    pass
print(json.dumps([within, gc.isenabled(), nothing, gc.get_freeze_count() > 1000]))
"""
    assert json.loads(printed(code)) == [False, enabled, 0, True]


def test_import_hooks_run_after_the_module():
    code = """
import json, sys
from nlp_transfer.machine.importing import when_imported
told = []
def tell():
    told.append(hasattr(sys.modules["wsgiref.headers"], "Headers"))  # which the end of the module defines
import importlib.util
finders = len(sys.meta_path)
when_imported("wsgiref.headers", tell)
when_imported("no_such_module", tell)
importlib.util.find_spec("wsgiref.headers")  # a look is no import
before = list(told)
try:
    import no_such_module
except ModuleNotFoundError:
    pass
import wsgiref.util, wsgiref.headers
import importlib
importlib.import_module("wsgiref.headers")
after = list(told)
when_imported("wsgiref.headers", tell)
print(json.dumps([before, after, told, len(sys.meta_path) - finders]))
"""
    assert json.loads(printed(code)) == [[], [True], [True, True], 1]


def test_an_interrupt_while_the_command_line_is_imported_ends_without_a_traceback():
    interrupting = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'nlp_transfer.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from nlp_transfer.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupting], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")

"""Access tokens and passwords: in no byte that is written or printed, and no ordinary text is taken for one."""

import json
import os
import random
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlp_transfer.composing.words import from_mapping
from nlp_transfer.config import compose, to_yaml
from nlp_transfer.errors import UserError
from nlp_transfer.secrets import HIDDEN, looks_secret, redacted
from tests.warm import CLI, Warm

ROOT = Path(__file__).parent.parent


def made(prefix: str, length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """A token that no real service knows; put together here, so that no scanner takes this file for a leak."""
    return prefix + "".join(random.Random(prefix).choices(alphabet, k=length - 1)) + "7"


HF = made("hf_", 34)
FORMS = {
    "Hugging Face": HF,
    "Hugging Face, letters alone": HF[:3] + "".join(c if c.isalpha() else "x" for c in HF[3:]),
    "OpenAI": made("sk-", 48),
    "OpenAI project": made("sk-proj-", 60),
    "Anthropic": made("sk-ant-api03-", 90),
    "GitHub": made("ghp_", 36),
    "GitHub fine-grained": made("github_pat_", 82),
    "GitLab": made("glpat-", 20),
    "Slack": made("xoxb-", 40),
    "Amazon": made("AKIA", 16, string.ascii_uppercase),
    "Google": made("AIza", 35),
    "npm": made("npm_", 36),
    "PyPI": made("pypi-", 100),
    "JSON web token": ".".join(made("eyJ", 30) for _ in range(3)),
    "URL": "https://someone:" + made("", 12) + "@example.org/x.csv",
    "key": "-----BEGIN " + "PRIVATE KEY-----\n" + made("", 40),
}
ENVIRONMENT = {
    "HF_TOKEN": HF,
    "HUGGING_FACE_HUB_TOKEN": made("hub", 30),
    "WANDB_API_KEY": made("", 40, "0123456789abcdef"),
    "SERVICE_TOKEN": made("t", 20) + "/" + made("u", 9),
    "MY_API_KEY": made("k", 25),
    "AWS_SECRET_ACCESS_KEY": made("a", 40),
    "CLIENT_SECRET": made("s", 25),
    "DB_PASSWORD": "p4ss, w0rd:" + made("p", 9),
}
ORDINARY = [
    "hf_dataset_of_customer_messages_2026",
    "abcdefghijklmnopqrstuvwxyzabcdefgh",
    "sk-classification-of-customer-requests-2026",
    "scikit-learn-1.5/sk-learn_experiments_2026_with_names",
    "sentence-transformers/all-MiniLM-L6-v2",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "0123456789abcdef0123456789abcdef01234567",
    "https://example.org:8080/a@b/rows.csv",
    "s3://bucket/rows.csv",
    "name@example.org",
    "runs/ghp_readme.csv",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "xoxo-love",
]


@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_found_anywhere_and_hidden(form: str):
    token = FORMS[form]
    for text in (token, f"data.path={token}", f"a '{token}', b", f"x_{token}\n"):
        assert looks_secret(text)
        assert HIDDEN in redacted(text)
        assert token not in redacted(text)
        assert not looks_secret(redacted(text))
    assert redacted(f"before {HF} after") == f"before {HIDDEN} after"


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_text_is_left_alone(text: str):
    assert not looks_secret(text)
    assert redacted(text) == text


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_the_value_of_a_variable_named_after_a_secret_is_one(name: str, monkeypatch):
    value = made("v", 20, string.ascii_lowercase + string.digits)
    assert not looks_secret(value)
    monkeypatch.setenv(name, f" {value}\n")
    assert redacted(f"x{value}y") == f"x{HIDDEN}y"


@pytest.mark.parametrize("value", ["", "1234567", "disabled", "Not-Set", "see the vault", "ANONYMOUS_USER", str(ROOT)])
def test_trivial_values_are_no_secrets(value: str, monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", value)
    monkeypatch.setenv("SERVICE_TOKEN_FILE", "token-7-file")
    assert not looks_secret(f"{value} token-7-file")


def test_no_text_takes_long():
    for text in ("sk-" * 50_000, "sk-" + "a" * 500_000, "://" * 100_000, "://" + "a:" * 200_000, "eyJ" * 100_000):
        assert redacted(text) == text


def test_messages_hide_secrets_and_are_bounded():
    assert str(UserError(f"a {HF} b")) == f"a {HIDDEN} b"
    assert len(str(UserError("x" * 1_000_000))) < 5_000
    assert str(UserError("a \n\t b\x1b[2J\u2028c\x9b\n")) == r"a b\x1b[2J c\x9b"


PLACES = {
    "data.path": HF,
    "data.pth": HF,
    "output": FORMS["OpenAI"],
    "tracking.project": ENVIRONMENT["DB_PASSWORD"],
    "strategy": FORMS["GitHub"],
    "data": HF,
    "data.columns.text": ENVIRONMENT["DB_PASSWORD"],
    "nme": FORMS["URL"],
}


@pytest.mark.parametrize(("key", "token"), PLACES.items(), ids=list(PLACES))
def test_a_configuration_with_a_token_is_refused_and_only_its_key_named(tmp_path, monkeypatch, key, token):
    monkeypatch.setenv("DB_PASSWORD", ENVIRONMENT["DB_PASSWORD"])
    nested: object = token
    for part in reversed(key.split(".")):
        nested = {part: nested}
    (tmp_path / "recipe.yaml").write_text("defaults: [config, _self_]\n" + json.dumps(nested)[1:-1] + "\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(f"defaults: [base, _self_]\nhub: {json.dumps(token)}\n")
    (tmp_path / "group.yaml").write_text("defaults: [config, override data: mine, _self_]\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(compose()).replace("hub: null", f"hub: {json.dumps(token)}"))
    calls = {
        key: lambda: compose(None, [f"{key}={token}"]),
        f"{key} ": lambda: compose(None, [f"+{key}='{token}'"]),
        f"{key}  ": lambda: compose(None, from_mapping({key: token})),
        f"recipe.yaml, {key}": lambda: compose(str(tmp_path / "recipe.yaml")),
        "data.hub": lambda: compose(str(tmp_path / "group.yaml")),
        "config.yaml, data.hub": lambda: compose(str(tmp_path / "run" / "config.yaml")),
    }
    for named, call in calls.items():
        with pytest.raises(UserError, match="looks like an access token or a password") as error:
            call()
        assert f"{named.strip()}: the value" in str(error.value)
        assert token not in str(error.value)
        assert token[10:22] not in str(error.value)


@pytest.mark.parametrize("text", ["a: [{token}", "a: {token}: b", "? [{token}]\n: 1", "defaults: {token}\n{token}: 1"])
def test_a_broken_recipe_is_not_quoted_with_its_token(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text.replace("{token}", HF))
    with pytest.raises(UserError) as error:
        compose(str(tmp_path / "recipe.yaml"))
    assert HF not in str(error.value)


def words(place: Path, output: Path, *more: str) -> list[str]:
    return [
        *("data=files", f"data.path={place / 'data'}", "encoder=custom", f"encoder.name={place / 'tiny-bert'}"),
        *(
            "strategy=finetune",
            "training.max_steps=2",
            "evaluation.resamples=20",
            "checkpoint.seconds=0",
            "verify=false",
        ),
        *("tracking.trackers=[tensorboard]", f"output={output}", *more),
    ]


@pytest.fixture(scope="module")
def watched() -> Iterator[Warm]:
    """Processes with every canary in their environment, from before they imported what reads a recipe."""
    warm = Warm("import hydra.compose, nlp_transfer.cli, nlp_transfer.config", environment())
    yield warm
    warm.close()


def environment() -> dict[str, str]:
    return os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def called(*arguments: str, cwd: Path, status: int, code: str = CLI, warm: Warm | None = None) -> bytes:
    """Call the command line with every canary in its environment; return all that it printed and wrote."""
    here = environment() | {"TMPDIR": str(cwd)}  # for the report of an unexpected error
    if warm:
        done = warm.run(code, *arguments, cwd=cwd, env=here)
    else:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=cwd, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    files = [path for path in sorted(cwd.rglob("*")) if path.is_file()]
    names = "\n".join(str(path) for path in cwd.rglob("*")).encode()
    return (done.stdout + done.stderr).encode() + names + b"".join(path.read_bytes() for path in files)


def assert_clean(produced: bytes) -> None:
    for name, canary in ENVIRONMENT.items():
        for written in (canary, canary[:12]):
            assert written.encode() not in produced, name


# What is imported once is not what is looked for: one process for all that a run's folder is asked.
VERBS = """
import sys
from pathlib import Path
from nlp_transfer.cli import main
rows, *words = sys.argv[1:]
assert main(["adapt", *words]) == 0
run = str(next(Path("runs").iterdir()))
assert main(["evaluate", run]) == 0
assert main(["predict", run, rows]) == 0
"""


@pytest.mark.slow
def test_a_run_with_secrets_in_its_environment_writes_none(place: Path, tmp_path: Path):
    given = [str(place / "data" / "test.csv"), *words(place, tmp_path / "runs")]
    produced = called(*given, cwd=tmp_path, status=0, code=VERBS)
    assert_clean(produced)
    for printed in (b'"folder":', b"text,label,prediction"):
        assert printed in produced
    found = {path.name.split(".")[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert found >= {"config", "plan", "environment", "metrics", "nlp_transfer", "events", "tokenizer_config", "model"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--cfg"], None),
        (["--help"], None),
        (["ls"], None),
        (["doctor"], None),
        (["plan", "data.path={HF_TOKEN}", "--cfg"], "data.path: the value looks like"),
        (["adapt", "data.pth={MY_API_KEY}"], "data.pth: the value looks like"),
        (["adapt", "{HF_TOKEN}"], f"recipe='{HIDDEN}' is not known"),
        (["adapt", "recipes/{HF_TOKEN}.yaml"], f"{HIDDEN}.yaml': there is no such file"),
        (["adapt", "intent", "{WANDB_API_KEY}"], f"'{HIDDEN}' is too much"),
        (["adapt", "{HF_TOKEN}=3"], f"{HIDDEN}: the value"),
        (["adapt", "seed=1,2", "name={CLIENT_SECRET}", "--multirun"], "name: the value"),
        (["adapt", "seed=1,2", "hydra.job.name={CLIENT_SECRET}", "--multirun"], "hydra.job.name: the value"),
        (["predict", "{DB_PASSWORD}"], f"{HIDDEN}: there is no such folder"),
        (["evaluate", ".", "data.hub={SERVICE_TOKEN}"], "holds no config.yaml"),
        (["ls", "{AWS_SECRET_ACCESS_KEY}"], HIDDEN),
        (["cp", "{HF_TOKEN}", "x.yaml"], HIDDEN),
        (["{HF_TOKEN}"], "invalid choice"),
        (["adapt", "--token={HF_TOKEN}"], "unrecognized arguments"),
        (["adapt", "--token", "{DB_PASSWORD}", "--cfg={HUGGING_FACE_HUB_TOKEN}"], "ignored explicit argument"),
    ],
)
def test_output_contains_no_secrets(watched: Warm, tmp_path: Path, arguments: list[str], message: str | None):
    arguments = [word.format(**ENVIRONMENT) if "{" in word else word for word in arguments]
    produced = called(*arguments, cwd=tmp_path, status=2 if message else 0, warm=watched)
    assert_clean(produced)
    assert (message or "").encode() in produced


def test_an_unexpected_error_is_shown_without_secrets(tmp_path: Path):
    code = (
        "import os, sys\nfrom unittest.mock import patch\nfrom nlp_transfer import cli\n"
        "def fail(*_): raise RuntimeError('no answer from https://x:' + os.environ['DB_PASSWORD'] + '@example.org')\n"
        "with patch.dict(cli._COMMANDS, {'doctor': fail}): sys.exit(cli.main(sys.argv[1:]))\n"
    )
    produced = called("doctor", ENVIRONMENT["MY_API_KEY"], cwd=tmp_path, status=70, code=code)
    assert_clean(produced)
    assert produced.count(b"no answer from") > 1  # on the screen and in the report
    assert b"Traceback" in produced

"""Model cards: measured figures, escaped names, and no texts of the data."""

import itertools
import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from nlp_transfer.artefact.record import read_record
from nlp_transfer.config import compose, run_id, words_of
from nlp_transfer.data.task import Task
from nlp_transfer.markdown import escaped
from nlp_transfer.publishing import card, card_exports
from nlp_transfer.publishing.publication import facts_of, write_card
from nlp_transfer.running.run import adapt
from tests.encoder.families import tiny_config, tiny_encoder
from tests.place import adapt_words, furnish
from tests.runs import PROBLEMS, data_for, settings_for

pytestmark = pytest.mark.slow

OFTEN = ("single_label", "multi_label", "regression")
every_problem = pytest.mark.parametrize(
    "problem", [pytest.param(each, marks=[] if each in OFTEN else pytest.mark.exhaustive) for each in PROBLEMS]
)

HOSTILE = [
    "---",
    "\n---\nlicense: evil\n---\n",
    "a | b | c",
    "<script>alert(1)</script>",
    "```\n# heading",
    "# heading",
    "- item",
    "1. item",
    "*bold* _it_ [link](http://evil)",
    "`code",
    "&lt;b&gt;",
    "\u202eright to left",
    "tab\there",
    "null",
    "{{ template }}",
    "$x^2$",
    "~~gone~~",
    "\\",
    "'\"",
    "é" * 300,
]


def run_of(folder: Path, problem: str, labels: list[str] | None = None, **values) -> Path:
    data = data_for(problem)
    if labels:
        for part in data.values():
            for number, row in enumerate(part):
                row["label"] = labels[number % len(labels)]
    tiny_encoder(folder)
    short = {"training.max_steps": 1, "strategy": "finetune", "evaluation.floors": True}
    settings = settings_for(folder, problem, **(short | values))
    return adapt(settings, data=data).folder


def parsed(run: Path, options: card.Options | None = None) -> tuple[ModelCard, card.CardFacts]:
    facts = facts_of(run, read_record(run / "model"))
    text = card.render(facts, options or card.Options())
    (run / "CARD.md").write_text(text, encoding="utf-8")
    return ModelCard.load(run / "CARD.md"), facts


@every_problem
def test_a_run_of_every_problem_has_a_card_with_its_figures(tmp_path: Path, problem: str):
    run = run_of(tmp_path, problem)
    assert (run / "model" / "README.md").is_file()
    found, facts = parsed(run)
    report = json.loads((run / "metrics.json").read_text())["report"]
    figures = report["rows"][0]["intervals"]
    stated = {result.metric_type: result.metric_value for result in found.data.eval_results}
    expected = {name: each["value"] for name, each in figures.items() if each["value"] is not None}
    assert stated == pytest.approx(expected, abs=1e-6)
    assert found.data.pipeline_tag == "text-classification"
    assert escaped(report["verdict"]) in found.text
    assert facts.record["data"]["fingerprint"] in found.text
    for split in ("train", "validation", "test"):
        for row in data_for(problem)[split]:
            text = row["text"] if isinstance(row["text"], str) else ""
            assert len(text) < 12 or text not in found.content


def parts(text: str) -> list[tuple[str, str, set[str]]]:
    """Parses a card as Markdown: kinds of blocks, shown text, and kinds of inline parts."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [
        (
            before.type,
            "".join(part.content for part in token.children or ()),
            {part.type for part in token.children or ()},
        )
        for before, token in itertools.pairwise(tokens)
        if token.type == "inline"
    ] + [(token.type, token.content, set()) for token in tokens if token.type in ("html_block", "hr")]


def test_names_are_escaped_in_the_card(tmp_path: Path):
    run = run_of(tmp_path, "single_label", HOSTILE)
    found, facts = parsed(run, card.Options("alice/tiny", "mit", ["en"], ["a text: with --- in it\n---"]))
    assert found.data.license == "mit"
    assert found.data.to_dict()["widget"] == [{"text": "a text: with --- in it\n---"}]
    assert found.content.count("\n---\n") == 1  # where the header ends; it begins the file
    blocks = parts(found.text)
    headings = [shown for kind, shown, _ in blocks if kind == "heading_open"]
    assert headings[1:] == ["How to use it", "Figures", "Labels", "Data", "Training", "Limits"]
    assert not [kind for kind, _, _ in blocks if kind in ("html_block", "hr")]
    shown = [(text, inline) for kind, text, inline in blocks if kind == "td_open"]
    for label in facts.report.labels:
        (inline,) = [inline for text, inline in shown if text == named(label.name)]
        assert inline <= {"text", "text_special"}, label.name


def named(label: str) -> str:
    """A label as a card shows it."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in label).split())
    return line if len(line) <= 60 else line[:59] + "…"


def test_a_card_of_ten_thousand_labels_is_small(tmp_path: Path):
    run = run_of(tmp_path, "single_label")
    metrics = json.loads((run / "metrics.json").read_text())
    label = {"support": 1.0, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    metrics["report"]["labels"] = [{"name": f"label {number}", **label} for number in range(10_000)]
    (run / "metrics.json").write_text(json.dumps(metrics))
    found, _ = parsed(run)
    assert len(found.content) < 20_000
    assert "The 40 of 10,000 labels with the lowest F1" in found.text


@pytest.mark.parametrize(
    "words",
    [
        ["strategy=probe"],
        ["strategy=lora", "strategy.layers=[1]", "seed=3"],
        ["strategy=adapter", "strategy.peft={init_ia3_weights: true}", "objective=contrast"],
        ["data.class_weights={card: 2, film: 1}", "training.betas=[0.8,0.9]", "data.delimiter=' '"],
        ["encoder=modernbert", "tokens.max_length=64", "name=other", "output=elsewhere", "hub.repository=a/b"],
    ],
)
def test_the_command_of_a_card_reproduces_the_run(words: list[str]):
    settings = compose(None, words)
    again = words_of(settings)
    assert run_id(compose(None, again)) == run_id(settings)
    assert not [word for word in again if word.startswith(("name=", "output=", "hub."))]


def test_a_card_names_no_folder_of_this_machine(tmp_path: Path):
    from nlp_transfer.cli import main

    place = furnish(tmp_path / "secret folder")
    assert main(adapt_words(place, "strategy=finetune", "training.max_steps=1")) == 0
    (run,) = (place / "runs").iterdir()
    for path in (run / "model").rglob("*"):
        if path.suffix in (".json", ".md"):
            assert "secret folder" not in path.read_text(encoding="utf-8"), path
    text = (run / "model" / "README.md").read_text()
    assert "data.path=data" in text
    assert "encoder.name=tiny-bert" in text
    (command,) = [line for line in text.splitlines() if line.startswith("nlp-transfer adapt ")]
    assert "strategy=finetune" in shlex.split(command)


def test_an_edited_card_is_kept_and_a_lost_one_is_rewritten(tmp_path: Path):
    run = run_of(tmp_path, "single_label")
    path = run / "model" / "README.md"
    ours = path.read_text()
    for mine in (b"mine", "für mich".encode("latin-1")):
        path.write_bytes(mine)
        write_card(run)
        assert path.read_bytes() == mine
    path.unlink()
    write_card(run)
    assert path.read_text() == ours
    before = path.stat().st_mtime_ns
    write_card(run)  # nor is a disk asked to take what it has
    assert path.stat().st_mtime_ns == before


def test_the_header_is_valid_for_the_hub(tmp_path: Path):
    found, _ = parsed(run_of(tmp_path, "multi_label"))
    header = yaml.safe_load(found.content.split("---")[1])
    assert header["library_name"] == "transformers"
    assert header["tags"] == ["nlp_transfer", "finetune"]
    assert "base_model" not in header  # a folder that nobody else has
    assert header["model-index"][0]["results"][0]["dataset"]["split"] == "test"


@every_problem
def test_a_card_has_calibration_and_decision_rules(tmp_path: Path, problem: str):
    rule = {"multi_label": {"decision.threshold": 0.3}, "regression": {}}.get(problem, {"decision.abstain_below": 0.8})
    found, facts = parsed(run_of(tmp_path, problem, **rule))
    scaled = f"divided by a temperature of {facts.record['calibration']['temperature']:.3g}"
    if problem == "regression":
        assert "expected calibration error" not in found.text
        return
    assert f"differ by {facts.report.calibration_error:.3f}"[:-1].replace(" 0.", " .") in found.text
    assert scaled in found.text
    assert ("from a score of 0.3 on" if problem == "multi_label" else "no score reaches 0.8") in found.text


def test_the_card_of_an_adapter_has_its_decision_rules(tmp_path: Path):
    run = run_of(tmp_path, "multi_label", **{"strategy": "lora", "strategy.merge": False, "decision.threshold": 0.3})
    found, facts = parsed(run)
    assert not facts.record["merged"]
    assert "from a score of 0.3 on" in found.text


def test_a_card_lists_the_exports_of_its_model(tmp_path: Path):
    from nlp_transfer.cli import main

    place = furnish(tmp_path)
    assert main(adapt_words(place, "strategy=finetune", "training.max_steps=1", "encoder.head=native")) == 0
    (run,) = (place / "runs").iterdir()
    path = run / "model" / "README.md"
    before = path.read_text()
    assert main(["export", str(run)]) == 0
    after = path.read_text()
    figures = json.loads((run / "onnx" / "export.json").read_text())
    (row,) = [line for line in after.splitlines() if line.startswith("| onnx, opset 18")]
    assert f"{figures['rows']:,} of validation" in row
    assert f"{figures['megabytes']['model']:.1f} → {figures['megabytes']['export']:.1f}" in row
    assert card_exports.without_exports(after) == before
    shutil.copytree(run / "onnx", run / "onnx_int8")  # as another export would leave it
    (run / "onnx_int8" / "export.json").write_text(json.dumps(figures | {"format": "onnx_int8"}))
    write_card(run)
    assert path.read_text().count(", opset 18") == 2
    for broken in ("", "{", json.dumps({"sha256": figures["sha256"]}), json.dumps(figures | {"sha256": "another"})):
        (run / "onnx" / "export.json").write_text(broken)
        write_card(run)
        assert path.read_text().count(", opset 18") == 1
    (run / "onnx" / "export.json").write_text(json.dumps(figures))
    shutil.copytree(run / "onnx", run / ".trash-onnx")
    write_card(run)
    assert path.read_text().count(", opset 18") == 2
    for mine in (after + "\nmine", after.replace("\n## Limits", "\nmine\n\n## Limits")):
        path.write_text(mine)
        write_card(run)
        assert path.read_text() == mine


def test_the_code_for_an_adapter_sets_the_padding_everywhere(tmp_path: Path, monkeypatch):
    base, task = SimpleNamespace(config=tiny_config("gemma3")), Task("single_label", ("a", "b"), pair=False).to_json()
    (tmp_path / "record.json").write_text(json.dumps({"task": task}))
    for name, gives in {
        "huggingface_hub.hf_hub_download": str(tmp_path / "record.json"),
        "peft.PeftModel.from_pretrained": None,
        "transformers.AutoModelForSequenceClassification.from_pretrained": base,
        "transformers.AutoTokenizer.from_pretrained": SimpleNamespace(pad_token_id=7),
        "transformers.pipeline": None,
    }.items():
        monkeypatch.setattr(name, lambda *_, gives=gives, **__: gives)
    record = {"task": task, "encoder": {"head": "native"}}
    words = card._adapter_usage("alice/adapter", SimpleNamespace(record=record, encoder="tiny", outputs=2))
    exec(words.split("```python")[1].split("```")[0])
    assert (base.config.pad_token_id, base.config.get_text_config().pad_token_id) == (7, 7)


@pytest.mark.exhaustive
def test_an_export_under_another_rule_or_of_a_run_without_figures_leaves_the_card(tmp_path: Path, capfd):
    from nlp_transfer.cli import main

    place = furnish(tmp_path)
    assert main(adapt_words(place, "strategy=finetune", "training.max_steps=1", "encoder.head=native")) == 0
    (run,) = (place / "runs").iterdir()
    before = (run / "model" / "README.md").read_text()
    assert main(["export", str(run), "decision.abstain_below=0.9"]) == 0
    assert (run / "model" / "README.md").read_text() == before
    (run / "metrics.json").write_text("{}")
    capfd.readouterr()
    assert main(["export", str(run)]) == 0
    found = capfd.readouterr()
    assert json.loads(found.out)["equal_decisions"] == 1
    assert "does not mention the export" in found.err


def test_a_run_from_before_calibration_is_described(tmp_path: Path):
    run = run_of(tmp_path, "single_label")
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("calibration_error", "calibration_error_by_chance", "answered"):
        del metrics["report"][name]
    metrics["report"]["notes"] = [note for note in metrics["report"]["notes"] if "calibration" not in note]
    (run / "metrics.json").write_text(json.dumps(metrics))
    found, _ = parsed(run)
    assert "calibration error" not in found.text

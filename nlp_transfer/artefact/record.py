"""``nlp_transfer.json``: what is needed to decide like a trained model and is not in its config.json."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_transfer.composing.plain import checked
from nlp_transfer.data.task import NEVER, Task
from nlp_transfer.data.tokens import TokenSpec
from nlp_transfer.encoder.pretrained import Pretrained
from nlp_transfer.encoder.source import RECORD, read_json
from nlp_transfer.errors import UserError
from nlp_transfer.evaluation.calibration import Calibration
from nlp_transfer.evaluation.calibration_scores import CalibrationScores
from nlp_transfer.evaluation.novelty import Novelty
from nlp_transfer.evaluation.selective import RiskCurve
from nlp_transfer.settings import EncoderSettings

FORMAT = 2
_KEPT: dict[str, type[Novelty] | type[CalibrationScores] | type[RiskCurve]] = {
    "novelty": Novelty,
    "nonconformity": CalibrationScores,
    "risk_curve": RiskCurve,
}


@dataclass(frozen=True)
class Record:
    """What is needed to decide like the trained model and is not in its config.json.

    Attributes:
        task: problem type and label names.
        tokens: how texts become ids.
        roles: role → column name of the data it was trained on.
        encoder: the encoder it was adapted from: the `encoder` group with the revision and sha256 that were found, so
            that the model under an adapter that is not merged can be built again.
        max_tokens: what the encoder can take, for whoever adapts the model again: `tokens.limit` may be less.
        merged: whether the root holds a whole model; if not, the root holds a PEFT adapter for `encoder`.
        data: source and fingerprint of the data.
        calibration: of the outputs, for good: the weights answer so already.
        novelty: how unlike what the model knows the validation rows are; None where that was not asked for.
        nonconformity: how badly their truth fits what the model says of them; None likewise.
        risk_curve: how many of them are answered at some probabilities, and how many of these wrongly; None likewise.
        pretrained: what the encoder learned before; None where it was taken as it is.
        sha256: of the weights in the folder, which `save` finds and loading compares; None where nothing is compared.
    """

    task: Task
    tokens: TokenSpec
    roles: dict[str, str]
    encoder: EncoderSettings
    max_tokens: int
    merged: bool
    data: dict[str, str]
    calibration: Calibration = field(default_factory=Calibration)
    novelty: Novelty | None = None
    nonconformity: CalibrationScores | None = None
    risk_curve: RiskCurve | None = None
    pretrained: Pretrained | None = None
    sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        groups = {name: dataclasses.asdict(plain[name]) for name in ("tokens", "encoder", "calibration")}
        kept = {name: plain[name] and plain[name].to_json() for name in _KEPT}
        kept["pretrained"] = self.pretrained and dataclasses.asdict(self.pretrained)
        return {"format": FORMAT, **plain, **groups, **kept, "task": self.task.to_json()}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Record:
        """Read plain values back.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: for anything that `to_json` of this version did not write.
        """
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']!r}, not {FORMAT}")
        # Models from before there were these had none of them, or a temperature alone.
        plain = (
            {"calibration": {"temperature": plain.get("temperature", 1.0)}}
            | dict.fromkeys([*_KEPT, "pretrained"])
            | plain
        )
        values = {f.name: plain[f.name] for f in dataclasses.fields(cls)}
        if type(values["max_tokens"]) is not int or type(values["merged"]) is not bool:
            raise ValueError("max_tokens is a whole number, merged true or false")
        if not isinstance(values["sha256"], str | None):
            raise ValueError("sha256 is a text or null")
        for key in ("roles", "data"):
            if not all(isinstance(text, str) for text in values[key].values()):
                raise ValueError(f"{key} maps names to names")
        groups = {
            "task": Task.from_json(plain["task"]),
            "tokens": checked(TokenSpec, plain["tokens"], "tokens."),
            "encoder": checked(EncoderSettings, plain["encoder"], "encoder."),
            "calibration": Calibration.from_json(plain["calibration"], classes=len(plain["task"]["labels"])),
        }
        groups["tokens"].check()
        kept = {name: None if plain[name] is None else kind.from_json(plain[name]) for name, kind in _KEPT.items()}
        if (pretrained := plain["pretrained"]) is not None:
            kept["pretrained"] = checked(Pretrained, pretrained, "pretrained.")
        record = cls(**values | groups | kept)
        if (record.task.unknown and not record.novelty) or (record.task.coverage and not record.nonconformity):
            raise ValueError("a rule without the scores to set its limit by")
        if record.task.risk and (
            record.risk_curve is None or record.task.abstain_below not in (*record.risk_curve.least, NEVER)
        ):
            raise ValueError("a risk without the curve that it is read off")
        return record


def write_record(record: Record, folder: Path) -> None:
    """Write nlp_transfer.json."""
    content = json.dumps(record.to_json(), indent=2, ensure_ascii=False)
    # A thousand numbers are no thousand lines. Only between values has JSON line ends.
    content = re.sub(r"\[\n[-+.\d\seE,]+\]", lambda numbers: " ".join(numbers[0].split()), content)
    (folder / RECORD).write_text(content + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """Return the record of a saved folder.

    Raises:
        UserError: if the folder is none of ours.
    """
    path = folder / RECORD
    if not path.is_file():
        known = "a run folder (runs/...) or its model/ folder"
        raise UserError(f"{folder} holds no {RECORD}: give {known} made by `nlp-transfer adapt`")
    content = read_json(path)
    try:
        return Record.from_json(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or was written by another version"
        ) from error

"""``nlp_transfer.json``: everything needed to predict like the trained model that its config.json does not hold."""

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
_SCORE_TYPES: dict[str, type[Novelty] | type[CalibrationScores] | type[RiskCurve]] = {
    "novelty": Novelty,
    "nonconformity": CalibrationScores,
    "risk_curve": RiskCurve,
}


@dataclass(frozen=True)
class Record:
    """Everything needed to predict like the trained model that its config.json does not hold.

    Attributes:
        task: problem type, label names and decision rules.
        tokens: tokenisation settings.
        roles: role → column name of the training data.
        encoder: the encoder it was adapted from: the `encoder` group with the actual revision and sha256, from which
            the base model of an unmerged adapter can be loaded again.
        max_tokens: maximum length of the encoder, for adapting the model again; `tokens.limit` may be lower.
        merged: whether the root contains a whole model; if not, it contains a PEFT adapter for `encoder`.
        data: source and fingerprint of the data.
        calibration: of the outputs; it is already folded into the weights.
        novelty: novelty scores of the validation rows, for the rule `unknown`; None without it.
        nonconformity: nonconformity scores of the validation rows, for the rule `coverage`; None without it.
        risk_curve: answered and wrong validation rows by threshold, for the rule `risk`; None without it.
        pretrained: further pretraining of the encoder; None without it.
        sha256: of the weights in the folder, set by `save` and checked on loading; None: not checked.
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
        """Return the record as plain values."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        groups = {name: dataclasses.asdict(plain[name]) for name in ("tokens", "encoder", "calibration")}
        optional = {name: plain[name] and plain[name].to_json() for name in _SCORE_TYPES}
        optional["pretrained"] = self.pretrained and dataclasses.asdict(self.pretrained)
        return {"format": FORMAT, **plain, **groups, **optional, "task": self.task.to_json()}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Record:
        """Read plain values back.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: for anything that `to_json` of this version cannot write.
        """
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']!r}, not {FORMAT}")
        # Older models lack these keys, or have only a temperature.
        plain = (
            {"calibration": {"temperature": plain.get("temperature", 1.0)}}
            | dict.fromkeys([*_SCORE_TYPES, "pretrained"])
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
        optional = {
            name: None if plain[name] is None else kind.from_json(plain[name]) for name, kind in _SCORE_TYPES.items()
        }
        if (pretrained := plain["pretrained"]) is not None:
            optional["pretrained"] = checked(Pretrained, pretrained, "pretrained.")
        record = cls(**values | groups | optional)
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
    # Put lists of numbers on one line. Line feeds occur in JSON only between values.
    content = re.sub(r"\[\n[-+.\d\seE,]+\]", lambda numbers: " ".join(numbers[0].split()), content)
    (folder / RECORD).write_text(content + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """Load the record of a saved folder.

    Raises:
        UserError: if it is missing, damaged or of another version.
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

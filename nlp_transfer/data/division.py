"""The splits of a run: missing ones are carved out of the training rows, and row limits are applied."""

from __future__ import annotations

from nlp_transfer.data import splits
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.shares import DEFAULT_SHARE, validation_share
from nlp_transfer.data.task import label_probabilities
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings


def divide(rows: dict[str, Rows], problem: str, settings: DataSettings, notes: list[str]) -> None:
    """Carve missing splits out of train; a given test split is never touched.

    Args:
        rows: by split; modified in place.
        problem: the problem type.
        settings: the `data` group.
        notes: receives a sentence for each split that was carved or is missing.

    Raises:
        UserError: where there would be no rows to measure on, or no row can be carved.
    """
    if "validation" not in rows:
        labels = _labels(rows["train"])
        if "test" not in rows and settings.test_share > 0:
            _carve(rows, "test", settings.test_share, problem, notes)
        train, has_test = len(rows["train"]), "test" in rows
        share = validation_share(settings, problem=problem, rows=train, labels=labels, has_test=has_test)
        if share:
            _carve(rows, "validation", share, problem, notes)
        elif has_test:
            notes.append(_without_validation(train / max(1, labels), problem, settings))
        else:
            raise UserError(
                f"{rows['train'].table.origin}: there are neither test nor validation rows to measure on; give "
                "data.test, or set data.test_share or data.validation_share above 0"
            )
    if "test" not in rows:
        notes.append(
            "test: none, so results are measured on validation, which is also used for selection; expect them to be "
            "optimistic"
        )


def _carve(rows: dict[str, Rows], split: str, share: float, problem: str, notes: list[str]) -> None:
    before = len(rows["train"])
    stay, go = splits.carve(rows["train"], share, split=split, problem=problem)
    rows[split], rows["train"] = rows["train"].take(go), rows["train"].take(stay)
    notes.append(f"{split}: {len(go):,} of {before:,} training rows, stratified, chosen by a hash of the text")


def _without_validation(rows_a_class: float, problem: str, settings: DataSettings) -> str:
    """Return the note that there is no validation split: why, its consequences, and how to get one."""
    consequences = {
        "regression": "",
        "multi_label": ", probabilities are not calibrated and thresholds not chosen",
    }.get(problem, " and probabilities are not calibrated")
    effect = f"the last weights of a training are kept{consequences}"
    if settings.validation_share is not None:
        return f"validation: none (data.validation_share={settings.validation_share:g}): {effect}"
    reason = f"there are few rows ({rows_a_class:.3g} per class)"
    return f"validation: none, for {reason}: {effect}; data.validation_share={DEFAULT_SHARE:g} splits some off"


def limit(rows: dict[str, Rows], problem: str, settings: DataSettings, seed: int, notes: list[str]) -> None:
    """Apply the row limits of the settings to the training and validation rows; for the arguments see `divide`."""
    limits = {
        "train": ("train_limit", settings.train_limit, settings.per_class),
        "validation": ("validation_limit", settings.validation_limit, None),
    }
    for split, (name, total, per_class) in limits.items():
        if split not in rows:
            continue
        part = rows[split]
        kept = splits.limit(part, name, total=total, per_class=per_class, seed=seed, problem=problem)
        if len(kept) < len(part):
            rows[split] = part.take(kept)
            setting = f"{name}={total}" if per_class is None else f"per_class={per_class}"
            notes.append(f"{split}: {len(kept):,} of {len(part):,} rows used ({setting})")


def _labels(rows: Rows) -> int:
    """Return the number of distinct labels; regression targets are not counted."""
    return len({name for label in rows.labels if not isinstance(label, float) for name in label_probabilities(label)})

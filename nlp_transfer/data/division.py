"""The splits of a run: what is missing is carved out of the training rows, and no more rows are used than asked for."""

from __future__ import annotations

from nlp_transfer.data import splits
from nlp_transfer.data.rows import Rows
from nlp_transfer.data.shares import USUAL, validation_share
from nlp_transfer.data.task import shares
from nlp_transfer.errors import UserError
from nlp_transfer.settings import DataSettings


def divide(rows: dict[str, Rows], problem: str, settings: DataSettings, notes: list[str]) -> None:
    """Carve the splits that are missing out of train; a given test split is never touched.

    Args:
        rows: by split; changed.
        problem: the problem type.
        settings: the `data` group.
        notes: gets a sentence for whatever was carved, or is not there.

    Raises:
        UserError: where nothing would be measured, or no row can go.
    """
    if "validation" not in rows:
        labels = _labels(rows["train"])
        if "test" not in rows and settings.test_share > 0:
            _carve(rows, "test", settings.test_share, problem, notes)
        train, tested = len(rows["train"]), "test" in rows
        share = validation_share(settings, problem=problem, rows=train, labels=labels, tested=tested)
        if share:
            _carve(rows, "validation", share, problem, notes)
        elif tested:
            notes.append(_without_validation(train / max(1, labels), problem, settings))
        else:
            raise UserError(
                f"{rows['train'].table.origin}: there are neither test nor validation rows to measure on; give "
                "data.test, or set data.test_share or data.validation_share above 0"
            )
    if "test" not in rows:
        notes.append("test: none, so figures are measured on validation, which also selects; expect them to flatter")


def _carve(rows: dict[str, Rows], split: str, share: float, problem: str, notes: list[str]) -> None:
    before = len(rows["train"])
    stay, go = splits.carve(rows["train"], share, split=split, problem=problem)
    rows[split], rows["train"] = rows["train"].take(go), rows["train"].take(stay)
    notes.append(f"{split}: {len(go):,} of {before:,} training rows, stratified, chosen by a hash of the text")


def _without_validation(rows_a_class: float, problem: str, settings: DataSettings) -> str:
    """Say that nothing is chosen by validation rows, why, and how there would be some."""
    follows = {
        "regression": "",
        "multi_label": ", probabilities are not calibrated and thresholds not chosen",
    }.get(problem, " and probabilities are not calibrated")
    told = f"the last weights of a training are kept{follows}"
    if settings.validation_share is not None:
        return f"validation: none (data.validation_share={settings.validation_share:g}): {told}"
    few = f"there are few rows ({rows_a_class:.3g} a class)"
    return f"validation: none, for {few}: {told}; data.validation_share={USUAL:g} carves some out"


def limit(rows: dict[str, Rows], problem: str, settings: DataSettings, seed: int, notes: list[str]) -> None:
    """Use as many training and validation rows as the settings say; see `divide`."""
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
            said = f"{name}={total}" if per_class is None else f"per_class={per_class}"
            notes.append(f"{split}: {len(kept):,} of {len(part):,} rows used ({said})")


def _labels(rows: Rows) -> int:
    """Return how many labels rows have; numbers are none."""
    return len({name for label in rows.labels if not isinstance(label, float) for name in shares(label)})

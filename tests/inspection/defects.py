"""A corpus without defects, and one change a kind of defect that puts it in: most of them stood in published data."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]
SIZES = {"train": 240, "validation": 120, "test": 120}
_OPENINGS = (
    "I would like to know why", "Could you please tell me whether", "Yesterday we noticed that", "It seems to me that",
    "My sister keeps asking if", "Nobody here understands why", "For three weeks now", "The manual does not tell if",
    "Last Monday I found out that", "Your colleague promised me that", "After the update it looks as if", "Once again",
)  # fmt: skip
_SUBJECTS = {
    "card": ("the new credit card", "my bank card", "the blue debit card", "this prepaid card", "our company card"),
    "parcel": (
        "the small parcel",
        "my last delivery",
        "the heavy package",
        "this birthday gift",
        "the second shipment",
    ),
    "film": ("the first film", "that old movie", "the long documentary", "this comedy", "the final episode"),
}
_VERBS = (
    "has not arrived", "was sent to somebody else", "stopped working", "is nowhere to be found", "costs far too much",
    "was better than expected", "cannot be returned", "made us all happy", "looked very different", "came too late",
)  # fmt: skip
_ENDS = (
    "in the old town", "during our holidays", "without any warning", "for the third time", "at the worst moment",
    "on a rainy evening", "before the weekend", "as usual", "with all the others", "near the station",
    "in spite of that", "under another name", "after midnight", "for no good reason", "in a strange colour",
    "behind the curtain",
)  # fmt: skip


def clean(seed: int = 0, sizes: dict[str, int] = SIZES) -> Splits:
    """Return splits of sentences, each once, in three classes of one size, in no order."""
    draws = random.Random(seed)
    every = [
        (label, f"{opening} {subject} {verb} {end}.")
        for label, subjects in _SUBJECTS.items()
        for opening in _OPENINGS
        for subject in subjects
        for verb in _VERBS
        for end in _ENDS
    ]
    by_label = {label: [text for name, text in every if name == label] for label in _SUBJECTS}
    made: Splits = {}
    taken: list[frozenset[str]] = []
    for split, size in sizes.items():
        rows = []
        for number in range(size):
            label = list(_SUBJECTS)[number % len(_SUBJECTS)]
            while True:
                text = draws.choice(by_label[label])
                words = frozenset(text.split())
                if all(len(words & other) / len(words | other) < 0.6 for other in taken):
                    break
            taken.append(words)
            rows.append({"text": text, "label": label})
        draws.shuffle(rows)
        made[split] = rows
    return made


def _each(change: Callable[[Row], Any], *, count: int = 12, split: str = "train") -> Callable[[Splits], None]:
    """Return what changes the first rows of a split."""

    def put(splits: Splits) -> None:
        for row in splits[split][:count]:
            change(row)

    return put


def _text(change: Callable[[str], str], **where: Any) -> Callable[[Splits], None]:
    return _each(lambda row: row.update(text=change(row["text"])), **where)


def _copied(
    source: str, target: str, change: Callable[[Row], Row] = dict, *, count: int = 9
) -> Callable[[Splits], None]:
    return lambda splits: splits[target].extend(change(row) for row in splits[source][:count])


def other(row: Row) -> Row:
    return row | {"label": "film" if row["label"] != "film" else "card"}


def _nearly(row: Row) -> Row:
    return row | {"text": row["text"].rstrip(".") + " too!"}


def _publishers(splits: Splits) -> None:
    """Sources whose rows have one label, in every split, as in a split of hyperpartisan news that is in use."""
    draws = random.Random(1)
    houses = {label: [f"{label} house {number}" for number in range(8)] for label in _SUBJECTS}
    for rows in splits.values():
        for row in rows:
            row["publisher"] = draws.choice(houses[row["label"]])


def _teams(splits: Splits) -> None:
    """The label under another name, in nearly every row."""
    for rows in splits.values():
        for number, row in enumerate(rows):
            row["team"] = "other" if number % 100 == 7 else row["label"][::-1]


def _ids(splits: Splits) -> None:
    """Identifiers, of which test shares some with train."""
    for split, rows in splits.items():
        for number, row in enumerate(rows):
            row["key"] = f"{split}-{7 * number:05}"
    for mine, theirs in zip(splits["train"][:51], splits["test"], strict=False):
        theirs["key"] = mine["key"]


def _tokenised(splits: Splits) -> None:
    """Labelled texts in lower case and cut into tokens, the others as they were written, as in multi-domain reviews."""
    for row in splits["train"]:
        row["text"] = row["text"].lower().replace(".", " .")


def _sort(splits: Splits) -> None:
    splits["train"].sort(key=lambda row: row["label"])


def _ids_instead(splits: Splits) -> None:
    draws = random.Random(2)
    for rows in splits.values():
        for row in rows:
            row["text"] = f"T{draws.randrange(10**12):012}"


def _texts_as_labels(splits: Splits) -> None:
    for row in splits["train"]:
        row["label"] = row["text"][:40]


def _says_its_label(splits: Splits) -> None:
    for rows in splits.values():
        for row in rows:
            row["text"] = f"[{row['label']}] {row['text']}"


def _shift(splits: Splits) -> None:
    """One class with few training and many test rows, as out-of-scope rows in clinc_oos."""
    splits["train"] = [row for row in splits["train"] if row["label"] != "film"] + [
        row for row in splits["train"] if row["label"] == "film"
    ][:8]


def _wrong_labels(splits: Splits) -> None:
    for row in splits["train"][:12]:
        row["label"] = other(row)["label"]


def _any_labels(splits: Splits) -> None:
    """Labels that are independent of the texts."""
    draws = random.Random(3)
    for row in splits["train"]:
        row["label"] = draws.choice(list(_SUBJECTS))


def _foreign(splits: Splits) -> None:
    """A third of the texts in another language."""
    french = "Je voudrais savoir pourquoi le colis de ma sœur n'est toujours pas arrivé"
    ends = ("hier", "ce matin", "à la gare", "malgré tout", "dans la rue", "chez nous", "demain", "encore une fois")
    for number, row in enumerate(splits["train"][:80]):
        row["text"] = f"{french} {ends[number % 8]} {ends[number // 8 % 8]}, numéro {number * 977}."


def _cut(splits: Splits) -> None:
    """Long texts cut at 80 characters."""
    for row in splits["train"][:60]:
        row["text"] = f"{row['text']} {row['text'][::-1]} {row['text']}"[:160]


def headed(row: Row) -> str:
    """A message with its headers, as news groups deliver it."""
    words = row["text"].split()
    return (
        f"From: {words[-2]}@{words[2]}.example ({words[-1]})\nSubject: {' '.join(words[3:8])}\n"
        f"Organization: {' '.join(words[-5:])}\nLines: {len(words)}\n\n{row['text']}"
    )


def quoting(row: Row) -> str:
    words = row["text"].split()
    return (
        f"{words[-2]}@{words[2]}.example writes:\n|> {' '.join(words[:6])}\n|> {' '.join(words[6:])}\n\n{row['text']}"
    )


def signed(row: Row) -> str:
    words = row["text"].split()
    return f"{row['text']}\n\n-- \n{' '.join(words[2:5])}\n{' '.join(words[-4:])}"


def _as_mail(splits: Splits) -> None:
    """Texts that are whole messages, as the news groups were before somebody took headers, quotes and footers off."""
    for wrap in (headed, quoting, signed):
        for row in splits["train"][:12]:
            row["text"] = wrap(row)


def _mostly_cards(splits: Splits) -> None:
    """One class with many times the rows of the others."""
    splits["train"].extend([row for row in clean(5, {"train": 720})["train"] if row["label"] == "card"] * 12)


def _weigh_too_much(splits: Splits) -> None:
    """Weights whose sum over a split is not a number."""
    for rows in splits.values():
        for row in rows:
            row["weight"] = 3e38


# Kind of defect -> what puts it in. Those that only an encoder sees are apart.
PLAIN: dict[str, Callable[[Splits], None]] = {
    "empty": _text(lambda _: "  \u200b "),
    "unseen_label": _each(lambda row: row.update(label="refund"), split="test"),
    "refused": _weigh_too_much,
    "leak": _copied("test", "train"),
    "near_leak": _copied("test", "train", _nearly),
    "shared_id": _ids,
    "id_as_text": _ids_instead,
    "id_as_label": _texts_as_labels,
    "conflict": _copied("train", "train", other),
    "near_conflict": _copied("train", "train", lambda row: other(_nearly(row))),
    "repeat": _copied("validation", "validation"),
    "near_repeat": _copied("train", "train", _nearly),
    "twin": _each(lambda row: row.update(label=row["label"].title() + " ")),
    "joined_label": _each(lambda row: row.update(label="card,film"), count=6),
    "missing_label": _each(lambda row: row.update(label="NaN")),
    "rare_label": _each(lambda row: row.update(label="refund"), count=1),
    "absent_label": _each(lambda row: row.update(label="refund")),
    "imbalance": _mostly_cards,
    "prior_shift": _shift,
    "style_shift": _tokenised,
    "sorted": _sort,
    "group": _publishers,
    "target_leakage": _teams,
    "giveaway": _says_its_label,
    "mojibake": _text(lambda text: f"{text} It’s a café".encode().decode("cp1252")),
    "entity": _text(lambda text: f"{text} Fish &amp;amp; chips &lt; 5"),
    "quoting": _text(lambda text: f'"{text} She said ""no"" twice"'),
    "escape": _text(lambda text: f"{text}\\n\\u00e9"),
    "control": _text(lambda text: f"\ufeff{text}\x07"),
    "lost_character": _text(lambda text: f"{text} caf\ufffd"),
    "markup": _text(lambda text: f"<p>{text}<br />"),
    "mail": _as_mail,
    "clipped": _cut,
    "languages": _foreign,
    "few_rows": lambda _: None,
}  # fmt: skip
LEARNED: dict[str, Callable[[Splits], None]] = {
    "label_error": _wrong_labels,
    "weak_probe": _any_labels,
    "unknown_words": _text(lambda _: "لم تصل بطاقتي بعد ولا أعرف ماذا أفعل الآن", count=40),
    "truncated": _text(lambda text: " ".join([text] * 40), count=40),
}
# What a defect brings along besides, which is true as well.
BESIDES = {
    "leak": {"near_leak"},
    "conflict": {"repeat"},
    "id_as_label": {"refused", "unseen_label", "rare_label", "absent_label"},
    "joined_label": {"absent_label", "imbalance"},
    "missing_label": {"absent_label"},
    "rare_label": {"absent_label", "imbalance"},
    "twin": {"absent_label", "imbalance"},
    "prior_shift": {"imbalance"},
    "imbalance": {"repeat", "leak", "near_repeat", "near_leak", "near_conflict", "prior_shift"},
    "languages": {"near_repeat", "near_conflict"},
}

"""The kinds of defects, with severity and advice."""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")
"""error: figures measured on these rows mislead, or a run refuses them. warning: a model learns less than it could."""


@dataclass(frozen=True)
class Kind:
    """A kind of defect.

    Attributes:
        severity: see SEVERITIES.
        advice: what the user should do.
    """

    severity: str
    advice: str


KINDS = {
    "empty": Kind("error", "correct them, or set data.empty=drop"),
    "unseen_label": Kind("error", "correct them, or set data.unseen=ignore"),
    "refused": Kind("error", "correct this first: until then nothing can be trained"),
    "leak": Kind("error", "drop the rows of the earlier split"),
    "near_leak": Kind("warning", "drop the rows of the earlier split, unless they differ in what matters"),
    "contamination": Kind("error", "do not evaluate a model on these rows that was trained on the other data set"),
    "shared_id": Kind("error", "divide the data again, by these ids"),
    "id_as_text": Kind("error", "name the column of the texts: data.columns.text=..."),
    "id_as_label": Kind("error", "name the column of the labels: data.columns.label=..."),
    "conflict": Kind("warning", "decide how each text is labelled"),
    "near_conflict": Kind("warning", "look at them: one of the two is often labelled wrongly"),
    "label_error": Kind("warning", "look at them, the most certain first"),
    "weak_probe": Kind("note", "try another encoder, or check whether people can determine the labels from the texts"),
    "repeat": Kind("warning", "keep one of each"),
    "near_repeat": Kind(
        "note", "keep one of each, unless they differ in what matters; a random split may separate them"
    ),
    "paraphrase": Kind(
        "note",
        "check whether one was written from the other: scores on such rows are too high, and within a split they "
        "count more",
    ),
    "twin": Kind("warning", "write each label in one way"),
    "joined_label": Kind("warning", "declare that rows have several labels: data.label_separator"),
    "missing_label": Kind("warning", "label these rows, or leave them out, unless it is the name of a class"),
    "rare_label": Kind("warning", "add rows, or leave these labels out"),
    "absent_label": Kind("warning", "add rows, or nothing is known about the model's quality on these labels"),
    "imbalance": Kind("note", "use macro-F1; data.class_weights=balanced weights labels equally"),
    "prior_shift": Kind(
        "warning", "use scores per class; probabilities fit the class frequencies of the training rows"
    ),
    "style_shift": Kind("warning", "write the texts of all splits in the same way as future texts"),
    "sorted": Kind("note", "shuffle before taking the first rows of a file; training shuffles anyway"),
    "group": Kind("warning", "if it names a source, such as an author, put each source into one split only"),
    "target_leakage": Kind(
        "warning", "if it repeats the label, keep it out of the texts; if it is a source, split by it"
    ),
    "giveaway": Kind("warning", "remove it from the texts, or the model learns nothing else"),
    "mojibake": Kind("warning", "decode the file with its real encoding: data.encoding=..."),
    "entity": Kind("warning", "unescape them"),
    "quoting": Kind("warning", "read the file in the format in which it was written"),
    "escape": Kind("warning", "unescape them at the source"),
    "control": Kind("warning", "remove them"),
    "lost_character": Kind("warning", "decode the source again: lost characters cannot be restored"),
    "markup": Kind("note", "remove it, unless it has a meaning"),
    "mail": Kind(
        "warning",
        "remove them at the source, unless texts have them where the model is used: they reveal who wrote a text",
    ),
    "clipped": Kind("warning", "check whether the texts were cut at the source"),
    "truncated": Kind("warning", "raise tokens.max_length, or set tokens.long=chunk"),
    "unknown_words": Kind("warning", "take an encoder that knows the language, such as encoder=e5 or encoder=mmbert"),
    "languages": Kind("warning", "take an encoder for all of them, such as encoder=e5 or encoder=mmbert"),
    "few_rows": Kind("note", "differences smaller than that are noise: compare over several seeds"),
}

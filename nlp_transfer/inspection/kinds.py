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
    "refused": Kind("error", "do what it says: till then nothing can be trained"),
    "leak": Kind("error", "drop the rows of the earlier split"),
    "near_leak": Kind("warning", "drop the rows of the earlier split, unless they differ in what matters"),
    "contamination": Kind("error", "measure no model on these rows that has learned from the other data set"),
    "shared_id": Kind("error", "divide the data again, by these ids"),
    "id_as_text": Kind("error", "name the column of the texts: data.columns.text=..."),
    "id_as_label": Kind("error", "name the column of the labels: data.columns.label=..."),
    "conflict": Kind("warning", "decide how each text is labelled"),
    "near_conflict": Kind("warning", "look at them: one of the two is often labelled wrongly"),
    "label_error": Kind("warning", "look at them, the most certain first"),
    "weak_probe": Kind("note", "try another encoder, or ask whether people can tell the labels from the texts"),
    "repeat": Kind("warning", "keep one of each"),
    "near_repeat": Kind(
        "note", "keep one of each, unless they differ in what matters; a split that is carved may part them"
    ),
    "paraphrase": Kind(
        "note",
        "look whether they were written from one another: then figures on them flatter; in one split they weigh more",
    ),
    "twin": Kind("warning", "write each label in one way"),
    "joined_label": Kind("warning", "say that rows have several labels"),
    "missing_label": Kind("warning", "label these rows, or leave them out, unless it is the name of a class"),
    "rare_label": Kind("warning", "add rows, or leave these labels out"),
    "absent_label": Kind("warning", "add rows, or nothing is known of how well these labels are found"),
    "imbalance": Kind("note", "look at macro-F1; data.class_weights=balanced weighs labels alike"),
    "prior_shift": Kind("warning", "look at figures per class; probabilities suit the shares of the training rows"),
    "style_shift": Kind("warning", "write the texts of all splits in one way, as those to come will be"),
    "sorted": Kind("note", "shuffle before taking the first rows of a file; training shuffles anyway"),
    "group": Kind("warning", "if it names a source, such as an author, let each be in one split only"),
    "target_leakage": Kind(
        "warning", "if it is the label once more, keep it out of the texts; if a source, divide by it"
    ),
    "giveaway": Kind("warning", "take it out of the texts, or the model learns nothing else"),
    "mojibake": Kind("warning", "decode the file as what it is: data.encoding=..."),
    "entity": Kind("warning", "unescape them"),
    "quoting": Kind("warning", "read the file as the format it was written in"),
    "escape": Kind("warning", "unescape them where the texts are written"),
    "control": Kind("warning", "remove them"),
    "lost_character": Kind("warning", "decode the source again: what is lost cannot be guessed"),
    "markup": Kind("note", "remove it, unless it says something"),
    "mail": Kind(
        "warning",
        "take them off where the texts are written, unless they are there where the model is used: they tell who wrote "
        "where",
    ),
    "clipped": Kind("warning", "look whether the texts were cut where they were written"),
    "truncated": Kind("warning", "raise tokens.max_length, or set tokens.long=chunk"),
    "unknown_words": Kind("warning", "take an encoder that knows the language, such as encoder=e5 or encoder=mmbert"),
    "languages": Kind("warning", "take an encoder for all of them, such as encoder=e5 or encoder=mmbert"),
    "few_rows": Kind("note", "differences smaller than that are noise: compare over several seeds"),
}

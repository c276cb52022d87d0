"""Word attribution by omission: each word is left out of the text in turn, and the outputs are compared.

The score of a word is its weight of evidence (Robnik-Šikonja and Kononenko, "Explaining Classifications For Individual
Instances", IEEE TKDE 20(5), 2008; for words, Li, Monroe and Jurafsky, "Understanding Neural Networks through
Representation Erasure", arXiv:1612.08220)::

    score(word) = e(text) - e(text without the word)

where e is the log-odds of a label, ln p / (1 - p), and for regression the number itself. A positive score is evidence
for a label, a negative one against it; the word multiplies the odds by exp(score). The method only needs the outputs of
a model, so it works for exported ones too; it does not detect words that matter only in combination.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nlp_transfer.data.task import Task
from nlp_transfer.decision.labelling import Labeller
from nlp_transfer.evaluation.decisions import finite_logits

# Scripts without spaces between words, in which every character, with its combining marks, counts as a word: Thai, Lao,
# Tibetan, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_WORD = re.compile(rf"{_UNSPACED}(?:(?!\w){_UNSPACED})*|(?:(?!{_UNSPACED})\S)+")


@dataclass(frozen=True)
class Span:
    """A part of a text and its score.

    Attributes:
        text: the part; all parts of a text, joined, are the text.
        score: see the docstring of this module; None for the spaces between words.
    """

    text: str
    score: float | None


@dataclass(frozen=True)
class Attribution:
    """The scores of the words of one text or pair.

    Attributes:
        evidence: e of the whole text: the log-odds of the label, or the number.
        texts: the parts of the text, and of its pair if there is one.
        grouped: how many words were left out together, because the text is long; 1: each by itself.
    """

    evidence: float
    texts: list[list[Span]]
    grouped: int


def attribute(labeller: Labeller, text: str, pair: str | None = None, *, output: int, most: int) -> Attribution:
    """Return the score of every word of a text for an output.

    Args:
        labeller: the model; it is called once, with one text more than there are words.
        text: the text.
        pair: the second text, for models of pairs.
        output: index of the label; 0 for regression.
        most: maximum number of parts that are left out; neighbouring words of a longer text are left out together.

    Raises:
        UserError: for a pair if the model takes single texts or vice versa, and for outputs that are not finite.
    """
    texts = [text] if pair is None else [text, pair]
    words = [[match.span() for match in _WORD.finditer(each)] for each in texts]
    grouped = max(1, -(-sum(map(len, words)) // most))
    # Both texts of a pair may end with a group of fewer words.
    while sum(-(-len(each) // grouped) for each in words) > max(most, len(texts)):
        grouped += 1
    parts = [[(each[k][0], each[k : k + grouped][-1][1]) for k in range(0, len(each), grouped)] for each in words]
    variants = [texts, *_without(texts, parts)]
    columns = [list(column) for column in zip(*variants, strict=True)]
    logits = labeller.logits(columns[0], columns[1] if pair is not None else None)
    whole, *rest = evidence(labeller.record.task, logits, output).tolist()
    scores = iter(whole - without for without in rest)
    return Attribution(whole, [list(_spans(*each, scores)) for each in zip(texts, parts, strict=True)], grouped)


def evidence(task: Task, logits: np.ndarray, output: int) -> np.ndarray:
    """Return float64 (rows,): the log-odds of a label, or the number of a regression."""
    from scipy.special import logsumexp

    logits = finite_logits(task, logits)
    if task.problem in ("multi_label", "regression"):
        return logits[:, output]
    return logits[:, output] - logsumexp(np.delete(logits, output, axis=1), axis=1)


def _without(texts: Sequence[str], parts: Sequence[Sequence[tuple[int, int]]]) -> Iterator[list[str]]:
    """Yield the texts without each part in turn, and without the spaces on one side of it."""
    for index, text in enumerate(texts):
        for start, end in parts[index]:
            before, after = text[:start].rstrip(), text[end:]
            yield [*texts[:index], before + (after if before else after.lstrip()), *texts[index + 1 :]]


def _spans(text: str, parts: Sequence[tuple[int, int]], scores: Iterator[float]) -> Iterator[Span]:
    last = 0
    for start, end in parts:
        if start > last:
            yield Span(text[last:start], None)
        yield Span(text[start:end], next(scores))
        last = end
    if last < len(text):
        yield Span(text[last:], None)

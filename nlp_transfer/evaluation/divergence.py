"""How far two domains are apart: by the features of an encoder, and by nothing but how their texts are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nlp_transfer.evaluation.formatting import number
from nlp_transfer.linear.convex import validate_head
from nlp_transfer.wording import counted

_SHIFT = 0.4  # difference of shares from which two domains are written differently
_TRIED = 50  # texts that show whether the encoder sees it
_TOKENISED = re.compile(r"\s+(n't|'s|'re|'ve|'ll|'d|'m|[.,!?;])(?=\s|$)")


@dataclass(frozen=True)
class Gap:
    """How far the source and the target domain of a run are apart before it.

    Attributes:
        a_distance: the proxy A-distance, 0 to 2.
        error: of the classifier that tells them apart, where both domains count alike.
        source: texts of that domain which were asked about.
        target: the same of the other one.
        warnings: sentences on how the texts of one domain are written and those of the other are not.
    """

    a_distance: float
    error: float
    source: int
    target: int
    warnings: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        """What there is to say of it."""
        told = (
            f"Domains: by the features of the encoder before training, a linear classifier takes {self.error:.1%} of "
            f"{counted(self.source, 'training text')} and {counted(self.target, 'unlabelled text')} for ones of the "
            f"other domain: proxy A-distance {number(self.a_distance)} (0: alike, 2: wholly apart)."
        )
        return [told, *self.warnings]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def a_distance(source: np.ndarray, target: np.ndarray, *, seed: int) -> tuple[float, float] | None:
    r"""Return the proxy A-distance :math:`2 (1 - 2 \epsilon)` and the error :math:`\epsilon`.

    The error is that of a linear classifier under cross-validation, of either domain by half, so that the number of
    their texts does not matter (Ben-David et al. 2010, "A theory of learning from different domains", Machine Learning
    79). An error above one half is chance, and counts as one half.

    Args:
        source: features, (texts, width).
        target: the same of the other domain.
        seed: of the folds.

    Returns:
        Both numbers; None where there are too few texts to hold any out.
    """
    sizes = np.array([len(source), len(target)])
    if sizes.min() < 2:  # where the only text of a domain is held out, nothing tells what it looks like
        return None
    domain = np.repeat([0, 1], sizes)
    head = validate_head(
        np.concatenate([source, target]),
        np.eye(2, dtype=np.float32)[domain],
        1 / sizes[domain],
        loss="softmax",
        strata=domain,
        seed=seed,
    )
    outputs = head.outputs_held_out()
    if outputs is None:
        return None
    wrong = outputs.argmax(1) != domain
    error = min(0.5, float(wrong[domain == 0].mean() + wrong[domain == 1].mean()) / 2)
    return 2 * (1 - 2 * error), error


@dataclass(frozen=True)
class _Style:
    """A way to write that says nothing of a domain, how to undo it, and what to do about it."""

    texts: str
    undone: Callable[[str], str]
    advice: str


_STYLES = (
    _Style("have capital letters", str.lower, "write the texts of both in lower case, or take an uncased encoder"),
    _Style(
        "have spaces before punctuation, as tokenizers leave them",
        lambda text: _TOKENISED.sub(r"\1", text).replace("``", '"').replace("''", '"'),
        "join or split the words of both alike",
    ),
)


def written_apart(source: Sequence[str], target: Sequence[str], encode: Callable[[list[str]], np.ndarray]) -> list[str]:
    """Return a sentence for each way to write that the encoder sees and that nearly tells two domains apart.

    Args:
        source: texts of that domain.
        target: texts of the other.
        encode: to the token ids of all of some texts, one after the other; what does not change these is not seen.
    """
    found = []
    for style in _STYLES:
        shares, example = [], []
        for texts in (source, target):
            having = [text for text in texts if style.undone(text) != text]
            shares.append(len(having) / len(texts))
            example += having[:_TRIED]
        if abs(shares[0] - shares[1]) < _SHIFT:
            continue
        if np.array_equal(encode(example), encode([style.undone(text) for text in example])):
            continue
        found.append(
            f"warning: {shares[0]:.0%} of the training texts {style.texts}, {shares[1]:.0%} of the unlabelled ones: "
            f"this alone nearly tells the domains apart, and may be all that is made alike; {style.advice}."
        )
    return found

"""Distance between two domains: by an encoder's features, and by superficial differences in how texts are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nlp_transfer.evaluation.formatting import number
from nlp_transfer.linear.convex import cross_validate_head
from nlp_transfer.wording import counted

_STYLE_GAP = 0.4  # difference of shares from which two domains count as written differently
_PROBED = 50  # texts per domain that show whether the encoder sees the difference
_TOKENISED = re.compile(r"\s+(n't|'s|'re|'ve|'ll|'d|'m|[.,!?;])(?=\s|$)")


@dataclass(frozen=True)
class DomainGap:
    """How far the source and the target domain of a run are apart before training.

    Attributes:
        a_distance: the proxy A-distance, 0 to 2.
        error: the balanced error of the classifier that tells the domains apart.
        source: the number of source texts that were compared.
        target: the number of target texts that were compared.
        warnings: sentences on superficial differences between the domains' texts.
    """

    a_distance: float
    error: float
    source: int
    target: int
    warnings: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        """The report's sentences on it."""
        summary = (
            f"Domains: on features of the encoder before training, a linear classifier assigns {self.error:.1%} of "
            f"{counted(self.source, 'training text')} and {counted(self.target, 'unlabelled text')} to the wrong "
            f"domain: proxy A-distance {number(self.a_distance)} (0: identical, 2: fully separable)."
        )
        return [summary, *self.warnings]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def a_distance(source: np.ndarray, target: np.ndarray, *, seed: int) -> tuple[float, float] | None:
    r"""Return the proxy A-distance :math:`2 (1 - 2 \epsilon)` and the error :math:`\epsilon`.

    The error is that of a cross-validated linear classifier, averaged over the two domains so that their numbers of
    texts do not matter (Ben-David et al. 2010, "A theory of learning from different domains", Machine Learning 79). An
    error above one half is due to chance, and counts as one half.

    Args:
        source: features of source texts, (texts, width).
        target: features of target texts, likewise.
        seed: of the folds.

    Returns:
        Both numbers; None if there are too few texts to hold any out.
    """
    sizes = np.array([len(source), len(target)])
    if sizes.min() < 2:  # with its only text held out, a domain would have no training text
        return None
    domain = np.repeat([0, 1], sizes)
    head = cross_validate_head(
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
    """A superficial property of texts, how to normalise it away, and what to advise."""

    description: str
    normalise: Callable[[str], str]
    advice: str


_STYLES = (
    _Style("have capital letters", str.lower, "write the texts of both in lower case, or take an uncased encoder"),
    _Style(
        "have spaces before punctuation, as tokenizers leave them",
        lambda text: _TOKENISED.sub(r"\1", text).replace("``", '"').replace("''", '"'),
        "join or split the words of both alike",
    ),
)


def style_warnings(
    source: Sequence[str], target: Sequence[str], encode: Callable[[list[str]], np.ndarray]
) -> list[str]:
    """Return a warning for each superficial difference that the encoder sees and that nearly separates the domains.

    Args:
        source: texts of the source domain.
        target: texts of the target domain.
        encode: from texts to their concatenated token ids; the encoder does not see what does not change these.
    """
    warnings = []
    for style in _STYLES:
        shares, examples = [], []
        for texts in (source, target):
            affected = [text for text in texts if style.normalise(text) != text]
            shares.append(len(affected) / len(texts))
            examples += affected[:_PROBED]
        if abs(shares[0] - shares[1]) < _STYLE_GAP:
            continue
        if np.array_equal(encode(examples), encode([style.normalise(text) for text in examples])):
            continue
        warnings.append(
            f"warning: {shares[0]:.0%} of the training texts {style.description}, {shares[1]:.0%} of the unlabelled "
            f"ones: this alone nearly tells the domains apart, and may be all that is made alike; {style.advice}."
        )
    return warnings

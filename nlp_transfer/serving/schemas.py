"""What goes over the wire: a request, its answer, an error; read strictly, told in one sentence, never repeated."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.verb_settings import ServeSettings

_LONGEST = 80  # characters of a key that an error repeats

Texts = Annotated[list[str], Field(fail_fast=True)]  # one mistake is enough to tell, and a million take memory


class TooLarge(ValueError):
    """A request over one of the limits, which the message names."""


class SingleTexts(BaseModel):
    """Texts to label."""

    model_config = ConfigDict(extra="forbid")
    texts: Texts = Field(description="one answer each, in order")
    top_k: int | None = Field(
        None, ge=1, strict=True, description="so many probabilities a text, the largest first; null: all"
    )

    @property
    def columns(self) -> tuple[list[str], list[str] | None]:
        """The texts and, where the model reads two, their pairs."""
        return self.texts, None


class PairedTexts(SingleTexts):
    """Pairs of texts to label."""

    pairs: Texts = Field(description="the second text of each, as many as texts")

    @property
    def columns(self) -> tuple[list[str], list[str] | None]:
        """The texts and their pairs."""
        return self.texts, self.pairs


class Answered(BaseModel):
    """One text's answer."""

    label: str | list[str] | float = Field(description="a name; multi-label: a list of names; regression: a number")
    probabilities: dict[str, float] = Field(description="by label name; empty for regression")
    abstains: bool = Field(description="whether the highest probability is too low for the model's rule, if it has one")
    unknown: bool | None = Field(
        None, description="whether the text is unlike all the model knows; there only where it has a rule for that"
    )
    set: list[str] | None = Field(
        None, description="labels among which is the true one as often as the rule says; there only with that rule"
    )
    low: float | None = Field(None, description="regression: where the interval begins that the rule gives")
    high: float | None = Field(None, description="regression: where it ends")


class Answers(BaseModel):
    """One answer a text, in order."""

    predictions: list[Answered]


class Error(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="one sentence")


class Health(BaseModel):
    """Whether the server runs, and whether it takes requests."""

    live: bool
    ready: bool


class Info(BaseModel):
    """Which model answers, and what it takes."""

    model: str
    revision: str | None = Field(description="commit of the Hub; null for a model of this machine")
    sha256: str | None = Field(description="of the weights")
    problem: str = Field(description="single_label, multi_label, ordinal or regression")
    labels: list[str]
    pair: bool = Field(description="whether an example is two texts")
    limits: dict[str, float] = Field(description="of a request: texts, characters of a text, bytes, seconds")
    versions: dict[str, str]


def request_schema(kind: type[SingleTexts], limits: ServeSettings) -> dict[str, Any]:
    """Return the JSON schema of a request with the limits in it."""
    schema = kind.model_json_schema()
    for name in ("texts", "pairs"):
        if name in schema["properties"]:
            schema["properties"][name] |= {"maxItems": limits.texts}
            schema["properties"][name]["items"] |= {"maxLength": limits.characters}
    return schema


def read_request(kind: type[SingleTexts], body: bytes, limits: ServeSettings) -> SingleTexts:
    """Return a request as it was meant.

    Raises:
        TooLarge: if it is over a limit.
        UserError: if it is none. Only keys of it are repeated, no text.
    """
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise UserError(f"the body is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError('the body must be a JSON object: {"texts": ["..."]}')
    # Before pydantic would note each of them.
    if unknown := next((key for key in content if key not in kind.model_fields), None):
        known = ", ".join(kind.model_fields)
        hint = "" if unknown != "pairs" else "; the model was trained on single texts"
        close = did_you_mean(unknown[:_LONGEST], kind.model_fields)
        raise UserError(f"{unknown[:_LONGEST]!r} is not a known key{close}{hint}; known here: {known}")
    try:
        wanted = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    json.loads(body, object_pairs_hook=_refuse_second_values)  # of which the parser above takes the last
    texts, pairs = wanted.columns
    for name, column in (("texts", texts), ("pairs", pairs or [])):
        if len(column) > limits.texts:
            raise TooLarge(f"{name}: {len(column):,} are more than the {limits.texts:,} that a request may hold")
        for place, text in enumerate(column):
            if len(text) > limits.characters:
                raise TooLarge(
                    f"{name}.{place}: {len(text):,} characters are more than the {limits.characters:,} of a text"
                )
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"pairs: there are {len(pairs):,}, but {len(texts):,} texts; give one each")
    return wanted


def _refuse_second_values(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{twice} is given more than once; give it once")

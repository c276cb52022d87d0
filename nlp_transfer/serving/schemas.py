"""Schemas of requests and responses; requests are validated strictly, and errors never quote texts."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from nlp_transfer.errors import UserError, did_you_mean
from nlp_transfer.verb_settings import ServeSettings

_MAX_KEY = 80  # characters of a key that an error quotes

Texts = Annotated[list[str], Field(fail_fast=True)]  # report only the first error: a million would take memory


class TooLarge(ValueError):
    """A request that exceeds a limit, which the message names."""


class SingleTexts(BaseModel):
    """Texts to label."""

    model_config = ConfigDict(extra="forbid")
    texts: Texts = Field(description="the texts, answered in order")
    top_k: int | None = Field(
        None, ge=1, strict=True, description="number of probabilities per text, the largest first; null: all"
    )

    @property
    def columns(self) -> tuple[list[str], list[str] | None]:
        """The texts, and their pairs or None."""
        return self.texts, None


class PairedTexts(SingleTexts):
    """Pairs of texts to label."""

    pairs: Texts = Field(description="the second text of each pair, as many as texts")

    @property
    def columns(self) -> tuple[list[str], list[str] | None]:
        """The texts and their pairs."""
        return self.texts, self.pairs


class Answered(BaseModel):
    """The prediction for one text."""

    label: str | list[str] | float = Field(description="a name; multi-label: a list of names; regression: a number")
    probabilities: dict[str, float] = Field(description="by label name; empty for regression")
    abstains: bool = Field(description="whether the highest probability is too low for the model's rule, if it has one")
    unknown: bool | None = Field(
        None, description="whether the text is unlike the training texts; only for models with a rule for that"
    )
    set: list[str] | None = Field(
        None, description="a set of labels with the coverage of the model's rule; only for models with such a rule"
    )
    low: float | None = Field(None, description="regression: lower end of the prediction interval, if there is one")
    high: float | None = Field(None, description="regression: upper end of that interval")


class Answers(BaseModel):
    """One prediction per text, in order."""

    predictions: list[Answered]


class Error(BaseModel):
    """An error response."""

    error: str = Field(description="one sentence")


class Health(BaseModel):
    """Whether the server runs, and whether it accepts requests."""

    live: bool
    ready: bool


class Info(BaseModel):
    """The served model, its labels and the limits of a request."""

    model: str
    revision: str | None = Field(description="commit on the Hub; null for a local model")
    sha256: str | None = Field(description="of the weights")
    problem: str = Field(description="single_label, multi_label, ordinal or regression")
    labels: list[str]
    pair: bool = Field(description="whether an example is a pair of texts")
    limits: dict[str, float] = Field(description="of a request: texts, characters per text, bytes, seconds")
    versions: dict[str, str]


def request_schema(kind: type[SingleTexts], limits: ServeSettings) -> dict[str, Any]:
    """Return the JSON schema of a request, including the limits."""
    schema = kind.model_json_schema()
    for name in ("texts", "pairs"):
        if name in schema["properties"]:
            schema["properties"][name] |= {"maxItems": limits.texts}
            schema["properties"][name]["items"] |= {"maxLength": limits.characters}
    return schema


def read_request(kind: type[SingleTexts], body: bytes, limits: ServeSettings) -> SingleTexts:
    """Parse and validate the body of a request.

    Raises:
        TooLarge: if it exceeds a limit.
        UserError: if it is invalid. The message quotes keys, but no text.
    """
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise UserError(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError('the body must be a JSON object: {"texts": ["..."]}')
    # Checked before pydantic, which would collect an error for each of them.
    if unknown := next((key for key in content if key not in kind.model_fields), None):
        known = ", ".join(kind.model_fields)
        hint = "" if unknown != "pairs" else "; the model was trained on single texts"
        close = did_you_mean(unknown[:_MAX_KEY], kind.model_fields)
        raise UserError(f"{unknown[:_MAX_KEY]!r} is not a known key{close}{hint}; known here: {known}")
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    json.loads(body, object_pairs_hook=_refuse_second_values)  # the parser above takes the last of them
    texts, pairs = request.columns
    for name, column in (("texts", texts), ("pairs", pairs or [])):
        if len(column) > limits.texts:
            raise TooLarge(f"{name}: {len(column):,} are more than the {limits.texts:,} allowed per request")
        for index, text in enumerate(column):
            if len(text) > limits.characters:
                raise TooLarge(
                    f"{name}.{index}: {len(text):,} characters are more than the {limits.characters:,} allowed per text"
                )
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"pairs: there are {len(pairs):,}, but {len(texts):,} texts; give one for each text")
    return request


def _refuse_second_values(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{twice} is given more than once; give it once")

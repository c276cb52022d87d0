"""Make a model and its tokenizer compatible: padding, inputs, vocabulary, and the maximum text length."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from nlp_transfer.encoder import pooled
from nlp_transfer.encoder.anatomy import is_causal, takes_segments, word_embeddings
from nlp_transfer.encoder.pooled_config import encoder_config
from nlp_transfer.encoder.source import RECORD, read_json
from nlp_transfer.errors import UserError

_UNLIMITED = 1 << 30  # tokens; models with relative positions have no maximum


def align(model: Any, tokenizer: Any, folder: Path) -> None:
    """Make model and tokenizer use the same padding token and the same inputs.

    Raises:
        UserError: naming the folder, if there is no padding token, the tokenizer has tokens without embeddings, or
            the architecture cannot read texts of different lengths.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"{folder / 'tokenizer_config.json'} names neither a padding nor an end token; in a local copy of the "
                "folder, add one of the tokenizer's tokens as pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    _check_words(model, tokenizer, folder)
    described = encoder_config(model.config)
    if described.model_type == "reformer":
        raise UserError(
            f"{folder}: a Reformer learns from texts of one length alone, and has another number of states than "
            "tokens; choose another encoder"
        )
    # A decoder finds the last token of a text by this id. In other models it belongs to the embeddings and is kept.
    for part in (model.config, model.config.get_text_config()):
        if getattr(part, "pad_token_id", None) is None or is_causal(described):
            part.pad_token_id = tokenizer.pad_token_id
    pooled.read_once(model.config)
    accepted = inspect.signature(type(getattr(model, model.base_model_prefix)).forward).parameters
    if "token_type_ids" not in accepted or not takes_segments(described):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]


def min_tokens(model: Any) -> int:
    """Return the minimum length of a row, padding included.

    CANINE downsamples several tokens to one state; Funnel halves their number before every block but the first.
    """
    config = encoder_config(model.config)
    if config.model_type == "funnel":
        return int(2 ** (config.num_blocks - 1)) + 1
    return getattr(config, "downsampling_rate", 1)


def _check_words(model: Any, tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer with ids beyond the word embeddings, as when tokens were added to the tokenizer only.

    Special tokens that no text receives are exempt.

    Raises:
        UserError: naming the folder and one of the tokens.
    """
    table = word_embeddings(model)
    rows = len(tokenizer) if table is None else table.num_embeddings
    if len(tokenizer) <= rows:
        return
    given = {tokenizer.pad_token_id, *tokenizer("a", "a")["input_ids"]}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special} - given
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if unknown := sorted(beyond.keys() - special):
        raise UserError(
            f"{folder}: the tokenizer has tokens that the encoder knows nothing of, such as {beyond[unknown[0]]!r} (id "
            f"{unknown[0]}, of {rows:,} word embeddings); save the encoder after "
            "`model.resize_token_embeddings(len(tokenizer))`, or take what was added out of the tokenizer's files"
        )


def max_tokens(model: Any, tokenizer: Any, folder: Path) -> int:
    """Return the maximum number of tokens that a model takes, special tokens included."""
    described = encoder_config(model.config)
    # In a model saved by this package, the tokenizer's limit is that of its token settings, not of the encoder.
    limits = [read_json(folder / RECORD).get("max_tokens", tokenizer.model_max_length)]
    positions = getattr(described, "max_position_embeddings", None)
    if positions is not None and positions > 0:  # XLNet says -1
        limits.append(positions)
    for name, module in model.named_modules():
        # RoBERTa and its relatives count positions from the padding index on.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return int(min(*limits, _UNLIMITED))

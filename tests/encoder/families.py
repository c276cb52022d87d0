"""Tiny random encoders of many families with a generated tokenizer, for every test that needs a real model folder.

``tiny_encoder(folder, "bert")`` writes what ``AutoModel.save_pretrained`` and the tokenizer write: config, safetensors,
tokenizer. Width 32, two layers, a vocabulary of about 150 pieces: a forward and backward pass takes milliseconds.
"""

from __future__ import annotations

import functools
import inspect
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, BertModel, PreTrainedTokenizerFast

_TEXT = """
my card has not arrived yet please refund the order is late good bad great terrible movie film love hate it when will
where how can you help cancel account password reset delivery payment was charged twice thanks a an the and or not
"""
WORDS = _TEXT.split()
TEXTS = ["my card has not arrived yet", "refund", "where is the order? it was charged twice, please help", "good movie"]

# PEFT up to 0.21 gives a prefix under a name that transformers 5.24 has changed; PEFT looks at the signature as well.
PREFIXES_FIT = "past_key_values" in inspect.signature(BertModel.forward).parameters

# What differs from COMMON in each family; "tokenizer" names the style of special tokens (see tiny_tokenizer).
WORDPIECE, ROBERTA, DECODER, LLAMA, SEQ2SEQ, XLNET = "wordpiece", "roberta", "decoder", "llama", "seq2seq", "xlnet"
COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": (WORDPIECE, {}),
    "roberta": (ROBERTA, {"type_vocab_size": 1}),
    "xlm-roberta": (ROBERTA, {"type_vocab_size": 1}),
    "xlm-roberta-xl": (ROBERTA, {}),
    "camembert": (ROBERTA, {"type_vocab_size": 1}),
    "data2vec-text": (ROBERTA, {}),
    "distilbert": (WORDPIECE, {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
    "electra": (WORDPIECE, {"embedding_size": 16}),
    "albert": (WORDPIECE, {"embedding_size": 16}),
    "mpnet": (WORDPIECE, {}),
    "deberta": (WORDPIECE, {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32}),
    "deberta-v2": (
        WORDPIECE,
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "pooler_hidden_size": 32},
    ),
    "modernbert": (WORDPIECE, {"local_attention": 8, "cls_token_id": 2, "sep_token_id": 3}),
    "eurobert": (LLAMA, {**_GROUPED, "mask_token_id": 5}),
    "gte": (WORDPIECE, {}),
    "nomic_bert": (WORDPIECE, {}),
    "xlnet": (XLNET, {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
    "longformer": (ROBERTA, {"attention_window": 8}),
    "big_bird": (WORDPIECE, {"attention_type": "original_full"}),
    "rembert": (WORDPIECE, {"input_embedding_size": 16, "output_embedding_size": 16}),
    "funnel": (
        WORDPIECE,
        {
            "architectures": ["FunnelModel"],
            "d_model": 32,
            "n_head": 2,
            "d_head": 16,
            "d_inner": 64,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
    ),
    "mobilebert": (
        WORDPIECE,
        {"embedding_size": 32, "intra_bottleneck_size": 16, "num_attention_heads": 2, "num_feedforward_networks": 1},
    ),
    "convbert": (WORDPIECE, {"embedding_size": 32}),
    "roformer": (WORDPIECE, {"embedding_size": 32}),
    "squeezebert": (WORDPIECE, {"embedding_size": 32}),
    "fnet": (WORDPIECE, {}),
    "nystromformer": (WORDPIECE, {"num_landmarks": 64, "segment_means_seq_len": 64}),
    "ernie": (WORDPIECE, {}),
    "megatron-bert": (WORDPIECE, {}),
    "esm": (WORDPIECE, {"position_embedding_type": "rotary", "token_dropout": False}),
    "xlm": (WORDPIECE, {"emb_dim": 32, "n_layers": 2, "n_heads": 2}),
    "flaubert": (WORDPIECE, {"emb_dim": 32, "n_layers": 2, "n_heads": 2}),
    "gpt2": (DECODER, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    "gpt_neox": (DECODER, {}),
    "opt": (DECODER, {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "llama": (LLAMA, _GROUPED),
    "qwen2": (DECODER, _GROUPED),
    "qwen3": (DECODER, _GROUPED),
    "gemma3_text": (LLAMA, {**_GROUPED, "sliding_window": 16}),
    "gemma3": (
        LLAMA,
        {
            "text_config": {**COMMON, **_GROUPED, "sliding_window": 16},
            "vision_config": {**COMMON, "image_size": 8, "patch_size": 4},
            "mm_tokens_per_image": 4,
        },
    ),
    "ctrl": (DECODER, {"n_embd": 32, "n_layer": 2, "n_head": 2, "dff": 64, "n_positions": 64}),
    "jamba": (
        LLAMA,
        {
            **_GROUPED,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "t5": (SEQ2SEQ, {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}),
    "bart": (
        ROBERTA,
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
        },
    ),
}


def tiny_encoder(folder: Path, family: str = "bert", *, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny random ``AutoModel`` of `family` with its tokenizer under `folder`; return where it lies.

    `overrides` go into the config, e.g. ``num_hidden_layers=3``.
    """
    target = Path(folder) / f"tiny-{family}"
    config = tiny_config(family, **overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(config)
    model.save_pretrained(target)
    tiny_tokenizer(FAMILIES[family][0]).save_pretrained(target)
    return target


def tiny_config(family: str, **overrides: Any) -> Any:
    """The two-layer configuration of `family`, its special ids those of its tiny tokenizer."""
    style, own = FAMILIES[family]
    tokenizer = tiny_tokenizer(style)
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if style != WORDPIECE else tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id if style != WORDPIECE else tokenizer.sep_token_id,
    }
    if style == SEQ2SEQ or family == "bart":
        ids["decoder_start_token_id"] = tokenizer.pad_token_id if style == SEQ2SEQ else tokenizer.eos_token_id
    # These name their sizes differently, and have no longest input.
    common = {} if family in ("xlnet", "funnel", "t5") else COMMON
    if "text_config" in own:  # what is asked for is of the text
        return AutoConfig.for_model(family, **{**own, "text_config": {**own["text_config"], **ids, **overrides}})
    return AutoConfig.for_model(family, **{**common, **ids, **own, **overrides})


@functools.cache
def tiny_tokenizer(style: str = WORDPIECE) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer of about 150 pieces that can spell any printable ASCII text."""
    named = _SPECIALS[style]
    specials = list(dict.fromkeys(named.values()))
    tokenizer = _wordpiece(specials) if style == WORDPIECE else _bpe(specials, unknown=named.get("unk_token"))
    single, pair = _TEMPLATES[style]
    if single:
        used = [token for token in specials if token in {part.split(":")[0] for part in f"{single} {pair}".split()}]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[(token, tokenizer.token_to_id(token)) for token in used]
        )
    side = "left" if style == XLNET else "right"  # XLNet reads the last token
    inputs = ["input_ids", *(["token_type_ids"] if style in (WORDPIECE, XLNET) else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, padding_side=side, model_input_names=inputs, **named
    )


_SPECIALS = {
    WORDPIECE: {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    ROBERTA: {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    },
    DECODER: {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},  # no padding token, as GPT-2
    LLAMA: {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},  # no padding token, as Llama
    SEQ2SEQ: {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    XLNET: {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "<cls>",
        "sep_token": "<sep>",
        "eos_token": "</s>",
    },
}
_TEMPLATES = {
    WORDPIECE: ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    ROBERTA: ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    DECODER: ("", ""),
    LLAMA: ("<s> $A", "<s> $A $B"),
    SEQ2SEQ: ("$A </s>", "$A </s> $B </s>"),
    XLNET: ("$A <sep> <cls>:2", "$A <sep> $B:1 <sep>:1 <cls>:2"),
}


def _wordpiece(specials: list[str]) -> Tokenizer:
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*specials, *characters, *("##" + c for c in string.ascii_lowercase + string.digits), *WORDS]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _bpe(specials: list[str], *, unknown: str | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    characters = ["Ġ", *string.ascii_lowercase, *string.digits, *string.punctuation]
    trainer = trainers.BpeTrainer(
        vocab_size=160, special_tokens=specials, initial_alphabet=characters, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return tokenizer

"""The pieces that speed.py measures, ours and the peers', each in a process of its own.

    python recipes/benchmarks/speed_peers.py '{"piece": "trainer", ...}'

Its argument is a job, its last line on standard output the result, or why there is none. Everything is imported before
the clock starts; reading the files, loading the model and measuring on the held-out rows lie within `cpu` and `wall`,
for all alike. `steady_cpu` and `steady_wall` are those of the optimizer steps after the first `skip`. `peak_mb` is the
largest resident memory of the whole process, imports and all (`getrusage`), for there is nothing else in it.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

MOST_TOKENS = 128  # of a text, for all
ENCODE_BATCH = 32  # sentence-transformers' own default
COMPARED = 64  # texts whose vectors are compared with those of transformers in fp32
# shape -> what differs from BertConfig's defaults, which are BERT base
SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "vocabulary": {"vocab_size": 250_002},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
}

Job = dict[str, Any]
Result = dict[str, Any]


class Missing(Exception):
    """A peer is not installed."""


def need(*modules: str) -> None:
    """Import modules before the clock starts, or say which are not installed."""
    if missing := [name for name in modules if importlib.util.find_spec(name.split(".")[0]) is None]:
        raise Missing(f"{', '.join(missing)} not installed")
    for name in modules:
        importlib.import_module(name)


class Stopwatch:
    """Processor and wall time of a block, and of the optimizer steps in it."""

    def __enter__(self) -> Stopwatch:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.steps: list[np.ndarray] = []
        self.hook = register_optimizer_step_post_hook(lambda *_: self.steps.append(self.now()))
        self.start = self.now()
        return self

    def __exit__(self, *_: object) -> None:
        self.end = self.now()
        self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.hook.remove()

    @staticmethod
    def now() -> np.ndarray:
        """Return processor and wall time."""
        return np.array([time.process_time(), time.perf_counter()])

    def result(self, job: Job, **more: Any) -> Result:
        """Return the figures of a block that read `job["rows"]` texts a pass."""
        cpu, wall = self.end - self.start
        found = {"cpu": float(cpu), "wall": float(wall), "peak_mb": self.peak_mb, "steps": len(self.steps)}
        if "skip" in job:
            if len(self.steps) <= job["skip"]:
                raise RuntimeError(f"{len(self.steps)} optimizer steps were seen, more than {job['skip']} expected")
            cpu, wall = self.steps[-1] - self.steps[job["skip"] - 1]
            examples = (len(self.steps) - job["skip"]) * job["batch"]
            found |= {"steady_cpu": float(cpu), "steady_wall": float(wall), "steady_examples": examples}
        return found | more


def texts_of(folder: str, split: str) -> list[str]:
    """Return the texts of a split."""
    with (Path(folder) / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
        return [row["text"] for row in csv.DictReader(lines)]


def token_statistics(job: Job) -> Result:
    """Return what a training text costs: tokens, their squares (attention), and the layers that read them."""
    from tokenizers import Tokenizer

    encoder = Path(job["encoder"])
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = tokenizer.encode_batch(texts_of(job["data"], "train"))
    lengths = np.minimum([len(text.ids) for text in encoded], MOST_TOKENS).astype(float)
    config = json.loads((encoder / "config.json").read_text())
    return {
        "tokens": float(lengths.mean()),
        "squares": float(np.square(lengths).mean()),
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
    }


# --- ours


def our_settings(job: Job, **more: Any) -> Any:
    """Return the settings of one of our runs."""
    from nlp_transfer.config import compose
    from nlp_transfer.words import from_mapping

    # The embedded encoder by its own name; what is made here has a folder.
    encoder = {} if job["model"] == "minilm" else {"encoder": "custom", "encoder.name": job["encoder"]}
    values = {
        "data": "files",
        "data.path": job["data"],
        "data.unseen": "ignore",
        "data.empty": "drop",
        "seed": job["seed"],
        "tokens.max_length": MOST_TOKENS,
        "training.epochs": job["epochs"],
        "training.batch_size": job["batch"],
        "training.evaluate_every": job["epochs"],
        "training.keep": "last",
        "checkpoint.seconds": 3600,
        "evaluation.floors": False,
        "evaluation.resamples": 2,
        "output": job["scratch"],
        **encoder,
        **job["words"],
        **more,
    }
    return compose(None, from_mapping(values))


def ours(job: Job) -> Result:
    """Adapt with our package; with `again`, the same command once more, which may use what the first one kept."""
    need("nlp_transfer.run", "transformers.models.bert.modeling_bert", "sklearn.metrics", "scipy.optimize")
    if job["words"]["strategy"] == "lora":
        need("peft")
    from nlp_transfer.run import adapt

    if job.get("again"):
        adapt(our_settings(job))
    with Stopwatch() as watch:
        run = adapt(our_settings(job, overwrite=True))
    lines = (
        [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()] if watch.steps else []
    )
    losses = [line["loss"] for line in lines if "loss" in line]
    loss = float(np.mean(losses)) if losses else None
    return watch.result(job, accuracy=run.metrics["accuracy"], loss=loss, **token_statistics(job))


def our_predictions(job: Job) -> Result:
    """Label texts with a saved model, as a program would."""
    need("nlp_transfer.predict", "transformers.models.bert.modeling_bert", "sklearn.metrics")
    import nlp_transfer

    predictor = nlp_transfer.load(job["trained"])
    texts = texts_of(job["data"], "train")
    predictor.predict(texts[:ENCODE_BATCH])
    with Stopwatch() as watch:
        predictor.predict(texts)
    return watch.result(job, **token_statistics(job))


def our_features(job: Job) -> Result:
    """Compute the features of texts that are read and turned into token ids already."""
    need("nlp_transfer.preparation", "transformers.models.bert.modeling_bert")
    from nlp_transfer.data.corpus import load_corpus
    from nlp_transfer.preparation import prepare

    more = {"encoder.head": "pooled", "encoder.layers": "last"}
    settings = our_settings(job, **more)
    prepared = prepare(settings, load_corpus(settings.data, seed=job["seed"]), Path(job["scratch"]))
    prepared.features("validation")
    with Stopwatch() as watch:
        vectors = prepared.features("train")
    return watch.result(job, cosine=cosine(job, vectors), **token_statistics(job))


def our_growth(job: Job) -> Result:
    """Measure one of our verbs on generated texts: `adapt`, or `predict` on rows of a file of their own."""
    if job["verb"] != "predict":
        return ours(job)
    need("nlp_transfer.run", "nlp_transfer.predict", "transformers.models.bert.modeling_bert", "sklearn.metrics")
    import nlp_transfer
    from nlp_transfer.run import adapt

    predictor = nlp_transfer.load(adapt(our_settings(job)).folder)
    texts = texts_of(job["data"], "predict")
    predictor.predict(texts[:ENCODE_BATCH])
    with Stopwatch() as watch:
        predictor.predict(texts)
    return watch.result(job)


# --- transformers' Trainer


def trainer(job: Job) -> Result:
    """Train as transformers' run_classification.py does: default settings, or the `variant` of them."""
    need("datasets", "transformers.trainer", "transformers.models.bert.modeling_bert")
    if job["strategy"] == "lora":
        need("peft")
    with Stopwatch() as watch:
        peer, data = build_trainer(job)
        peer.data_collator = seen = Seen(peer.data_collator)
        loss = peer.train().training_loss
        tokens = list(seen.tokens)
        found = peer.predict(data["test"])
        accuracy = float((found.predictions.argmax(1) == found.label_ids).mean())
    result = watch.result(job, accuracy=accuracy, loss=loss, **token_statistics(job))
    if "skip" in job:  # sorted by length, steps differ: count texts of the mean length
        result["steady_examples"] = sum(tokens[job["skip"] : result["steps"]]) / result["tokens"]
    return result


class Seen:
    """A collator that notes how many real tokens a batch has."""

    def __init__(self, collator: Callable[[Any], Any]) -> None:
        self.collator, self.tokens = collator, list[int]()

    def __call__(self, rows: Any) -> Any:
        """Return the batch."""
        batch = self.collator(rows)
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch


def build_trainer(job: Job, **more: Any) -> tuple[Any, Any]:
    """Return the Trainer and its data sets."""
    import torch
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        default_data_collator,
        set_seed,
    )

    variant, folder = job["variant"], Path(job["data"])
    set_seed(job["seed"])
    data = load_dataset("csv", data_files={split: str(folder / f"{split}.csv") for split in ("train", "test")})
    names = sorted(set(data["train"]["label"]))
    numbers = {name: number for number, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(job["encoder"])

    def encode(rows: Any) -> Any:
        padding = False if variant["dynamic"] else "max_length"
        encoded = tokenizer(rows["text"], padding=padding, max_length=MOST_TOKENS, truncation=True)
        return {**encoded, "labels": [numbers[name] for name in rows["label"]]}

    data = data.map(encode, batched=True, remove_columns=["text", "label"])
    model = AutoModelForSequenceClassification.from_pretrained(job["encoder"], num_labels=len(names), dtype="float32")
    peer = Trainer(
        model=learning(model, job["strategy"]),
        args=TrainingArguments(
            output_dir=job["scratch"],
            num_train_epochs=job["epochs"],
            per_device_train_batch_size=job["batch"],
            per_device_eval_batch_size=64,
            learning_rate=job["lr"],
            weight_decay=0.01,
            warmup_steps=0.1,
            bf16=variant["bf16"],
            train_sampling_strategy="group_by_length" if variant["grouped"] else "random",
            save_strategy="no",
            seed=job["seed"],
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **more,
        ),
        train_dataset=data["train"],
        data_collator=DataCollatorWithPadding(tokenizer) if variant["dynamic"] else default_data_collator,
    )
    return peer, data


def learning(model: Any, strategy: str) -> Any:
    """Return the model with what a strategy trains of it."""
    if strategy == "lora":
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
        return get_peft_model(model, lora)
    if strategy == "frozen":
        model.base_model.requires_grad_(False)
    if strategy == "top_layer":
        model.base_model.embeddings.requires_grad_(False)
        model.base_model.encoder.layer[:-1].requires_grad_(False)
    return model


def choose(job: Job) -> Result:
    """Return the Trainer's fastest settings for a job: dynamic padding, fp32 or bf16, texts of like length together."""
    need("datasets", "transformers.trainer", "transformers.models.bert.modeling_bert")
    if job["strategy"] == "lora":
        need("peft")
    best = {"dynamic": True, "bf16": False, "grouped": False}
    seconds: dict[str, float] = {}
    changes: list[dict[str, bool]] = [{}, {"bf16": False}, {"bf16": True}]
    if job["rows"] >= 8 * job["batch"]:  # with fewer batches nothing is grouped
        changes.append({"grouped": True})
    for change in changes:
        variant = best | change
        peer, _ = build_trainer(job | {"variant": variant})
        with Stopwatch() as watch:
            peer.train()
        cpu = watch.result(job)["cpu"]
        if not change:  # the first training of a process is slower
            continue
        if not seconds or cpu < min(seconds.values()):
            best = variant
        seconds[" ".join(name for name, on in variant.items() if on)] = cpu
    return {"variant": best, "seconds": seconds}


def script(job: Job) -> Result:
    """Take one optimizer step as run_classification.py does, with what it imports; write a file when it is taken."""
    need("datasets", "evaluate", "sklearn", "transformers.trainer")
    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            Path(job["told"]).write_text("1")

    peer, _ = build_trainer(job, max_steps=1)
    peer.add_callback(Tell())
    peer.train()
    return {}


# --- sentence encoders


def sentences(job: Job) -> Result:
    """Encode with sentence-transformers."""
    need("sentence_transformers")
    model = sentence_model(job)
    return encoding(job, lambda texts: model.encode(texts, batch_size=ENCODE_BATCH))


def sentence_model(job: Job) -> Any:
    """Return the model of sentence-transformers in the precision of the job."""
    from sentence_transformers import SentenceTransformer

    kwargs = {"dtype": "bfloat16" if job["variant"]["bf16"] else "float32"}
    model = SentenceTransformer(job["encoder"], model_kwargs=kwargs)
    model.max_seq_length = MOST_TOKENS
    return model


def setfit(job: Job) -> Result:
    """Fit scikit-learn's logistic regression to sentence embeddings, as SetFit's head is."""
    need("sentence_transformers", "sklearn.linear_model")
    from sklearn.linear_model import LogisticRegression

    with Stopwatch() as watch:
        model = sentence_model(job)
        labels: dict[str, list[str]] = {}
        vectors: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            with (Path(job["data"]) / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
                rows = list(csv.DictReader(lines))
            labels[split] = [row["label"] for row in rows]
            vectors[split] = model.encode([row["text"] for row in rows], batch_size=ENCODE_BATCH)
        head = LogisticRegression(max_iter=1000).fit(vectors["train"], labels["train"])
        accuracy = float(head.score(vectors["test"], labels["test"]))
    return watch.result(job, accuracy=accuracy, **token_statistics(job))


def onnx_int8(job: Job) -> Result:
    """Encode with ONNX Runtime, weights and activations quantised to int8 as they come."""
    need("onnx", "onnxscript", "onnxruntime.quantization")
    import torch
    from onnxruntime import InferenceSession, SessionOptions
    from onnxruntime.quantization import quantize_dynamic

    exported, quantised = (str(Path(job["scratch"]) / f"{name}.onnx") for name in ("fp32", "int8"))
    sizes = {0: "texts", 1: "tokens"}
    ids = torch.ones(2, 8, dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    axes = {name: sizes for name in [*names, "states"]}
    torch.onnx.export(
        plain_model(job),
        (ids, ids),
        exported,
        input_names=names,
        output_names=["states"],
        dynamic_axes=axes,
        dynamo=False,
    )
    quantize_dynamic(exported, quantised)
    options = SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    return encoding(job, pooled(job, lambda rows: session.run(["states"], {name: rows[name] for name in names})[0]))


def openvino_int8(job: Job) -> Result:
    """Encode with OpenVINO, quantised to int8 over the validation texts."""
    need("openvino", "nncf")
    import nncf
    import openvino
    import torch

    ids = torch.ones(2, 8, dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    model = openvino.convert_model(plain_model(job), example_input=(ids, ids))
    samples = [
        [rows[name] for name in names] for rows in tokenized(job, texts_of(job["data"], "validation"), ENCODE_BATCH)
    ]
    quantised = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER)
    compiled = openvino.compile_model(quantised, "CPU", {"INFERENCE_NUM_THREADS": job["threads"]})
    return encoding(job, pooled(job, lambda rows: compiled([rows[name] for name in names])[0]))


def encoding(job: Job, encode: Callable[[list[str]], np.ndarray]) -> Result:
    """Measure a function from texts to vectors."""
    texts = texts_of(job["data"], "train")
    encode(texts[:ENCODE_BATCH])
    with Stopwatch() as watch:
        vectors = encode(texts)
    return watch.result(job, cosine=cosine(job, vectors), **token_statistics(job))


def plain_model(job: Job) -> Any:
    """Return the encoder as a function of ids and mask to its last states."""
    import torch
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(job["encoder"], dtype="float32", attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    return States().eval()


@cache
def tokenizer_of(folder: str) -> Any:
    """Return the tokenizer of an encoder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def tokenized(job: Job, texts: Sequence[str], batch: int) -> list[Any]:
    """Return batches of ids and masks in the order given, padded to their longest."""
    tokenizer = tokenizer_of(job["encoder"])
    return [
        tokenizer(
            list(texts[at : at + batch]), padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="np"
        )
        for at in range(0, len(texts), batch)
    ]


def pooled(job: Job, states_of: Callable[[Any], np.ndarray]) -> Callable[[list[str]], np.ndarray]:
    """Return a function from texts to mean-pooled vectors, which reads texts of like length together."""

    def encode(texts: list[str]) -> np.ndarray:
        order = np.argsort([len(text) for text in texts], kind="stable")
        rows: list[np.ndarray] = []
        for batch in tokenized(job, [texts[place] for place in order], ENCODE_BATCH):
            mask = batch["attention_mask"][:, :, None]
            rows.extend((states_of(batch) * mask).sum(1) / mask.sum(1))
        vectors = np.empty((len(texts), len(rows[0])), np.float32)
        vectors[order] = rows
        return vectors

    return encode


def cosine(job: Job, vectors: np.ndarray) -> float:
    """Return how far the first texts' vectors are from those of transformers in fp32 at worst; 1: not at all."""
    import torch

    model = plain_model(job)

    def states_of(rows: Any) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(rows["input_ids"]), torch.from_numpy(rows["attention_mask"])).numpy()

    right = pooled(job, states_of)(texts_of(job["data"], "train")[:COMPARED])
    given = np.asarray(vectors[:COMPARED], np.float32)
    norms = np.linalg.norm(right, axis=1) * np.linalg.norm(given, axis=1)
    return float(((right * given).sum(1) / norms).min())


# --- what the others need


def gemm(job: Job) -> Result:
    """Return GFLOP/s of the linear layers of two shapes, forward, over 2,048 tokens: the best of many."""
    import torch

    clock = time.process_time if job["threads"] == 1 else time.perf_counter
    rates: Result = {}
    for width in (384, 768):
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            work = seconds = 0.0
            for inner, outer, count in ((width, width, 4), (width, 4 * width, 1), (4 * width, width, 1)):
                states, weight = torch.randn(2048, inner).to(dtype), torch.randn(outer, inner).to(dtype)
                times = []
                for _ in range(20):
                    started = clock()
                    torch.nn.functional.linear(states, weight)
                    times.append(clock() - started)
                seconds += count * min(times)
                work += count * 2 * 2048 * inner * outer
            rates[f"{name}_{width}"] = work / seconds / 1e9
    return rates


def make(job: Job) -> Result:
    """Make an encoder of random weights with MiniLM's tokenizer."""
    from transformers import BertConfig, BertModel

    folder = Path(job["folder"])
    BertModel(BertConfig(**SHAPES[job["shape"]])).save_pretrained(folder)
    for path in Path(job["tokenizer"]).iterdir():
        if path.is_file() and path.name.startswith(("token", "special_tokens", "vocab")):
            shutil.copy(path, folder)
    return {}


PIECES: dict[str, Callable[[Job], Result]] = {
    piece.__name__: piece
    for piece in (
        *(ours, our_predictions, our_features, our_growth),
        *(trainer, choose, script),
        *(sentences, setfit, onnx_int8, openvino_int8),
        *(gemm, make),
    )
}


def main() -> None:
    """Measure one piece."""
    job = json.loads(sys.argv[1])
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as scratch:
        try:
            import torch

            torch.set_num_threads(job["threads"])
            result = PIECES[job["piece"]](job | {"scratch": scratch})
        except Missing as missing:
            result = {"skipped": str(missing)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Peers: ONNX Runtime and OpenVINO with their defaults and in int8; texts of similar length are batched together."""

from __future__ import annotations

from pathlib import Path

from recipes.benchmarks.timing.encoders import encoding, plain_model, pooled, tokenized
from recipes.benchmarks.timing.stopwatch import Job, Result, need, read_split

INPUTS = ["input_ids", "attention_mask"]


def onnx(job: Job) -> Result:
    """Encode with ONNX Runtime; with the job's `int8`, weights and activations are quantised.

    Quantisation is per channel, which is as fast and closer to fp32; fusing layers first was not faster.
    """
    need("onnx", "onnxscript", "onnxruntime", *["onnxruntime.quantization"] * job["int8"])
    import torch
    from onnxruntime import InferenceSession, SessionOptions

    path = str(Path(job["scratch"]) / "model.onnx")
    ids = torch.ones(2, 8, dtype=torch.int64)
    axes = {name: {0: "texts", 1: "tokens"} for name in [*INPUTS, "states"]}
    torch.onnx.export(
        plain_model(job),
        (ids, ids),
        path,
        input_names=INPUTS,
        output_names=["states"],
        dynamic_axes=axes,
        dynamo=False,
    )
    if job["int8"]:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(path, path := path.replace("model", "int8"), per_channel=True)
    options = SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return encoding(job, pooled(job, lambda rows: session.run(["states"], {name: rows[name] for name in INPUTS})[0]))


def openvino(job: Job) -> Result:
    """Encode with OpenVINO; with the job's `int8`, quantised with the validation texts as calibration data."""
    need("openvino", *["nncf"] * job["int8"])
    import openvino
    import torch

    ids = torch.ones(2, 8, dtype=torch.int64)
    model = openvino.convert_model(plain_model(job), example_input=(ids, ids))
    if job["int8"]:
        import nncf

        samples = [[rows[name] for name in INPUTS] for rows in tokenized(job, read_split(job["data"], "validation"))]
        model = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": job["threads"]})
    return encoding(job, pooled(job, lambda rows: compiled([rows[name] for name in INPUTS])[0]))

"""Requests per second and latency of `nlp-transfer serve`, compared with one forward pass per request.

    python recipes/benchmarks/serving.py DATA_FOLDER [--run RUN] [--clients 1 8 32] [--seconds 5] [--repeats 3]
        [--load 30]

DATA_FOLDER has the data set banking77: a folder with train, validation and test files. Without --run, MiniLM is
fine-tuned on it for 20 steps. Clients are threads of this process; each keeps one connection open and sends one text
per request, the next as soon as the response has arrived. The naive server is FastAPI and uvicorn as well, with
`Predictor.predict` in a route: one forward pass per request, in the threads of the library. Both servers run all the
time and are measured in turn; the table has the medians of the repeats. Afterwards `serve` is put under load for --load
seconds with requests of 1 to 16 texts: every response is compared with `Predictor.predict`, and the server's memory is
read before, halfway and after.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from nlp_transfer.decision.labelling import Prediction
from nlp_transfer.predicting.predict import Predictor
from recipes.benchmarks.timing import machine
from recipes.benchmarks.timing.command import MINIMAL_WORDS, data_parser
from recipes.benchmarks.timing.rows import read_texts
from recipes.benchmarks.timing.tables import markdown_header, markdown_row

RUN_WORDS = ("data=files", "data.unseen=ignore", "training.max_steps=20", *MINIMAL_WORDS)
# A server without a queue: one forward pass per request.
NAIVE = """
import sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from nlp_transfer.predicting.predict import Predictor
predictor, app = Predictor(sys.argv[1]), FastAPI()
class PredictRequest(BaseModel):
    texts: list[str]
@app.post("/predict")
def predict(request: PredictRequest):
    predictions = predictor.predict(request.texts)
    return {"predictions": [{"label": each.label, "probabilities": each.probabilities} for each in predictions]}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


def main(argv: list[str] | None = None) -> None:
    """Measure both servers and print the tables."""
    parser = data_parser(__doc__)
    parser.add_argument("--run", type=Path, help="a finished run on that data; default: a new one")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", type=float, default=30.0, help="seconds under load")
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        data = arguments.data / "banking77"
        run = arguments.run or adapt(data, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        texts = read_texts(data / "test.csv")
        ours, naive = (free_port() for _ in range(2))
        serve = ["-m", "nlp_transfer", "serve", str(run), f"serve.port={ours}"]
        server = stack.enter_context(running(serve, ours))
        stack.enter_context(running(["-c", NAIVE, str(run), str(naive)], naive))
        print(f"{time.strftime('%Y-%m-%d')}: {machine.processor()}; {machine.versions()}\n")
        columns = ["clients", "requests/s, serve", "naive", "ratio", "p50 ms, serve", "naive", "p99 ms, serve", "naive"]
        print(markdown_header(columns))
        for clients in arguments.clients:
            repeats: dict[int, list[list[float]]] = {ours: [], naive: []}
            for port in repeats:  # warm-up
                measure(port, texts, clients, 1.0)
            for _ in range(arguments.repeats):
                for port, figures in repeats.items():
                    figures.append(measure(port, texts, clients, arguments.seconds))
            own, other = (
                [statistics.median(each) for each in zip(*repeats[port], strict=True)] for port in (ours, naive)
            )
            cells = [f"{own[0]:,.0f}", f"{other[0]:,.0f}", f"{own[0] / other[0]:.2f}"]
            cells += [f"{value:,.1f}" for pair in zip(own[1:], other[1:], strict=True) for value in pair]
            print(markdown_row([str(clients), *cells]), flush=True)
        print("\n" + load_test(server.pid, ours, Predictor(run), texts, max(arguments.clients), arguments.load))


def adapt(data: Path, folder: Path) -> Path:
    """Fine-tune for a few steps on the command line; return the folder of the run."""
    command = [sys.executable, "-m", "nlp_transfer", "adapt", *RUN_WORDS, f"data.path={data}", f"output={folder}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(json.loads(done.stdout)["folder"])


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(words: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server during the block, which begins when it accepts connections."""
    # As the command line sets it: spinning OpenMP threads take the core from the threads that they wait for.
    process = subprocess.Popen([sys.executable, *words], env={"GOMP_SPINCOUNT": "1000"} | os.environ)
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


class Client:
    """A client that keeps its connection open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def predict(self, texts: list[str]) -> tuple[int, dict]:
        """Return the status and the JSON content of the response."""
        body = json.dumps({"texts": texts})
        self.connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())


def run_threads(count: int, work: Callable[[int], None]) -> None:
    """Call a function in several threads, each with its number, and wait for them."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(port: int, texts: list[str], clients: int, seconds: float) -> list[float]:
    """Return requests per second, and the median and the 99 % quantile of the latency in milliseconds."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        client, rng = Client(port), random.Random(number)
        while (started := time.perf_counter()) < end:
            status, _ = client.predict([rng.choice(texts)])
            assert status == 200, status
            latencies.append(time.perf_counter() - started)

    run_threads(clients, work)
    return [len(latencies) / seconds, *(1000 * float(np.percentile(latencies, share)) for share in (50, 99))]


def load_test(pid: int, port: int, predictor: Predictor, texts: list[str], clients: int, seconds: float) -> str:
    """Put a server under load; describe the numbers of right, wrong and refused responses, and its memory."""
    texts = texts[:500]
    expected = predictor.predict(texts)
    counts = {"right": 0, "wrong": 0, "refused": 0}
    lock, memory = threading.Lock(), [resident(pid)]

    def work(number: int) -> None:
        client, rng = Client(port), random.Random(number)
        while time.perf_counter() < end:
            chosen = rng.sample(range(len(texts)), rng.randint(1, 16))
            status, content = client.predict([texts[index] for index in chosen])
            right = status == 200 and all(map(agree, content["predictions"], [expected[index] for index in chosen]))
            with lock:
                counts["right" if right else "refused" if status == 503 else "wrong"] += 1

    for _ in range(2):  # one-time allocations happen in the first half
        end = time.perf_counter() + seconds / 2
        run_threads(clients, work)
        memory.append(resident(pid))
    responses = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    megabytes = ", ".join(f"{each:,.0f}" for each in memory)
    return (
        f"{clients} clients, {seconds:g} s, 1 to 16 texts per request: {responses}; "
        f"resident MB before, halfway, after: {megabytes}"
    )


def agree(served: dict, expected: Prediction) -> bool:
    """Return whether a served prediction agrees with the predictor's, up to rounding."""
    probabilities = served["probabilities"]
    close = all(abs(probabilities[label] - value) < 1e-3 for label, value in expected.probabilities.items())
    is_top = probabilities[served["label"]] > max(expected.probabilities.values()) - 1e-3
    return close and (served["label"] == expected.label or is_top)


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    main()

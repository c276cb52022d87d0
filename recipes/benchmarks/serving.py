"""Requests a second and latency of `nlp-transfer serve`, beside one forward pass a request in the same library.

    python recipes/benchmarks/serving.py DATA_FOLDER [--run RUN] [--clients 1 8 32] [--seconds 5] [--repeats 3]
        [--load 30]

DATA_FOLDER holds the data set banking77: a folder with train, validation and test files. Without --run, a MiniLM is
fine-tuned on it for 20 steps. Clients are threads of this process; each keeps one connection and sends one
text a request, the next when the answer has come. The naive server is FastAPI and uvicorn as well, with
`Predictor.predict` in a route: one request, one pass, in the threads of the library. Both run all the time; they are
measured in turn, and the table has the median of the repeats. Then `serve` is held under load for --load seconds, with
requests of 1 to 16 texts: every answer is compared with `Predictor.predict`, and the server's memory is read before and
after.
"""

from __future__ import annotations

import argparse
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

WORDS = (
    "data=files",
    "data.unseen=ignore",
    "training.max_steps=20",
    "verify=false",
    "report.write=false",
    "evaluation.floors=false",
)
# What it takes to serve a model without a queue.
NAIVE = """
import sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from nlp_transfer.predicting.predict import Predictor
predictor, app = Predictor(sys.argv[1]), FastAPI()
class Wanted(BaseModel):
    texts: list[str]
@app.post("/predict")
def predict(wanted: Wanted):
    answers = predictor.predict(wanted.texts)
    return {"predictions": [{"label": each.label, "probabilities": each.probabilities} for each in answers]}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


def main(words: list[str] | None = None) -> None:
    """Measure both servers and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path, help="a finished run on that data; none: one is made")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", type=float, default=30.0, help="seconds under load")
    arguments = parser.parse_args(words)
    with ExitStack() as stack:
        run = arguments.run or made(
            arguments.data / "banking77", Path(stack.enter_context(tempfile.TemporaryDirectory()))
        )
        texts = texts_of(arguments.data / "banking77")
        ours, naive = (free_port() for _ in range(2))
        serve = ["-m", "nlp_transfer", "serve", str(run), f"serve.port={ours}"]
        server = stack.enter_context(running(serve, ours))
        stack.enter_context(running(["-c", NAIVE, str(run), str(naive)], naive))
        print(f"{time.strftime('%Y-%m-%d')}: {machine.processor()}; {machine.versions()}\n")
        print("| clients | requests/s, serve | naive | ratio | p50 ms, serve | naive | p99 ms, serve | naive |")
        print("|---" * 8 + "|")
        for clients in arguments.clients:
            measured: dict[int, list[list[float]]] = {ours: [], naive: []}
            for port in (ours, naive):
                rates(port, texts, clients, 1.0)
            for _ in range(arguments.repeats):
                for port, found in measured.items():
                    found.append(rates(port, texts, clients, arguments.seconds))
            mine, theirs = (
                [statistics.median(each) for each in zip(*measured[port], strict=True)] for port in (ours, naive)
            )
            cells = [f"{mine[0]:,.0f}", f"{theirs[0]:,.0f}", f"{mine[0] / theirs[0]:.2f}"]
            cells += [f"{value:,.1f}" for pair in zip(mine[1:], theirs[1:], strict=True) for value in pair]
            print(f"| {clients} | {' | '.join(cells)} |", flush=True)
        print("\n" + held(server.pid, ours, Predictor(run), texts, max(arguments.clients), arguments.load))


def made(data: Path, folder: Path) -> Path:
    """Return the folder of a short run."""
    command = [sys.executable, "-m", "nlp_transfer", "adapt", *WORDS, f"data.path={data}", f"output={folder}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(json.loads(done.stdout)["folder"])


def texts_of(data: Path) -> list[str]:
    """Return the texts of the test split."""
    from nlp_transfer.data.files import stream_rows

    (path,) = data.glob("test.*")
    tables = stream_rows(str(path), format="csv", encoding="utf-8", delimiter=None, chunk_rows=4096)
    return [str(text) for table in tables for text in table.columns["text"]]


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


@contextmanager
def running(words: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the time of the block, from when it can be reached."""
    # As our command line sets it: OpenMP threads that spin take the core from whom they wait for.
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


class Asker:
    """One client: a connection that is kept."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, texts: list[str]) -> tuple[int, dict]:
        """Return status and content of the answer."""
        body = json.dumps({"texts": texts})
        self.connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Do the same work in so many threads, each with its number."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rates(port: int, texts: list[str], clients: int, seconds: float) -> list[float]:
    """Return requests a second, and the latency in ms that half and 99 % of them do not exceed."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        asker, draw = Asker(port), random.Random(number)
        while (began := time.perf_counter()) < end:
            status, _ = asker.ask([draw.choice(texts)])
            assert status == 200, status
            took.append(time.perf_counter() - began)

    at_once(clients, work)
    return [len(took) / seconds, *(1000 * float(np.percentile(took, share)) for share in (50, 99))]


def held(pid: int, port: int, predictor: Predictor, texts: list[str], clients: int, seconds: float) -> str:
    """Return what came of load: answers, those that were wrong or refused, and memory before and after."""
    texts = texts[:500]
    wanted = predictor.predict(texts)
    counts = {"right": 0, "wrong": 0, "refused": 0}
    lock, memory = threading.Lock(), [resident(pid)]

    def work(number: int) -> None:
        asker, draw = Asker(port), random.Random(number)
        while time.perf_counter() < end:
            chosen = draw.sample(range(len(texts)), draw.randint(1, 16))
            status, content = asker.ask([texts[place] for place in chosen])
            right = status == 200 and all(map(same, content["predictions"], [wanted[place] for place in chosen]))
            with lock:
                counts["right" if right else "refused" if status == 503 else "wrong"] += 1

    for _ in range(2):  # what is allocated once is there after the first half
        end = time.perf_counter() + seconds / 2
        at_once(clients, work)
        memory.append(resident(pid))
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    spent = ", ".join(f"{each:,.0f}" for each in memory)
    return (
        f"{clients} clients, {seconds:g} s, 1 to 16 texts a request: {told}; resident MB before, half, after: {spent}"
    )


def same(found: dict, wanted: Prediction) -> bool:
    """Return whether an answer is the predictor's but for rounding."""
    pairs = [(found["probabilities"][name], value) for name, value in wanted.probabilities.items()]
    return all(abs(one - other) < 1e-3 for one, other in pairs) and (
        found["label"] == wanted.label
        or found["probabilities"][found["label"]] > max(wanted.probabilities.values()) - 1e-3
    )


def resident(pid: int) -> float:
    """Return the memory that a process holds, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    main()

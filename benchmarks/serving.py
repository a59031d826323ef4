"""The service beside what one would write in ten minutes: FastAPI, uvicorn, the fp32 model and Pillow's full decode.

    python -m benchmarks.serving [--seconds 8] [--rounds 3] [--memory] [--models FOLDER] [--gpu]

Both serve tf_efficientnet_lite0 at 128 pixels and at 224, then resnet50 at 256 (random weights: speed does not depend
on them), to 8 connections that send 1600 x 1200 JPEGs. All measurements take turns in every round, on the same cores,
and medians are shown. A model with `convert.car_check`, as it is by default, also tells whether a photo shows a car.
With --gpu both run on the first card, ours in fp16, and there are 32 connections. Needs
artifacts/reference.safetensors (`dvc repro backbone`).
"""

from __future__ import annotations

import argparse
import io
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import requests
from PIL import Image

from benchmarks.inputs import CHECKED, LOW, alone, make_models, make_photos
from serving.engine import deployment
from serving.engine.engine import Engine
from serving.inference.model.predictor import Predictor
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.decode import decode
from serving.settings import Settings
from tests.support.live import Live, memory_mib, running
from tests.support.onnx_models import Pair

NETWORKS = {
    f"{name}@{size}": (name, size)
    for name, size in (("tf_efficientnet_lite0", 128), ("tf_efficientnet_lite0", 224), ("resnet50", 256))
}
CONNECTIONS = {"cpu": 8, "gpu": 32}
PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider,CPUExecutionProvider"}
WITHOUT_WEB = "engine, {}"

BASELINE = """
import io
import os
import numpy as np, onnxruntime as ort, uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

app = FastAPI()
if "CUDA" in os.environ["PROVIDERS"]:
    ort.preload_dlls()
session = ort.InferenceSession(os.environ["MODEL_PATH"], providers=os.environ["PROVIDERS"].split(","))
size = session.get_inputs()[0].shape[1]

@app.post("/predict/file")
def predict(file: UploadFile):
    image = Image.open(io.BytesIO(file.file.read())).convert("RGB").resize((size, size))
    p = float(session.run(["p_clean"], {"image": np.asarray(image)[None]})[0][0])
    return {"label": "clean" if p >= 0.9 else "dirty", "p_clean": p, "threshold": 0.9}

@app.get("/readyz")
def ready():
    return {}

uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
"""


@dataclass(frozen=True)
class Load:
    """One run of the load generator; times in seconds."""

    rate: float
    p50: float
    p99: float
    server_cpu: float  # CPU time of the server for each request
    client_cpu: float  # and of the load generator


def precisions_for(target: str) -> tuple[str, str, str]:
    """What is served for a target, without the car check, and at full precision."""
    return CHECKED.format(LOW[target]), LOW[target], "fp32"


def ours(folder: Path, precision: str) -> AbstractContextManager[Live]:
    """This service with one of the models."""
    return running(Pair(folder / precision / "best.onnx", folder), folder)


def baseline(folder: Path, target: str) -> AbstractContextManager[Live]:
    """The service one would write in ten minutes."""
    (folder / "baseline.py").write_text(BASELINE)
    model = Pair(folder / "fp32" / "best.onnx", folder)
    return running(model, folder, command=[sys.executable, str(folder / "baseline.py")], PROVIDERS=PROVIDERS[target])


def request_bytes(photo: bytes) -> bytes:
    """A whole POST /predict/file, its boundary as long as those of clients are."""
    file = ("a.jpg", photo, "image/jpeg")
    prepared = requests.Request("POST", "http://x/predict/file", files={"file": file}).prepare()
    headers = (f"{key}: {value!s}" for key, value in prepared.headers.items())
    lines = ["POST /predict/file HTTP/1.1", "Host: x", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + bytes(prepared.body)


def exchange(connection: socket.socket, request: bytes) -> None:
    """Send a request and read its answer; raises unless it is a 200. By hand: http.client costs twice the CPU time."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer.decode(errors="replace"))
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            raise RuntimeError(f"the server hung up after {len(body)} of {length} bytes")
        body += part


def load(server: Live, messages: list[bytes], seconds: float, connections: int, limit: int = 1_000_000) -> Load:
    """Send requests over kept-alive connections for some seconds, or until `limit` are sent."""
    times: list[float] = []
    stop = time.perf_counter() + seconds

    def client(number: int) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            sent = number
            while time.perf_counter() < stop and len(times) < limit:
                started = time.perf_counter()
                exchange(connection, messages[sent % len(messages)])
                times.append(time.perf_counter() - started)
                sent += connections - 1

    usage, cpu, started = resource.getrusage(resource.RUSAGE_SELF), server.cpu_seconds(), time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(client, number) for number in range(connections)]:
            done.result()
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    client_cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    centiles = statistics.quantiles(times, n=100)
    count = len(times)
    return Load(count / wall, centiles[49], centiles[98], (server.cpu_seconds() - cpu) / count, client_cpu / count)


def engine(model: Path) -> Engine:
    """What a service has behind the web: queue, decoding, batches, model."""
    settings = Settings.from_env({"MODEL_PATH": str(model)})
    return Engine(settings, deployment.load(settings, model, None))


def full_decode(photo: bytes, size: int) -> object:
    """As the baseline does it."""
    return Image.open(io.BytesIO(photo)).convert("RGB").resize((size, size))


def measure(
    folder: Path, photos: list[bytes], seconds: float, rounds: int, target: str
) -> tuple[dict[str, list[float]], dict[str, list[Load]]]:
    """Everything in turns: rates of decoding and of the models alone, and the three services under load."""
    messages = [request_bytes(photo) for photo in photos]
    connections, precisions = CONNECTIONS[target], precisions_for(target)
    models = {name: Predictor(folder / name / "best.onnx", threads=1) for name in precisions}
    size = models["fp32"].image_size
    images = [decode(photo, size)[None] for photo in photos[:4]]
    works: dict[str, Callable[[int], object]] = {
        "decode, scaled": lambda i: decode(photos[i % len(photos)], size),
        "decode, full": lambda i: full_decode(photos[i % len(photos)], size),
        **{f"model, {name}": lambda i, m=m: m.scores(images[i % 4]) for name, m in models.items()},
    }
    engines = {name: engine(folder / name / "best.onnx") for name in precisions}
    rates: dict[str, list[float]] = {name: [] for name in (*works, *map(WITHOUT_WEB.format, engines))}
    loads: dict[str, list[Load]] = {name: [] for name in ("baseline", *precisions)}
    with ExitStack() as running_ones:
        servers = {"baseline": running_ones.enter_context(baseline(folder, target))}
        servers |= {name: running_ones.enter_context(ours(folder, name)) for name in precisions}
        for server in servers.values():
            load(server, messages, 2, connections)  # warm up
        for _ in range(rounds):
            for name, work in works.items():
                rates[name].append(alone(work, seconds / 3))
            for name, one in engines.items():
                work = lambda i, e=one: e.predict([photos[i % len(photos)]])  # noqa: E731
                rates[WITHOUT_WEB.format(name)].append(alone(work, seconds / 3, connections))
            for name, server in servers.items():
                loads[name].append(load(server, messages, seconds, connections))
    return rates, loads


def middle(loads: list[Load]) -> Load:
    """The median of every figure."""
    return Load(*(statistics.median(getattr(one, name) for one in loads) for name in Load.__dataclass_fields__))


def report(rates: dict[str, list[float]], loads: dict[str, list[Load]], target: str) -> None:
    """Print the table and the ratios that the service is held to."""
    rate = {name: statistics.median(values) for name, values in rates.items()}
    mid = {name: middle(values) for name, values in loads.items()}
    print(
        f"\nalone, {usable_cores()} threads, and {CONNECTIONS[target]} that wait for the engine: "
        + ", ".join(f"{name} {value:.0f}/s" for name, value in rate.items())
    )
    print("\n| service | requests/s | p50 ms | p99 ms | server CPU ms | client CPU ms |\n|---|---|---|---|---|---|")
    for name, m in mid.items():
        label = "FastAPI + uvicorn, fp32, full decode" if name == "baseline" else f"dirtycar, {name}"
        figures = (m.p50, m.p99, m.server_cpu, m.client_cpu)
        print(f"| {label} | {m.rate:.1f} | " + " | ".join(f"{1000 * figure:.1f}" for figure in figures) + " |")
    low = LOW[target]
    base, check = mid["baseline"], mid[low].server_cpu / mid[CHECKED.format(low)].server_cpu
    print("\n| figure | reached | asked |\n|---|---|---|")
    print(f"| car_check's part in the server's CPU time | {1 - check:.1%} | <= 10 % |")
    for name in precisions_for(target):
        asked = "1.3" if name == "fp32" else "3.2"
        print(f"| {name}: requests/s against the baseline | {mid[name].rate / base.rate:.2f} x | >= {asked} x |")
        print(f"| {name}: p99 against the baseline | {mid[name].p99 / base.p99:.2f} x | <= 0.4 x |")
        if target == "gpu":
            continue  # there decoding and model calls overlap: it is no limit
        ideal = 1 / (1 / rate["decode, scaled"] + 1 / rate[f"model, {name}"])
        print(f"| {name}: requests/s against 1/(1/decode + 1/model) | {mid[name].rate / ideal:.2f} | >= 0.85 |")
        print(f"| {name}: the engine without the web against it | {rate[WITHOUT_WEB.format(name)] / ideal:.2f} | |")


def memory(folder: Path, photos: list[bytes], target: str) -> None:
    """Print the service's memory after 2,000 and after 20,000 requests."""
    messages, connections = [request_bytes(photo) for photo in photos], CONNECTIONS[target]
    with ours(folder, precisions_for(target)[0]) as one:
        load(one, messages, 600, connections, limit=2_000)
        early = memory_mib(*one.workers())
        load(one, messages, 1800, connections, limit=18_000)
        late = memory_mib(*one.workers())
    print(
        f"\nmemory: {early:.0f} MiB after 2,000 requests, {late:.0f} MiB after 20,000: {late / early - 1:+.1%} (<= 5 %)"
    )


def main() -> None:
    """Make photos and models, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="length of each run under load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="also send 20,000 requests and compare memory")
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    parser.add_argument("--models", type=Path, help="keep the models here, and use those that are there")
    parser.add_argument("--gpu", action="store_true", help="on the first NVIDIA card")
    args = parser.parse_args()
    target = "gpu" if args.gpu else "cpu"
    photos = make_photos()
    sizes = sorted(len(photo) // 1024 for photo in photos)
    print(
        f"photos: {len(photos)} JPEGs of 1600 x 1200, {sizes[0]} to {sizes[-1]} KiB; {CONNECTIONS[target]} connections"
    )
    with tempfile.TemporaryDirectory(prefix="dirtycar-benchmark-") as scratch:
        for name in [args.only] if args.only else NETWORKS:
            print(f"\n{name}")
            folder = (args.models or Path(scratch)) / name
            if not all((folder / precision / "best.onnx").exists() for precision in precisions_for(target)):
                make_models(folder, photos, *NETWORKS[name], check=True, target=target)
            report(*measure(folder, photos, args.seconds, args.rounds, target), target)
            if args.memory:
                memory(folder, photos, target)


if __name__ == "__main__":
    main()

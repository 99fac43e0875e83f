"""Measures speed, cost and robustness of generation with the local server: `python benchmarks/generation.py [--json]`.

It prints one table and takes about ten minutes on two idle cores. The images are photographs; unless stated otherwise,
one in ten has 3000 x 2000 pixels. The server runs in another process and accepts four of five drafts.

Request rates are measured at the server between the 10th and the 90th percentile of the requests, and over the whole
run. They are given as a fraction of the ideal rate, requests in flight / latency. CPU time and memory are those of the
whole generating process, including start and imports. Two baselines are measured too: plain aiohttp with prepared
requests, which shows what the machine and the server allow, and google-genai in a plain loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from served import GeminiProcess, ReceivedRequest, write_photos

from compact_hf.testing.scripted_model import KEY

HEARTBEAT_S = 0.005  # interval at which the delay of the event loop is measured
STORM_S, STATED_DELAY_S = 60.0, 5.0  # duration of the 429 responses, and the retry delay that they state
FINISHED_COUNT = 100_000
LOADS = ((64, 0.3), (256, 1.0))  # requests in flight, latency in seconds


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--images", type=int, default=3000, help="number of images per run at full speed (default: 3000)"
    )
    parser.add_argument("--client", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["GEMINI_API_KEY"] = KEY
    if args.client:
        print(json.dumps(run_client(json.loads(args.client))))
        return
    with tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory), args.images)
    print(json.dumps(result) if args.json else format_table(result))


def measure(directory: Path, image_count: int) -> dict[str, Any]:
    """Return all results. Runs at full speed use `image_count` images; the other runs have fixed sizes."""
    photos = write_photos(directory / "photos", 10_000)
    few_photos = write_photos(directory / "few", image_count)
    small_photos = write_photos(directory / "small", 600)
    result: dict[str, Any] = {"pictures": image_count}
    no_large_photos = write_photos(directory / "no-large", image_count, large_every=None)
    for in_flight, latency in LOADS:
        name = f"{in_flight} in flight, {latency:g} s"
        result[f"aiohttp alone, {name}"] = measure_run(no_large_photos, in_flight, latency, alone="http")
        result[f"google-genai alone, {name}"] = measure_run(few_photos, in_flight, latency, alone="sdk")
        result[f"efficient, {name}"] = measure_run(few_photos, in_flight, latency)
        result[f"efficient, no large picture, {name}"] = measure_run(no_large_photos, in_flight, latency)
    result["paper, 64 in flight, 0.3 s"] = measure_run(small_photos, 64, 0.3, preset="paper")
    result["efficient, strict, 64 in flight, 0.3 s"] = measure_run(small_photos, 64, 0.3, strict=True)
    result["10,000 pictures, 256 in flight, 0.3 s"] = measure_run(photos, 256, 0.3)
    result["storm"] = measure_storm(write_photos(directory / "stormy", 120), directory)
    result["kill -9"] = measure_kill(small_photos, directory)
    result["resume"] = measure_resume(directory)
    return result


def measure_run(photos: Path, in_flight: int, latency: float, **settings: Any) -> dict[str, Any]:
    """Return the results of one run, which has its own process."""
    with tempfile.TemporaryDirectory() as out, GeminiProcess(latency_s=latency) as service:
        client_args = {
            "source": str(photos),
            "out": f"{out}/run",
            "url": service.url,
            "in_flight": in_flight,
            **settings,
        }
        client_result = json.loads(_start_client(client_args).communicate()[0])
        requests = service.read_requests()
    ideal = in_flight / latency
    accepted = client_result["accepted"]
    return {
        "of ideal": _rate(requests, 0.1, 0.9) / ideal,
        "of ideal, whole run": len(requests) / client_result["seconds"] / ideal,
        "requests": len(requests),
        **client_result,
        "accepted per second": accepted / client_result["seconds"],
        "cpu s per 100 accepted": 100 * client_result["cpu_s"] / max(accepted, 1),
        "requests per accepted": len(requests) / max(accepted, 1),
        "uploads per accepted": sum(request.has_image for request in requests) / max(accepted, 1),
    }


def _rate(requests: list[ReceivedRequest], first: float, last: float) -> float:
    """Return requests per second between two quantiles of the requests by time."""
    times = sorted(request.received_at for request in requests)
    low, high = int(len(times) * first), int(len(times) * last)
    return (high - low) / (times[high] - times[low])


def _start_client(client_args: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--client", json.dumps(client_args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run_client(client_args: dict[str, Any]) -> dict[str, Any]:
    """Run one client in this process and return its duration, CPU time, peak memory and event loop delays."""
    start = time.time()
    delays: list[float] = []
    clients = {"http": _post_alone, "sdk": _generate_with_sdk}
    alone = client_args.get("alone")
    result = clients[alone](client_args) if alone else _generate(client_args, delays)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.time() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        **result,
        "peak_mb": _read_peak_mb(),
        "loop late ms": 1000 * max(delays, default=0.0),
        "loop late over 50 ms": sum(delay > 0.05 for delay in delays),
    }


def _read_peak_mb() -> int:
    """Return the peak memory of this process; that of getrusage includes the parent process before exec."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def _generate(client_args: dict[str, Any], delays: list[float]) -> dict[str, Any]:
    """Run `generate`, and record the delays of its event loop in `delays`."""
    from compact_hf import generate
    from compact_hf.runs.journal import FILE_NAME

    # Replace asyncio.run, so that a heartbeat task runs in the event loop of `generate`.
    run_coroutine = asyncio.run

    async def with_heartbeat(work: Coroutine[Any, Any, Any]) -> Any:
        heartbeat = asyncio.ensure_future(_record_delays(delays))
        try:
            return await work
        finally:
            heartbeat.cancel()

    asyncio.run = lambda work, **options: run_coroutine(with_heartbeat(work), **options)  # type: ignore[assignment]
    progress = generate(
        client_args["source"],
        client_args["out"],
        teacher="gemini",
        teacher_url=client_args["url"],
        preset=client_args.get("preset", "efficient"),
        strict=client_args.get("strict", False),
        concurrency=client_args["in_flight"],
    )
    journal = Path(client_args["out"]) / FILE_NAME
    return {
        "accepted": progress.accepted,
        "finished": progress.finished,
        "journal_kb": journal.stat().st_size / 1024 / progress.finished,
    }


async def _record_delays(delays: list[float]) -> None:
    """Append how many seconds too late each heartbeat is."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + HEARTBEAT_S
        await asyncio.sleep(HEARTBEAT_S)
        delays.append(clock() - due)


def _post_alone(client_args: dict[str, Any]) -> dict[str, Any]:
    """Post prepared request bodies and read the responses. The bodies are made before the time is measured."""
    from compact_hf.images.source import MAX_EDGE
    from compact_hf.methods.compact.prompts import DraftReply, teacher_prompt
    from compact_hf.runs.process import make_request
    from compact_hf.teachers.base import EncodedImage
    from compact_hf.teachers.gemini_request import build_body
    from compact_hf.teachers.http import Connections

    prompt = teacher_prompt(("color", "counting"))
    semaphore = asyncio.Semaphore(client_args["in_flight"])
    url = f"{client_args['url']}/v1beta/models/m:generateContent"
    connections = Connections(
        url, {"content-type": "application/json", "x-goog-api-key": KEY}, timeout_s=120, server=url
    )

    async def make_body(file: Path) -> bytes:
        encoded_image = EncodedImage(file.read_bytes, ref=file.name, max_edge=MAX_EDGE)
        return await build_body(make_request("teacher", file.stem, encoded_image, prompt, DraftReply))

    async def post(body: bytes) -> None:
        async with semaphore:
            assert (await connections.post(body)).status == 200

    async def main() -> tuple[float, float]:
        bodies = [await make_body(file) for file in sorted(Path(client_args["source"]).iterdir())]
        start, cpu_start = time.time(), time.process_time()
        await asyncio.gather(*(post(body) for _ in range(2) for body in bodies))
        await connections.close()
        return time.time() - start, time.process_time() - cpu_start

    seconds, cpu_s = asyncio.run(main())
    return {"accepted": 0, "seconds": seconds, "cpu_s": cpu_s}


def _generate_with_sdk(client_args: dict[str, Any]) -> dict[str, Any]:
    """Send the two requests of the paper's method per image with google-genai, as its documentation shows."""
    from google.genai import Client
    from google.genai.types import GenerateContentConfig, HttpOptions, Part

    from compact_hf.images.codec import encode_for_teacher
    from compact_hf.methods.compact.prompts import DraftReply, VerdictReply, teacher_prompt, verifier_prompt

    files = sorted(Path(client_args["source"]).iterdir())[:1000]
    semaphore = asyncio.Semaphore(client_args["in_flight"])

    async def main() -> None:
        options = HttpOptions(base_url=client_args["url"], timeout=120_000)
        async with Client(api_key=KEY, vertexai=False, http_options=options).aio as sdk:

            async def ask(jpeg: bytes, prompt: str, schema: Any) -> Any:
                config = GenerateContentConfig(response_mime_type="application/json", response_schema=schema)
                contents = [Part.from_bytes(data=jpeg, mime_type="image/jpeg"), prompt]
                return (await sdk.models.generate_content(model="m", contents=contents, config=config)).parsed

            async def process_file(file: Path) -> None:
                async with semaphore:
                    jpeg = await asyncio.to_thread(lambda: encode_for_teacher(file.read_bytes()))
                    draft = await ask(jpeg, teacher_prompt(("color", "counting")), DraftReply)
                    await ask(jpeg, verifier_prompt(draft.question), VerdictReply)

            await asyncio.gather(*map(process_file, files))

    asyncio.run(main())
    return {"accepted": len(files) * 4 // 5}


def measure_storm(photos: Path, directory: Path) -> dict[str, Any]:
    """Return the lost images and wasted requests if the server answers 429 for a minute, with 120 images."""
    with GeminiProcess(latency_s=0.3, storm_s=STORM_S, delay_s=STATED_DELAY_S) as service:
        client_args = {"source": str(photos), "out": str(directory / "storm"), "url": service.url, "in_flight": 64}
        client_result = json.loads(_start_client(client_args).communicate()[0])
        requests = service.read_requests()
    answer_counts = Counter(request.digest for request in requests if request.is_answered)
    return {
        "wasted": sum(not request.is_answered for request in requests),
        "allowed": 64 + int(STORM_S / STATED_DELAY_S),
        "asked twice": sum(count - 1 for count in answer_counts.values()),
        "lost": 120 - client_result["finished"],
        **client_result,
    }


def measure_kill(photos: Path, directory: Path) -> dict[str, Any]:
    """Return how many requests are sent again when a run is resumed after `kill -9`."""
    with GeminiProcess(latency_s=0.3) as service:
        client_args = {"source": str(photos), "out": str(directory / "killed"), "url": service.url, "in_flight": 64}
        process = _start_client(client_args)
        while len(service.read_requests()) < 500:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        client_result = json.loads(_start_client(client_args).communicate()[0])
        request_counts = Counter(request.digest for request in service.read_requests())
    return {"sent again": sum(count - 1 for count in request_counts.values()), "in flight": 64, **client_result}


def measure_resume(directory: Path) -> dict[str, Any]:
    """Return the seconds from the start of the process to its first request, for a run with 100,000 finished images."""
    from compact_hf.images.folder import ImageFolder
    from compact_hf.images.inspection import compute_image_id
    from compact_hf.records import ImageInfo
    from compact_hf.runs.journal import FinishedImage, Journal
    from compact_hf.teachers.base import Reply

    photos, out = directory / "many", directory / "resumed"
    photos.mkdir()
    data = next(write_photos(directory / "one", 2).glob("00001.jpg")).read_bytes()
    source = ImageFolder(photos)
    with GeminiProcess(latency_s=0.3) as service:
        client_args = {"source": str(photos), "out": str(out), "url": service.url, "in_flight": 64}
        (photos / "new.jpg").write_bytes(data)
        client_result = json.loads(_start_client(client_args).communicate()[0])
        body = json.loads(next(iter(_read_outcomes(out))).body)
        # Extend the journal of a run with one image: finished images with copies of its outcome.
        with Journal.open(out, Journal.read(out).identity) as journal:
            journal._db.execute("BEGIN")
            for number in range(FINISHED_COUNT):
                ref = f"{number:06d}.jpg"
                image_data = data + number.to_bytes(4, "big")
                (photos / ref).write_bytes(image_data)
                image_id = compute_image_id(image_data)
                journal.record_inspection(ref, source.stamp(ref), ImageInfo(image_id, ref, 640, 480, "many"))
                for role in ("teacher", "verifier"):
                    reply = Reply(f"{role}{number}", text="x" * 800, model="m", input_tokens=700, output_tokens=90)
                    journal.record_reply(image_id, role, reply)  # type: ignore[arg-type]
                journal.record_outcome(FinishedImage(image_id, ref, json.dumps(body), 3))
            journal._db.execute("COMMIT")
        (photos / "newer.jpg").write_bytes(data + b"newer")
        start = time.time()
        client_result = json.loads(_start_client(client_args).communicate()[0])
        first_request_time = min(
            request.received_at for request in service.read_requests() if request.received_at > start
        )
    return {"finished": FINISHED_COUNT, "seconds to the first request": first_request_time - start, **client_result}


def _read_outcomes(run_directory: Path) -> Any:
    from compact_hf.runs.journal import Journal

    with Journal.read(run_directory) as journal:
        yield from journal.outcomes()


def format_table(result: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    head = ("of ideal", "of ideal, whole run", "accepted per second", "cpu s per 100 accepted", "requests per accepted")
    head += ("uploads per accepted", "peak_mb", "journal_kb", "loop late ms")
    lines = [f"| run | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name, metrics in result.items():
        if isinstance(metrics, dict) and "of ideal" in metrics:
            cells = (f"{metrics[column]:.3g}" if column in metrics else "" for column in head)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    for name in ("storm", "kill -9", "resume"):
        text = ", ".join(f"{key} {value:.4g}" for key, value in result[name].items())
        lines.append(f"\n{name}: {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""How fast, dear and steady generation is, against testing/'s server: `python benchmarks/generation.py [--json]`.

One table, all in one run, about ten minutes on two quiet cores. Pictures are photographs, one in ten of 3000 x 2000
pixels; the server runs in a process of its own and accepts four drafts in five. Rates are read at the server, between
the 10th and the 90th per cent of the requests, the whole run beside; a fraction is that of the ideal rate, in flight /
latency. CPU time and memory are those of our whole process, start and imports included. What google-genai reaches
alone, asked the same in a plain loop, stands first.
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

from served import Came, Service, pictures

from compact_hf.testing.scripted_model import KEY

BEAT_S = 0.005
STORM_S, STATED_DELAY_S = 60.0, 5.0
FINISHED = 100_000
LOADS = ((64, 0.3), (256, 1.0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--pictures", type=int, default=3000, help="of the runs at full speed (3000)")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["GEMINI_API_KEY"] = KEY
    if given.client:
        print(json.dumps(client(json.loads(given.client))))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measured(Path(folder), given.pictures)
    print(json.dumps(result) if given.json else table(result))


def measured(folder: Path, count: int) -> dict[str, Any]:
    """Return every figure; `count` pictures at full speed, and the issue's own numbers elsewhere."""
    photos = pictures(folder / "photos", 10_000)
    few = pictures(folder / "few", count)
    small = pictures(folder / "small", 600)
    result: dict[str, Any] = {"pictures": count}
    for in_flight, latency in LOADS:
        name = f"{in_flight} in flight, {latency:g} s"
        result[f"google-genai alone, {name}"] = run(few, in_flight, latency, alone=True)
        result[f"efficient, {name}"] = run(few, in_flight, latency)
    result["paper, 64 in flight, 0.3 s"] = run(small, 64, 0.3, preset="paper")
    result["efficient, strict, 64 in flight, 0.3 s"] = run(small, 64, 0.3, strict=True)
    result["10,000 pictures, 256 in flight, 0.3 s"] = run(photos, 256, 0.3)
    result["storm"] = storm(pictures(folder / "stormy", 120), folder)
    result["kill -9"] = kill(small, folder)
    result["resume"] = resume(folder)
    return result


def run(photos: Path, in_flight: int, latency: float, **settings: Any) -> dict[str, Any]:
    """Return the figures of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as out, Service(latency_s=latency) as service:
        asked = {"source": str(photos), "out": f"{out}/run", "url": service.url, "in_flight": in_flight, **settings}
        said = json.loads(_client(asked).communicate()[0])
        came = service.came()
    ideal = in_flight / latency
    accepted = said["accepted"]
    return {
        "of ideal": _rate(came, 0.1, 0.9) / ideal,
        "of ideal, whole run": len(came) / said["seconds"] / ideal,
        "requests": len(came),
        **said,
        "accepted per second": accepted / said["seconds"],
        "cpu s per 100 accepted": 100 * said["cpu_s"] / max(accepted, 1),
        "requests per accepted": len(came) / max(accepted, 1),
        "uploads per accepted": sum(one.picture for one in came) / max(accepted, 1),
    }


def _rate(came: list[Came], first: float, last: float) -> float:
    times = sorted(one.at for one in came)
    low, high = int(len(times) * first), int(len(times) * last)
    return (high - low) / (times[high] - times[low])


def _client(asked: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--client", json.dumps(asked)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def client(asked: dict[str, Any]) -> dict[str, Any]:
    """Be the process that is measured."""
    began = time.time()
    late: list[float] = []
    said = _alone(asked) if asked.get("alone") else _ours(asked, late)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **said,
        "seconds": time.time() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": _peak_mb(),
        "loop late ms": 1000 * max(late, default=0.0),
        "loop late over 50 ms": sum(one > 0.05 for one in late),
    }


def _peak_mb() -> int:
    """This program's own peak: what getrusage tells begins with its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def _ours(asked: dict[str, Any], late: list[float]) -> dict[str, Any]:
    from compact_hf import generate
    from compact_hf.runs.journal import FILE_NAME

    run_in = asyncio.run

    async def with_heartbeat(work: Coroutine[Any, Any, Any]) -> Any:
        beating = asyncio.ensure_future(_beat(late))
        try:
            return await work
        finally:
            beating.cancel()

    asyncio.run = lambda work, **options: run_in(with_heartbeat(work), **options)  # type: ignore[assignment]
    standing = generate(
        asked["source"],
        asked["out"],
        teacher="gemini",
        teacher_url=asked["url"],
        preset=asked.get("preset", "efficient"),
        strict=asked.get("strict", False),
        concurrency=asked["in_flight"],
    )
    journal = Path(asked["out"]) / FILE_NAME
    return {
        "accepted": standing.accepted,
        "finished": standing.finished,
        "journal_kb": journal.stat().st_size / 1024 / standing.finished,
    }


async def _beat(late: list[float]) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + BEAT_S
        await asyncio.sleep(BEAT_S)
        late.append(clock() - due)


def _alone(asked: dict[str, Any]) -> dict[str, Any]:
    """Ask the paper's two requests a question with the SDK itself, as its documentation shows it."""
    from google.genai import Client
    from google.genai.types import GenerateContentConfig, HttpOptions, Part

    from compact_hf.images.codec import for_teacher
    from compact_hf.methods.compact.prompts import DraftReply, VerdictReply, teacher_prompt, verifier_prompt

    files = sorted(Path(asked["source"]).iterdir())[:1000]
    places = asyncio.Semaphore(asked["in_flight"])

    async def main() -> None:
        options = HttpOptions(base_url=asked["url"], timeout=120_000)
        async with Client(api_key=KEY, vertexai=False, http_options=options).aio as sdk:

            async def ask(jpeg: bytes, prompt: str, schema: Any) -> Any:
                config = GenerateContentConfig(response_mime_type="application/json", response_schema=schema)
                contents = [Part.from_bytes(data=jpeg, mime_type="image/jpeg"), prompt]
                return (await sdk.models.generate_content(model="m", contents=contents, config=config)).parsed

            async def one(file: Path) -> None:
                async with places:
                    jpeg = await asyncio.to_thread(lambda: for_teacher(file.read_bytes()))
                    draft = await ask(jpeg, teacher_prompt(("color", "counting")), DraftReply)
                    await ask(jpeg, verifier_prompt(draft.question), VerdictReply)

            await asyncio.gather(*map(one, files))

    asyncio.run(main())
    return {"accepted": len(files) * 4 // 5}


def storm(photos: Path, folder: Path) -> dict[str, Any]:
    """Return what a minute of 429s costs 120 pictures."""
    with Service(latency_s=0.3, storm_s=STORM_S, delay_s=STATED_DELAY_S) as service:
        asked = {"source": str(photos), "out": str(folder / "storm"), "url": service.url, "in_flight": 64}
        said = json.loads(_client(asked).communicate()[0])
        came = service.came()
    answered = Counter(one.digest for one in came if one.answered)
    return {
        "wasted": sum(not one.answered for one in came),
        "allowed": 64 + int(STORM_S / STATED_DELAY_S),
        "asked twice": sum(times - 1 for times in answered.values()),
        "lost": 120 - said["finished"],
        **said,
    }


def kill(photos: Path, folder: Path) -> dict[str, Any]:
    """Return how many requests are sent again after a kill -9 in the middle."""
    with Service(latency_s=0.3) as service:
        asked = {"source": str(photos), "out": str(folder / "killed"), "url": service.url, "in_flight": 64}
        first = _client(asked)
        while len(service.came()) < 500:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        said = json.loads(_client(asked).communicate()[0])
        times = Counter(one.digest for one in service.came())
    return {"sent again": sum(count - 1 for count in times.values()), "in flight": 64, **said}


def resume(folder: Path) -> dict[str, Any]:
    """Return the seconds from the start of the command to the first request where 100,000 pictures are finished."""
    from compact_hf.images.folder import Folder
    from compact_hf.images.inspection import image_id_of
    from compact_hf.records import Picture
    from compact_hf.runs.journal import Finished, Journal
    from compact_hf.teachers.base import Reply

    photos, out = folder / "many", folder / "resumed"
    photos.mkdir()
    data = next(pictures(folder / "one", 2).glob("00001.jpg")).read_bytes()
    source = Folder(photos)
    with Service(latency_s=0.3) as service:
        asked = {"source": str(photos), "out": str(out), "url": service.url, "in_flight": 64}
        (photos / "new.jpg").write_bytes(data)
        said = json.loads(_client(asked).communicate()[0])
        body = json.loads(next(iter(_outcomes(out))).body)
        with Journal.open(out, Journal.read(out).identity) as journal:
            journal._db.execute("BEGIN")
            for number in range(FINISHED):
                ref = f"{number:06d}.jpg"
                changed = data + number.to_bytes(4, "big")
                (photos / ref).write_bytes(changed)
                image_id = image_id_of(changed)
                journal.record_look(ref, source.stamp(ref), Picture(image_id, ref, 640, 480, "many"))
                for role in ("teacher", "verifier"):
                    reply = Reply(f"{role}{number}", text="x" * 800, model="m", input_tokens=700, output_tokens=90)
                    journal.record_reply(image_id, role, reply)  # type: ignore[arg-type]
                journal.record_outcome(Finished(image_id, ref, json.dumps(body), 3))
            journal._db.execute("COMMIT")
        (photos / "newer.jpg").write_bytes(data + b"newer")
        began = time.time()
        said = json.loads(_client(asked).communicate()[0])
        first = min(one.at for one in service.came() if one.at > began)
    return {"finished": FINISHED, "seconds to the first request": first - began, **said}


def _outcomes(run_folder: Path) -> Any:
    from compact_hf.runs.journal import Journal

    with Journal.read(run_folder) as journal:
        yield from journal.outcomes()


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    head = ("of ideal", "of ideal, whole run", "accepted per second", "cpu s per 100 accepted", "requests per accepted")
    head += ("uploads per accepted", "peak_mb", "journal_kb", "loop late ms")
    lines = [f"| run | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name, figures in result.items():
        if isinstance(figures, dict) and "of ideal" in figures:
            cells = (f"{figures[one]:.3g}" if one in figures else "" for one in head)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    for name in ("storm", "kill -9", "resume"):
        told = ", ".join(f"{key} {value:.4g}" for key, value in result[name].items())
        lines.append(f"\n{name}: {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

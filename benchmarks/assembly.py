"""Memory and speed of assembling and validating: `python benchmarks/assembly.py [--rows 1000 10000] [--json]`.

In: a number of rows, each with a picture of about 30 KB made on the spot (noise, so that nothing compresses away); to
choose from, a journal with as many images of four or five accepted questions each. Out: one table with the peak
resident memory of a fresh process for each number of rows and step; `imports` is the peak before the step, with every
library loaded. What counts is that writing and validating stay the same. Choosing (near-duplicates are dropped, the
rest is balanced) holds the questions' words and grows with their number, whatever the pictures are.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from compact_hf.capabilities import CAPABILITIES as ATOMS
from compact_hf.engine.journal import Finished, Journal
from compact_hf.images.look import image_id_of
from compact_hf.records import Conversation, Message, Picture, Row, Turn, digest, to_json
from compact_hf.synthesis.compact.assembly import conversation_rows
from compact_hf.synthesis.compact.conversation import Outcome

EDGE = 185  # pixels; noise of this size takes about 30 KB as a JPEG
CAPABILITIES = ("color", "shape", "counting")
STEPS = ("choose", "write", "validate")
WORDS = 5000  # as many different words as some 100,000 people's questions about pictures have


def picture(number: int) -> bytes:
    """A JPEG file of about 30 KB, another one for each number."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (EDGE, EDGE, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=88)
    return out.getvalue()


def rows(count: int) -> Iterator[Row]:
    """`count` rows with three turns each, k = 1, 2, 3 in turn."""
    for number in range(count):
        asked = CAPABILITIES[: number % 3 + 1]
        turns = tuple(Turn(f"Question {at} about {number}?", "red", asked, asked, 90) for at in range(3))
        messages = [
            message for turn in turns for message in (Message("user", turn.question), Message("assistant", turn.answer))
        ]
        yield Row(
            id=digest(number),
            messages=tuple(messages),
            source="compact",
            k=len(asked),
            capabilities=asked,
            turns=turns,
            image_id=image_id_of(picture(number)),
            image_source="noise",
            image_license="CC0-1.0",
            teacher="none",
            verifier="none",
            preset_version="none",
            read_picture=partial(picture, number),
        )


def outcome(number: int) -> Outcome:
    """An image's four or five accepted questions of one k, of 6 to 14 words each; few of them repeat others."""
    rng = random.Random(number)
    k = rng.randint(1, 3)
    turns = []
    for _ in range(rng.randint(4, 5)):
        asked = tuple(sorted(rng.sample(list(ATOMS), k)))
        # Some words are far more frequent than others, as in any language.
        words = (f"word{int(WORDS ** rng.random())}" for _ in range(rng.randint(6, 14)))
        turns.append(Turn(" ".join(words), f"answer {int(WORDS ** rng.random())}", asked, asked, 90))
    return Outcome(k, Conversation(digest(number), k, tuple(turns)), (), (), "none", "none")


def journalled(count: int, run: Path) -> None:
    """Write the journal of a run over `count` images."""
    identity = {"source": "scenes", "method": "compact", "preset": "efficient@1"}
    with Journal.open(run, identity) as journal:
        for number in range(count):
            of = Picture(digest(number), f"scene:{number}", 64, 64, "scenes")
            journal.record_look(of.ref, "", of)
            journal.record_outcome(Finished(of.image_id, of.ref, to_json(outcome(number)), 5))


def peak() -> float:
    """Peak resident memory of this process so far, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def measure(step: str, count: int, out: Path) -> dict[str, Any]:
    """Carry out one step in this process and say what it took."""
    from compact_hf.release.validate import validate
    from compact_hf.release.write import write

    with tempfile.TemporaryDirectory() as warm:
        write(rows(3), Path(warm) / "out", version="1.0.0")
        validate(Path(warm) / "out")
    if step == "choose":
        journalled(count, out.with_suffix(".run"))
    imports, start = peak(), time.perf_counter()
    if step == "choose":
        deque(conversation_rows([out.with_suffix(".run")], balance=True), maxlen=0)
    elif step == "write":
        write(rows(count), out, version="1.0.0")
    elif not validate(out).is_valid:
        sys.exit(f"the release of {count} rows is not valid")
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in out.rglob("*.parquet"))
    return {
        "step": step,
        "rows": count,
        "imports_mb": round(imports),
        "peak_mb": round(peak()),
        "files_mb": round(size / 1e6),
        "seconds": round(seconds, 1),
    }


def in_child(step: str, count: int, out: Path) -> dict[str, Any]:
    """Carry out one step in a fresh process, because a peak never goes down."""
    command = [sys.executable, __file__, "--step", step, str(count), str(out)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--step", nargs=3, metavar=("STEP", "ROWS", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, count, out = arguments.step
        print(json.dumps(measure(step, int(count), Path(out))))
        return
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for count in arguments.rows:
            measured += [in_child(step, count, Path(folder) / str(count)) for step in STEPS]
    if arguments.json:
        print(json.dumps({"assembly": measured}))
        return
    print("| " + " | ".join(measured[0]) + " |")
    print("|" + "---|" * len(measured[0]))
    for line in measured:
        print("| " + " | ".join(map(str, line.values())) + " |")


if __name__ == "__main__":
    main()

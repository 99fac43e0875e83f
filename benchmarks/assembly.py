"""Memory and speed of writing and validating a release: `python benchmarks/assembly.py [--rows 1000 10000] [--json]`.

In: a number of rows, each with a picture of about 30 KB made on the spot (noise, so that nothing compresses away).
Out: one table with the peak resident memory of a fresh process for each number of rows and step; what counts is that
it stays the same. `imports` is the peak before the step, with every library loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from compact_hf.images.look import image_id_of
from compact_hf.records import Message, Row, Turn, digest

EDGE = 185  # pixels; noise of this size takes about 30 KB as a JPEG
CAPABILITIES = ("color", "shape", "counting")
STEPS = ("write", "validate")


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
    imports, start = peak(), time.perf_counter()
    if step == "write":
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

"""Makes the processes of tests faster without testing less: scenes and plots that many tests need are drawn only once.

`take()` patches the current process: that of conftest.py, and the server of preforked.py before it forks.
"""

from __future__ import annotations

import hashlib
import io
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

import yaml

from tests.preforked import DIRECTORY_VARIABLE


@cache
def take() -> Callable[[bool], None]:
    """Apply all shortcuts. Return a function that enables or disables real plots, for tests about plots."""
    # huggingface_hub reads cards with PyYAML's slow Python parser; the C parser saves a twentieth of the tests' time.
    yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[misc,assignment]
    # Every client reads the certificates again, which takes 30 ms, and needs none of them on the loopback interface.
    ssl.create_default_context = cache(ssl.create_default_context)
    directory = Path(os.environ[DIRECTORY_VARIABLE])
    _share_scenes(directory)
    return _share_plots(directory)


def _share_scenes(directory: Path) -> None:
    """Draw each scene only once: a run, its verification and its dataset read the same few scenes many times."""
    from compact_hf.scenes.source import SceneSource

    source, read = SceneSource(0, 1), SceneSource.read

    @lru_cache(maxsize=1000)
    def read_once(ref: str) -> bytes:
        return _make_once(directory / f"{ref}.png", lambda: read(source, ref))

    SceneSource.read = lambda self, ref: read_once(ref)  # type: ignore[method-assign]


def _share_plots(directory: Path) -> Callable[[bool], None]:
    """Draw one plot for each name and number of rows, and use it for all others, too.

    Tests write hundreds of datasets and pages, whose plots would take most of the time.
    """
    from PIL import Image, PngImagePlugin

    from compact_hf.reports.figure import Plot

    real_svg, real_png = Plot.svg, Plot.png

    def get_path(plot: Plot, suffix: str) -> Path:
        key = plot.name, len(plot.table.head), len(plot.table.rows)
        return directory / f"{hashlib.sha256(repr(key).encode()).hexdigest()}{suffix}"

    def svg(plot: Plot) -> str:
        return _make_once(get_path(plot, ".svg"), lambda: real_svg(plot).encode()).decode()

    def png(plot: Plot, *, dpi: int = 200, notes: Mapping[str, str] | None = None) -> bytes:
        data = _make_once(get_path(plot, ".png"), lambda: real_png(plot, dpi=20))
        info, out = PngImagePlugin.PngInfo(), io.BytesIO()
        for name, text in (notes or {}).items():
            info.add_text(name, text)
        Image.open(io.BytesIO(data)).save(out, "PNG", pnginfo=info, compress_level=1)
        return out.getvalue()

    def set_real_plots(enabled: bool) -> None:
        Plot.svg, Plot.png = (real_svg, real_png) if enabled else (svg, png)  # type: ignore[method-assign]

    set_real_plots(False)
    return set_real_plots


def _make_once(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the file that a process of this test run has written to this path, or create it."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    data = make()
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    with suppress(OSError):  # a process that may not write files does not share its result
        part.write_bytes(data)
        part.replace(path)
    return data

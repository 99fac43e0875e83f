"""What makes the tests' processes faster and tests no less: what many of them draw or read alike is made once.

`take()` patches the process in which it is called: conftest.py's, and that of preforked.py before it is forked.
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
    """Take all of them; what is returned sets whether every plot is drawn from now on, for tests about plots."""
    # Cards are read with the C parser, which huggingface_hub leaves aside: a twentieth of the tests' time.
    yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[misc,assignment]
    # Every client reads the certificates anew, 30 ms each, and needs none of them on the loopback interface.
    ssl.create_default_context = cache(ssl.create_default_context)
    directory = Path(os.environ[DIRECTORY_VARIABLE])
    _share_scenes(directory)
    return _share_plots(directory)


def _share_scenes(directory: Path) -> None:
    """Draw each scene once: a run, its verification and its release read the same few again and again."""
    from compact_hf.scenes.source import SceneSource

    source, read = SceneSource(0, 1), SceneSource.read

    @lru_cache(maxsize=1000)
    def read_once(ref: str) -> bytes:
        return _make_once(directory / f"{ref}.png", lambda: read(source, ref))

    SceneSource.read = lambda self, ref: read_once(ref)  # type: ignore[method-assign]


def _share_plots(directory: Path) -> Callable[[bool], None]:
    """Draw one plot of each name and number of rows, and show it for the others too.

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
    """Return what a process of this test run has made under this path, or make it."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    data = make()
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    with suppress(OSError):  # where a process may write nothing, it makes it for itself
        part.write_bytes(data)
        part.replace(path)
    return data

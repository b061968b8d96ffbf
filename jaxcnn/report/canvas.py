"""What figures are drawn on: one style, the Agg renderer, PNG bytes that depend on the drawing alone."""

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from jaxcnn.errors import UsageError, line
from jaxcnn.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 10,
    "text.parse_math": False,  # a class may be named "$1 to $2"
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "figure.titleweight": "bold",
}


def house_style() -> Any:
    """Return the context all drawing happens in: our style over matplotlib's defaults, not the user's.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib.style
    except ImportError:
        raise UsageError("figures need matplotlib: pip install 'jaxcnn[report]'") from None
    return matplotlib.style.context(["default", STYLE])


def blank(width: float, height: float) -> "Figure":
    """Return an empty figure of that many inches, rendered by Agg and outside pyplot's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure


def notice(title: str, text: str) -> "Figure":
    """Return a figure that says why there is nothing to draw."""
    figure = blank(6, 1.5)
    figure.suptitle(title)
    figure.text(0.5, 0.4, text, ha="center", va="center")
    return figure


def png(figure: "Figure") -> bytes:
    """Return a figure as the bytes of a PNG file, free of dates and versions: equal figures, equal bytes."""
    content = io.BytesIO()
    with house_style():
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def show_image(axes: "Axes", image: UInt8[np.ndarray, "h w c"]) -> None:
    """Draw an image: three channels as RGB, any other number as the grey mean of the channels."""
    if image.shape[-1] == 3:
        axes.imshow(image)
    else:
        axes.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)


def shorten(text: str, length: int) -> str:
    """Return the text, cut to so many characters, with ? for bytes of a file's name that are none."""
    text = text.encode(errors="replace").decode()
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def write_figures(figures: Mapping[str, Callable[[], "Figure"]], folder: Path, say: Callable[[str], None]) -> None:
    """Write `<name>.png` of each; one that cannot be drawn is told, and costs no other, nor the run its result."""
    warnings.filterwarnings("ignore", module=r"jaxcnn\.report\.")  # that a font lacks letters of a class's name
    for name, draw in figures.items():
        try:
            write_atomically(folder / f"{name}.png", png(draw()))
        except (Exception, SystemExit) as error:
            say(f"no figure {name}: {line(error)}")

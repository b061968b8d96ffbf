"""A sheet of training examples: what augmentation did to each."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from jaxcnn.report.canvas import blank, house_style, shorten, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_PAIR_INCHES = 2.9
_LINE = 40  # characters beside each other over a pair
_UNUSED = "#C00000"


def sample_sheet(
    title: str,
    views: UInt8[np.ndarray, "n h w c"],
    images: UInt8[np.ndarray, "n h w c"],
    captions: Sequence[str],
    counts: Bool[np.ndarray, " n"],
) -> "Figure":
    """Draw pairs of images: on the left as it is evaluated, on the right as it is trained on.

    Args:
        title: of the sheet.
        views: the left ones.
        images: the right ones.
        captions: one for each pair.
        counts: False where the caption is to stand out, because the example does not count.

    Raises:
        UsageError: matplotlib is not installed.
    """
    count, height, width, channels = images.shape
    gap = np.full((count, height, max(1, width // 24), channels), 255, np.uint8)
    pairs = np.concatenate([views, gap, images], axis=2)
    columns = min(_COLUMNS, count)
    lines = -(-count // columns)
    with house_style():
        aspect = pairs.shape[1] / pairs.shape[2]
        figure = blank(max(5.5, _PAIR_INCHES * columns), 0.7 + lines * (0.25 + _PAIR_INCHES * aspect))
        figure.suptitle(f"{title}\nleft: as evaluated, right: as trained on", fontsize=11)
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, pair, caption, good in zip(grid, pairs, captions, counts, strict=False):
            show_image(axes, pair)
            colour = "black" if good else _UNUSED
            text = textwrap.fill(shorten(caption, 2 * _LINE), _LINE)
            axes.set_title(text, fontsize=8.5, fontweight="normal", loc="left", color=colour)
        return figure

"""Numbers from outside, brought to the type of a field: nothing that does not fit becomes something else unseen."""

from typing import Any

import numpy as np
from jaxtyping import Shaped


def cast(values: Shaped[np.ndarray, "*shape"], dtype: Any) -> Shaped[np.ndarray, "*shape"]:
    """Return numbers as another type.

    Raises:
        ValueError: one line: they are no numbers, NaN or infinite, whole numbers are expected, or one is out of range.
            4294967297 is no int32, which a plain cast makes 1.
    """
    wanted = np.dtype(dtype)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"is {values.dtype}, expected numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    if not np.can_cast(values.dtype, wanted, "same_kind") and (values.dtype.kind == "f" or wanted.kind in "b"):
        raise ValueError(f"is {values.dtype}, expected {wanted}")
    if values.size and wanted.kind in "iu":
        check_range(values, np.iinfo(wanted).min, np.iinfo(wanted).max)
    if values.size and wanted.kind == "f":
        check_range(values, np.finfo(wanted).min, np.finfo(wanted).max)
    return values.astype(wanted, copy=False)


def check_range(values: np.ndarray, low: float, high: float) -> None:
    """Raise ValueError where a number is not in [low, high]; there is one at least."""
    least, most = values.min(), values.max()
    if least < low or most > high:
        found = f"{least:g} to {most:g}" if values.dtype.kind == "f" else f"{least} to {most}"
        raise ValueError(f"holds {found}, expected {low:g} to {high:g}" if values.ndim else f"is {least}")

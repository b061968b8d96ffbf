"""Tables as text: what the commands print."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxcnn.errors import RunError
from jaxcnn.models.summary import LayerRow, ModelRow
from jaxcnn.models.trace import added
from jaxcnn.report.results import Measured
from jaxcnn.report.tables import final_table, metric_name, metric_value

# Rows of a table beyond which --json is for.
_CLASSES_SHOWN, _BAD_SHOWN = 20, 10


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return columns as wide as they need, whatever the terminal: a number cut in two is worse than a long line.

    Args:
        header: of the columns.
        rows: their cells.
        right: the columns that are flush right.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def metrics_table(metrics: Mapping[str, float]) -> str:
    """Return metrics by name."""
    return table(["metric", "value"], [(metric_name(k), metric_value(k, v)) for k, v in metrics.items()])


def models_table(found: Sequence[ModelRow]) -> str:
    """Return models with their size and cost."""
    rows = [
        (
            *(row.name, row.family, str(row.year), row.paper, by(row.input_shape)),
            *(f"{row.params:,}", _mega(row.macs), _count(row.receptive_field)),
        )
        for row in found
    ]
    return table(["name", "family", "year", "paper", "input", "parameters", "MACs", "sees"], rows, right=(5, 6, 7))


def summary_table(found: Sequence[LayerRow], what: str) -> str:
    """Return a model layer by layer, or by stages, and the sums; `what` the rows are."""

    def numbers(params: int | None, macs: int | None, sees: str, memory: int | None) -> tuple[str, ...]:
        return _count(params), _mega(macs), sees, "-" if memory is None else f"{memory / 2**20:,.2f} MiB"

    rows = [
        (
            *(row.path, row.kind, by(row.output_shape)),
            *numbers(row.params, row.macs, _count(row.receptive_field), row.activation_bytes),
        )
        for row in found
    ]
    sums = [added(column) for column in zip(*((r.params, r.macs, r.activation_bytes) for r in found), strict=True)]
    rows.append(("total", "", "", *numbers(sums[0], sums[1], "", sums[2])))
    header = [what, "kind", "output", "parameters", "MACs", "sees", "activations"]
    return table(header, rows, right=(3, 4, 5, 6))


def by(shape: Sequence[int]) -> str:
    """Return sizes, as in 224x224x3."""
    return "x".join(map(str, shape))


def _mega(macs: int | None) -> str:
    return "-" if macs is None else f"{macs / 1e6:,.1f} M"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def guesses_table(images: Sequence[Any], found: Sequence[Sequence[Any]]) -> str:
    """Return the most probable classes of each image, as `jaxcnn.weights.predict` gives them."""
    rows = [
        (str(image), f"{guess.probability:.4f}", str(guess.index), guess.name)
        for image, best in zip(images, found, strict=True)
        for guess in best
    ]
    return table(["image", "probability", "index", "class"], rows, right=(1, 2))


def files_table(paths: Sequence[Path]) -> str:
    """Return files with their sizes."""
    return table(["file", "MiB"], [(str(path), f"{path.stat().st_size / 2**20:,.2f}") for path in paths], right=(1,))


def result_table(run: Any) -> str:
    """Return what a finished run came to."""
    figures = sorted((run.path / "figures").glob("*.png"))
    rows = final_table(run.result, run.description.class_names)
    rows += [("figure", str(path)) for path in figures] + [("run folder", str(run.path))]
    return table([run.experiment.name, ""], rows)


def seeds_table(runs: Sequence[Any]) -> str:
    """Return what each seed's run came to, and their mean."""
    metric, scores, rows = "", [], []
    for run in runs:
        result = run.result
        value = result["status"]
        if value == "finished":
            metric = result.get("metric") or "test/loss"
            scores.append(result["metrics"].get(metric, float("nan")))
            value = metric_value(metric, scores[-1])
        rows.append((str(result["seed"]), value, str(run.path)))
    if scores:
        rows.append(("mean", Measured.of(scores).text(metric), ""))
    return table(["seed", metric_name(metric), "run folder"], rows)


def check_seeds(runs: Sequence[Any]) -> None:
    """Raise RunError where some of several runs have failed."""
    failed = [f"seed {run.result['seed']}: {run.result['error']}" for run in runs if "error" in run.result]
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} seeds failed: {'; '.join(failed)}")


def survey_text(name: str, config: Any, store: Any, found: Mapping[str, Any]) -> str:
    """Return what was found in the splits of a data set.

    Args:
        name: of the data set.
        config: of it, a `DataConfig`.
        store: of it.
        found: surveys by split, as `jaxcnn.data.survey` returns them.
    """
    head = [f"{name} ({config.source}), {len(store.class_names):,} classes"]
    head += [f"{key}: {value}" for key, value in _origin(store.provenance)] + [f"note: {store.note}"] * bool(store.note)
    size = "as stored" if config.image_size is None else f"at {config.image_size}x{config.image_size}"
    lines = {
        "examples": lambda part: f"{part.examples:,}",
        "bad": lambda part: f"{len(part.bad):,}",
        "examples of a class": lambda part: _range(part.class_counts),
        "height, min median max": lambda part: _spread(part.height),
        "width, min median max": lambda part: _spread(part.width),
        "files": lambda part: _shares(part.formats),
        "modes": lambda part: _shares(part.modes),
        f"mean, {size}": lambda part: " ".join(f"{value:.4f}" for value in part.mean),
        f"deviation, {size}": lambda part: " ".join(f"{value:.4f}" for value in part.std),
    }
    classes = [
        (class_name, *(f"{part.class_counts[label]:,}" if part.class_counts else "0" for part in found.values()))
        for label, class_name in enumerate(store.class_names)
    ]
    numbers = range(1, len(found) + 1)
    bad = [(split, bad.name, bad.reason) for split, part in found.items() for bad in part.bad]
    ignored = [(file,) for file in store.ignored]
    parts = [
        "\n".join(head),
        table(["split", *found], [(label, *map(show, found.values())) for label, show in lines.items()]),
        _some(["class", *found], classes, _CLASSES_SHOWN, "classes", numbers),
        _some(["split", "cannot be used", "why"], bad, _BAD_SHOWN, "examples that cannot be used"),
        _some(["no image, passed over"], ignored, _BAD_SHOWN, "files"),
    ]
    return "\n\n".join(filter(None, parts))


def survey_json(name: str, config: Any, store: Any, found: Mapping[str, Any]) -> str:
    """Return all that is known as JSON; the arguments are those of `survey_text`."""
    splits = {split: asdict(part) | {"bad": [bad._asdict() for bad in part.bad]} for split, part in found.items()}
    values = {
        "name": name,
        "source": config.source,
        "image_size": config.image_size,
        "note": store.note,
        "class_names": list(store.class_names),
        "splits": splits,
        "ignored": list(store.ignored),
        "cache": {"sha256_verified": True, **store.provenance} if store.provenance else None,
    }
    return json.dumps(values, indent=1)


def _some(
    header: Sequence[str], rows: Sequence[Sequence[str]], shown: int, what: str, right: Sequence[int] = ()
) -> str:
    """Return the first rows as a table, and how many more there are; "" where there is none."""
    more = f"\n... {len(rows) - shown:,} more of {len(rows):,} {what}: --json has all" * (len(rows) > shown)
    return table(header, rows[:shown], right) + more if rows else ""


def _origin(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a cache says of itself, [] for what is none."""
    if not provenance:
        return []
    made, origin = provenance["made"], provenance["origin"]
    quality = "" if made["quality"] is None else f" of quality {made['quality']}"
    left_out = sum(len(split["left_out"]) for split in provenance["splits"].values())
    return [
        ("made from", f"{origin['name']} ({origin['source']}), by jaxcnn {provenance['jaxcnn']}"),
        ("made to", f"a short side of at most {made['resize']} pixels, {made['format']}{quality}"),
        ("left out", f"{left_out:,} examples that could not be used"),
        ("SHA-256", "of every file is what was written"),
    ]


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts):,} to {max(counts):,}" if counts else "-"


def _spread(lengths: Any) -> str:
    return "-" if lengths is None else f"{lengths.min} {lengths.median:g} {lengths.max}"


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {100 * count / total:.4g} %" for name, count in counts.items()) or "-"


def cache_table(store: Any, before: Mapping[str, int], cache: Any) -> str:
    """Return how large a cache is beside what it was made of.

    Args:
        store: what it was made of.
        before: bytes read of each split.
        cache: the store that was written.
    """
    entries = cache.provenance["splits"]
    after = {split: sum(file["bytes"] for file in entry["files"].values()) for split, entry in entries.items()}
    rows = [
        (split, f"{size:,}", str(store.sizes[split] - size), *_sizes(before[split], after[split]))
        for split, size in cache.sizes.items()
    ]
    kept = sum(cache.sizes.values())
    sums = _sizes(sum(before.values()), sum(after.values()))
    rows.append(("total", f"{kept:,}", str(sum(store.sizes.values()) - kept), *sums))
    return table(["split", "images", "left out", "MiB before", "MiB", "size"], rows, right=range(1, 6))


def cache_line(path: Path, short_side: int, sizes: Mapping[str, int]) -> str:
    """Return the line of an experiment that reads a cache of images of this size with these splits."""
    splits = ""
    if "test" not in sizes:
        other = next((name for name in ("validation", "val") if name in sizes), None)
        splits = ', train_split="train[:90%]", test_split="train[90%:]"' if other is None else f', test_split="{other}"'
    return f'data=DataConfig(source="cache", path=Path("{path}"), image_size={min(short_side, 224)}{splits})'


def _sizes(before: int, after: int) -> tuple[str, str, str]:
    """Return both in MiB, and how they compare."""
    smaller = before >= after
    ratio = before / after if smaller else after / max(before, 1)
    return f"{before / 2**20:,.2f}", f"{after / 2**20:,.2f}", f"{ratio:.2f} times {'smaller' if smaller else 'larger'}"

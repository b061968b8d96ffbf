"""scripts/bench_input.py on a few small images, without peers and with those whose interpreters are at hand."""

import importlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.errors import RunError, UsageError

SCRIPTS = Path(__file__).parents[2] / "scripts"
SETTING = {"size": 16, "threads": 1, "batch": 4, "images": 8, "warm_up": 4}


@pytest.fixture
def bench(monkeypatch):
    """The script as a module; the process of the tests keeps its settings."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("bench_input")
    monkeypatch.setattr(module.backend, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(module, "_SETTLE_SECONDS", 0)
    return module


def encoded(number, kind="JPEG", mode="RGB"):
    pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Seven images at two depths, one a PNG under another name and one cut off, and a file that is none."""
    path = tmp_path / "images"
    (path / "deep").mkdir(parents=True)
    for number in range(5):
        (path / f"deep/{number}.JPEG").write_bytes(encoded(number, mode="L" if number == 3 else "RGB"))
    (path / "other.jpg").write_bytes(encoded(5, "PNG"))
    (path / "short.jpg").write_bytes(encoded(6)[:-200])
    (path / "labels.csv").write_text("a,b\n")
    return path


@pytest.fixture
def tar(tmp_path, folder):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as file:
        file.add(folder, "images")
    return path


def test_the_document(bench, folder, tar, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "memory", lambda stored, setting: {"growth": stored.kind})
    output = tmp_path / "input.json"
    words = ["--images", "8", "--repeats", "2", "--threads", "1", "--size", "16", "--resize", "24", "--batch-size", "4"]
    sources = [str(folder), str(tar)]
    monkeypatch.setattr(sys, "argv", ["bench", "--source", *sources, *words, "--memory", "--output", str(output)])
    bench.main()
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(output.read_text())
    assert found["environment"]["platform"] == "cpu" and "commit" in found["environment"]
    assert found["settings"] == {"repeats": 2, "resize": 24, **SETTING, "warm_up": 2} and found["peers"] == {}
    assert list(found["sources"]) == sources
    ours = {name + suffix for name in ("ours", "raw", "jpeg") for suffix in ("", "_crop")}
    ratios = {
        "ours/bare",
        "ours/by_hand",
        "by_hand/bare",
        "raw/ours",
        "raw_crop/ours_crop",
        "jpeg/ours",
        "jpeg_crop/ours_crop",
    }
    for source, row in found["sources"].items():
        assert row["memory"] == {"growth": "folder" if source == str(folder) else "tar"}
        counts = {name: row["files"][name] for name in ("image_files", "measured", "jpegs_for_peers", "unreadable")}
        assert counts == {"image_files": 7, "measured": 6, "jpegs_for_peers": 5, "unreadable": 1}
        assert "short.jpg" in row["files"]["first_unreadable"][0]
        assert row["crop_from_short_side"] == 24 and row["errors"] == {}
        assert row["bytes"]["raw"] > 6 * 3 * 24 * 24
    for row in (*found["sources"].values(), found["all"]):
        assert set(row["images_per_second"]) == {"bare", "by_hand", *ours} and set(row["ratios"]) == ratios
        for values in (*row["images_per_second"].values(), *row["ratios"].values()):
            assert 0 < values["min"] <= values["median"] <= values["max"]


def test_what_is_made_of_the_measurements(bench):
    first = bench.with_best_tf({"ours": [30.0, 20.0], "tf_fixed": [10.0, 10.0], "tf_autotune": [15.0, 8.0]})
    assert first["tf"] == [15.0, 8.0]  # by the median
    second = {"ours": [60.0, 20.0], "tf": [10.0, 8.0], "torch": [5.0, 5.0]}
    found = bench.summary(first)
    assert found["images_per_second"]["ours"] == {"median": 25.0, "min": 20.0, "max": 30.0}
    assert found["ratios"] == {"ours/tf": {"median": 2.25, "min": 2.0, "max": 2.5}}  # 30/15 and 20/8
    assert bench.with_best_tf({"ours": [1.0]}) == {"ours": [1.0]}
    # As many images of each: two images in 1/30 s + 1/60 s.
    assert bench.over_sources([first, second]) == {"ours": [40.0, 20.0], "tf": [12.0, 8.0]}


def test_turns(bench):
    made, fails = [], iter([2.0])

    def peer():
        made.append("peer")
        for rate in fails:
            return rate
        raise RunError("it ended")

    with bench.Counter(6) as counter:
        found = bench.in_turns({"ours": lambda: made.append("ours") or 1.0, "peer": peer}, 3, counter)
    assert found == ({"ours": [1.0, 1.0, 1.0]}, {"peer": "it ended"})
    assert made == ["ours", "peer", "ours", "peer", "ours"]  # not asked again


def test_images_per_second(bench, monkeypatch):
    protocol = importlib.import_module("peer_protocol")
    taken, closed = [], []

    def batches():
        try:
            for number in range(9):
                taken.append(number)
                yield "four"
        finally:
            closed.append(True)

    monkeypatch.setattr(protocol.time, "perf_counter", iter([10.0, 12.0]).__next__)
    assert protocol.images_per_second(batches(), images=10, warm_up=5) == 6.0  # 12 in 2 s
    assert len(taken) == 5 and closed


def test_memory(bench, folder, tmp_path, monkeypatch):
    files = bench.lay_out(folder, tmp_path / "new")
    monkeypatch.setattr(bench, "_resident_bytes", iter([100 << 20, 150 << 20, 101 << 20]).__next__)
    found = bench.memory(files.stored, bench.Setting(**SETTING), looks=(4, 6, 20))
    assert found == {"resident_mib": {4: 100.0, 6: 150.0, 20: 101.0}, "growth_mib": 1.0, "growth": 0.01}
    monkeypatch.undo()
    if Path("/proc/self/statm").exists():
        assert bench._resident_bytes() > 2**24


def test_larger_sources_are_sampled_evenly(bench, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("input_files"), "_MOST_FILES", 3)
    files = bench.lay_out(folder, tmp_path / "new")
    assert (files.about["image_files"], files.about["measured"]) == (7, 3)
    assert files.sizes == [(30, 40), (32, 40), (34, 40)]


def test_mistakes(bench, folder, tmp_path):
    def error(*sources, **options):
        with pytest.raises(UsageError) as caught:
            bench.benchmark(bench.Arguments(source=sources, **{"batch_size": 4, **options}))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "--source names nothing" in error()
    for option in ("images", "repeats", "threads", "size", "resize", "batch_size"):
        assert f"--{option.replace('_', '-')} is 0: expected at least 1" in error(folder, **{option: 0})
    assert "--resize is 100: expected at least --size 224" in error(folder, resize=100)
    assert "none: No such file or directory: expected a folder of images, a tar of them" in error(tmp_path / "none")
    assert "expected a folder of images, a tar of them" in error(folder / "labels.csv")
    assert "--batch-size is 7: expected at most 6" in error(folder, batch_size=7)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.png").write_bytes(encoded(0, "PNG"))
    assert "no JPEG file that can be read, among 1 image files" in error(empty)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')  # without site-packages
    bare.chmod(0o755)
    said = error(folder, tf_python=bare)
    assert "it has no tensorflow" in said and f"({bare} -m pip install tensorflow)" in said
    said = error(folder, torch_python=bare)
    assert "it has no torch, or no Pillow" in said and f"({bare} -m pip install torch pillow)" in said
    assert "No such file" in error(folder, torch_python=tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["tf", "torch"])
def test_peers_answer(bench, folder, tmp_path, peer):
    name = {"tf": "JAXCNN_TF_PYTHON", "torch": "JAXCNN_TORCH_PYTHON"}[peer]
    if not os.environ.get(name):
        pytest.skip(f"needs {name}, an interpreter for the {peer} side")
    files = bench.lay_out(folder, tmp_path / "new")
    arguments = bench.Arguments(source=(folder,), **{f"{peer}_python": Path(os.environ[name])})
    ((found, process),) = bench._peers(arguments)
    try:
        assert found == peer and process.about["python"]
        answer = process.ask("load", folder=str(files.jpegs), **SETTING)
        assert answer == {"files": 5, "ways": {"tf": ["tf_fixed", "tf_autotune"], "torch": ["torch"]}[peer]}
        for way in answer["ways"]:
            assert process.ask("run", way=way)["images_per_second"] > 0
        with pytest.raises(RunError, match="unknown command 'stop'"):
            process.ask("stop")
    finally:
        process.close()

"""`jaxcnn data` as a user meets it: what it prints and writes, and one clear line for what cannot be."""

import io
import json
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcnn import (
    CutMix,
    DataConfig,
    Experiment,
    Flip,
    ModelConfig,
    Momentum,
    PadCrop,
    TrainConfig,
    Trainer,
    cli,
    cli_data,
    progress,
)
from jaxcnn.data import load
from jaxcnn.data.augment import Augmentation
from jaxcnn.data.crops import RandomResizedCrop
from jaxcnn.data.order import LastBatch
from jaxcnn.data.samples import training_samples
from jaxcnn.data.sources import OPENERS
from jaxcnn.data.survey import named, opened, survey
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.typed import variants

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_data, "prepare_process", lambda *, distributed: None)


def encoded(number, kind="JPEG", mode="RGB"):
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8))
    out = io.BytesIO()
    small.resize((20 + number, 16), Image.Resampling.BICUBIC).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    """17 and 6 images; one is a PNG, one grey, one of CMYK, all named .JPEG; a zero byte file; and a note."""
    root = tmp_path / "images"
    odd = {1: {"kind": "PNG"}, 2: {"mode": "L"}, 4: {"mode": "CMYK"}}
    for number in range(23):
        path = root / ("train" if number < 17 else "val") / CLASSES[number % 3] / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, **odd.get(number, {})))
    (root / "train/ant/empty.JPEG").write_bytes(b"")
    (root / "train/bee/notes.txt").write_text("x")
    return root


def tar_of(folder, path):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "")
    return path


def ran(capsys, *words):
    """Run a command that is to succeed and return what it prints."""
    assert cli._main(["data", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.fixture
def refused(capsys):
    """Run a command that is to be refused and return the line on stderr."""

    def refused(*words, code=2):
        assert cli._main(["data", *map(str, words)]) == code
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("jaxcnn: error: "), err
        return err.removeprefix("jaxcnn: error: ").rstrip()

    return refused


def test_inspect(folder, capsys):
    out = ran(capsys, "inspect", folder)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == f"{folder} (folder), 3 classes"
    for line in (
        "split train val",
        "examples 18 6",
        "bad 1 0",
        "examples of a class 5 to 6 2 to 2",
        "height, min median max 16 16 16 16 16 16",
        "width, min median max 20 28 36 37 39.5 42",
        "files JPEG 94.12 %, PNG 5.882 % JPEG 100 %",
        "modes RGB 88.24 %, L 5.882 %, CMYK 5.882 % RGB 100 %",
        "class train val",
        "cat 5 2",
        f"train {folder}/train/ant/empty.JPEG an empty file",
        f"{folder}/train/bee/notes.txt",
    ):
        assert line in lines, f"{line!r} is not in {lines}"


def test_inspect_takes_what_training_takes(tmp_path, capsys):
    """JPEG files that Pillow does not open; grey of 16 bits; floating point; a folder whose name is no text."""
    whole = encoded(1)
    short = [b"\xff\xe0\0\x07JFIF\0", b"\xff\xee\0\x07Adobe", b"\xff\xe2\0\x0eICC_PROFILE\0"]
    files = {f"ant/{number}.jpg": whole[:2] + segment + whole[2:] for number, segment in enumerate(short)}
    files["bee/deep.png"] = png(np.full((16, 21), 0x8000, np.uint16))
    tiff = io.BytesIO()
    Image.fromarray(np.zeros((16, 21), np.float32)).save(tiff, "TIFF")
    files["bee/float.tif"] = tiff.getvalue()
    files["caf\udce9/0.jpg"] = whole
    for name, content in files.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    found = json.loads(ran(capsys, "inspect", tmp_path / "x", "--json"))
    train = found["splits"]["train"]
    assert train["formats"] == {"JPEG": 4, "PNG": 1} and train["modes"] == {"RGB": 4, "I;16": 1}
    (bad,) = train["bad"]
    assert bad["name"].endswith("bee/float.tif") and "floating point numbers, whose range is not known" in bad["reason"]
    assert found["class_names"] == ["ant", "bee", r"caf\udce9"]
    assert r"caf\udce9" in ran(capsys, "inspect", tmp_path / "x").encode().decode()
    parts = {"train_split": "train[1:]", "test_split": "train[:1]"}
    data = load(DataConfig(source="folder", path=tmp_path / "x", image_size=8, bad_limit=0.5, **parts))
    assert len(data.train.bad) + len(data.test.bad) == 1


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("image_size", [None, 12])
def test_inspect_measures_what_training_measures(folder, capsys, image_size):
    size = [] if image_size is None else ["--image-size", image_size]
    found = json.loads(ran(capsys, "inspect", folder, "--split", "train", "--json", *size))
    assert list(found["splits"]) == ["train"] and found["class_names"] == list(CLASSES) and found["cache"] is None
    train = found["splits"]["train"]
    assert (train["examples"], train["class_counts"]) == (18, [6, 6, 5])
    assert train["bad"] == [{"name": f"{folder}/train/ant/empty.JPEG", "reason": "an empty file"}]
    assert found["ignored"] == [f"{folder}/train/bee/notes.txt"]
    assert train["width"] == {"min": 20, "median": 28.0, "max": 36}
    if image_size is None:
        files = [p for p in (folder / "train").rglob("*.JPEG") if p.stat().st_size]
        pixels = np.concatenate([np.asarray(Image.open(p).convert("RGB")).reshape(-1, 3) for p in files]) / 255
        mean, std = pixels.mean(0), pixels.std(0)
        np.testing.assert_allclose([train["mean"], train["std"]], [mean, std], rtol=1e-12)
    else:
        config = DataConfig(source="folder", path=folder, image_size=image_size, test_split="val", bad_limit=0.1)
        mean, std = load(config).norms
        np.testing.assert_array_equal(np.float32([train["mean"], train["std"]]), [mean, std])


def test_a_name_tells_the_source(folder, tmp_path, capsys):
    tar = tar_of(folder, tmp_path / "images.tar")
    (tmp_path / "tars").mkdir()
    tar_of(folder, tmp_path / "tars/a.tar")
    arrays = {"train_images": np.zeros((3, 4, 5, 4), np.uint8), "train_labels": np.array([0, 0, 1])}
    np.savez(tmp_path / "arrays.npz", **arrays)
    sources = {"digits": "digits", folder: "folder", tar: "tar", tmp_path / "tars": "tar", "arrays.npz": "npz"}
    assert [named(str(name)).source for name in sources] == list(sources.values())
    assert named("cifar10").source == named(folder.name, tmp_path).source == "tfds"
    described = [json.loads(ran(capsys, "inspect", name, "--json"))["splits"] for name in (folder, tar)]
    for splits in described:
        for split in splits.values():
            split["bad"] = [Path(bad["name"]).name for bad in split["bad"]]
    assert described[0] == described[1]
    assert "4 channels 100 %" in ran(capsys, "inspect", "arrays.npz")
    assert "1,437" in ran(capsys, "inspect", "digits")


def test_threads_and_order_make_no_difference(folder):
    store, config = opened(named(str(folder))), named(str(folder))
    found = [survey(store, "train", replace(config, threads=threads)) for threads in (1, 4)]
    assert found[0] == found[1]


def test_tables_are_shortened(tmp_path, capsys):
    for number in range(30):
        path = tmp_path / f"many/{number:02}/x.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(1) if number < 3 else b"not one")
    out = ran(capsys, "inspect", "many")
    assert "... 10 more of 30 classes: --json has all" in out
    assert "... 17 more of 27 examples that cannot be used: --json has all" in out
    assert "\n20 " not in out and "\n19 " in out


def test_all_bad(tmp_path, capsys):
    path = tmp_path / "bad/x/1.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    lines = [" ".join(line.split()) for line in ran(capsys, "inspect", "bad").splitlines()]
    assert "files -" in lines and "height, min median max -" in lines and "x 0" in lines


def test_prepare(folder, capsys):
    out = ran(capsys, "prepare", folder, "--resize", "8", "--bad-limit", "0.1")
    rows = [line.split() for line in out.splitlines()]
    assert rows[2][:3] == ["train", "17", "1"] and rows[4][:3] == ["total", "23", "1"]
    line = 'data=DataConfig(source="cache", path=Path("images_8_jpeg"), image_size=8, test_split="val")'
    assert out.endswith(f"images_8_jpeg, in an experiment:\n    {line}\n")
    dataset = load(eval(line.removeprefix("data="), {"DataConfig": DataConfig, "Path": Path}))
    assert (len(dataset.train), len(dataset.test)) == (17, 6)
    out = ran(capsys, "inspect", "images_8_jpeg")
    assert f"made from: {folder} (folder), by jaxcnn" in out and "left out: 1 examples" in out
    assert "made to: a short side of at most 8 pixels, jpeg of quality 95" in out and "SHA-256: of every" in out
    cache = json.loads(ran(capsys, "inspect", "images_8_jpeg", "--json"))["cache"]
    assert cache["sha256_verified"] and cache["origin"] == {"source": "folder", "name": str(folder)}


def test_prepare_pixels(capsys):
    out = ran(capsys, "prepare", "digits", "--format", "raw", "--output", "new/cache")
    assert "times larger" in out and 'path=Path("new/cache"), image_size=224)' in out  # names and sizes, beside pixels
    assert Path("new/cache/train.data").stat().st_size == 1437 * 64


def test_a_damaged_cache_is_told(folder, capsys, refused):
    ran(capsys, "prepare", folder, "--resize", "8", "--bad-limit", "0.1", "--output", "cache")
    data = Path("cache/val.data").read_bytes()
    Path("cache/val.data").write_bytes(data[:-3] + b"xyz")
    assert (
        refused("inspect", "cache") == "cache/val.data is not what was written: the cache is damaged, prepare it again"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("inpsect", "unknown data command 'inpsect': did you mean 'inspect'?"),
        ("--foo", "unknown data command '--foo': valid choices are convert, inspect, prepare, show"),
        ("inspect", "NAME is missing: expected text, see jaxcnn data inspect --help"),
        ("inspect ./none", "./none: no such file or folder"),
        ("inspect none.tar", "none.tar: no such file or folder"),
        (
            "inspect mnits",
            "there is no file or folder 'mnits', and unknown TFDS data set 'mnits': did you mean 'mnist'",
        ),
        ("inspect mnist --path none", "none: no such folder, expected TFDS's data folder"),
        ("inspect images --split tset", "unknown split 'tset': valid choices are train, val"),
        ("inspect images --image-size 0", "--image-size is 0: expected a whole number, 1 or more or None"),
        ("inspect images --image-size x", "--image-size is 'x': expected a whole number, 1 or more or None"),
        ("inspect images --jsn", "unknown option --jsn: did you mean --json?"),
        ("inspect images x", "unexpected argument 'x': see jaxcnn data inspect --help"),
        ("inspect text", "text is no tar file"),
        ("inspect empty", "empty holds no class folders"),
        ("inspect images/train/ant", "images/train/ant holds no class folders"),
        ("inspect prepared", "prepared is a prepared TFDS data set: give its name"),
        ("prepare images --format png", "unknown --format 'png': did you mean 'jpeg'?"),
        ("prepare images --resize 0", "--resize is 0: expected a whole number, 1 or more"),
        ("prepare images --quality 101", "--quality is 101: expected a whole number in [1, 100]"),
        ("prepare images --bad-limit 2", "--bad-limit is 2.0: expected a finite number in [0, 1]"),
        ("prepare images --output empty", "empty exists: remove it, or name another folder"),
        ("prepare images --output /proc/x", "/proc/x cannot be written: "),
        ("prepare images --output text/x", "text/x cannot be written: "),
        ("convert", "NAME is missing: expected text, see jaxcnn data convert --help"),
        ("convert mnits", "unknown TFDS data set 'mnits': did you mean 'mnist'?"),
        (
            "convert mnist --data-dir empty",
            "TFDS data set 'mnist' is not prepared in empty: there is nothing to convert",
        ),
        ("show", "which experiment? expected jaxcnn data show experiments/NAME.py"),
        ("show none.py", "unknown experiment file 'none.py': did you mean 'e.py'?"),
        ("show e.py --count 0", "--count is 0: expected a whole number in [1, 400]"),
        ("show e.py --step -1", "--step is -1: expected a whole number in [0, 2147483647]"),
        ("show e.py --output e.py", "--output is 'e.py': expected a file that ends in .png"),
        ("show e.py --output text.png", "text.png is there and is no PNG file: remove it, or name another --output"),
        ("show e.py --output /proc/x.png", "/proc/x.png cannot be written: "),
        ("show e.py --data.path none", "data.path none: no such folder"),
        ("show e.py --data.image-size 0", "--data.image-size is 0: expected a whole number, 1 or more or None"),
        ("show e.py --runs-dir x", "unknown option --runs-dir: did you mean --train.seeds-mode?"),
        ("show e.py --train.batch-size 100", "a batch of 100 does not fit the 18 training examples"),
    ],
)
def test_commands_that_cannot_be(folder, refused, words, message):
    Path("text").write_text("hello")
    Path("text.png").write_text("hello")
    Path("empty").mkdir()
    Path("prepared").mkdir()
    Path("prepared/dataset_info.json").write_text("{}")
    write_experiment(experiment(folder))
    before = sorted(Path().rglob("*"))
    assert refused(*words.split()).startswith(message)
    assert sorted(Path().rglob("*")) == before


def test_too_many_bad_examples(folder, refused):
    line = refused("prepare", folder, "--resize", "8", code=1)
    assert line.startswith(
        "1 of the 18 examples of split 'train' cannot be used, more than data.bad_limit 0.001 allows"
    )
    assert [path.name for path in Path().iterdir()] == ["images"]


@pytest.mark.parametrize("words", ["inspect images", "prepare images", "convert x", "show e.py"])
def test_a_signal_stops_it(folder, monkeypatch, capsys, words):
    import jaxcnn.data.stores.convert

    def check(self):
        raise Stopped(15)

    write_experiment(experiment(folder))
    monkeypatch.setattr(StopFlag, "check", check)
    monkeypatch.setattr(jaxcnn.data.stores.convert, "convert", lambda name, data_dir, poll, progress: poll())
    assert cli._main(["data", *words.split(), *(["--data.path", "images"] if "show" in words else [])]) == 143
    assert capsys.readouterr().err == "jaxcnn: stopped by SIGTERM\n"
    assert sorted(path.name for path in Path().iterdir()) == ["e.py", "images"]


def test_convert(monkeypatch, capsys):
    import jaxcnn.data.stores.convert

    monkeypatch.setattr(jaxcnn.data.stores.convert, "convert", lambda name, data_dir, poll, progress: data_dir / name)
    out = ran(capsys, "convert", "mnist", "--data-dir", "here")
    assert out == 'here/mnist, in an experiment:\n    data=DataConfig(source="tfds", name="mnist", path=Path("here"))\n'


@pytest.mark.parametrize(
    "words", [["--help"], [], *([name, "--help"] for name in ("show", "inspect", "prepare", "convert"))]
)
def test_help(words, capsys):
    try:
        code = cli._main(["data", *words])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code or 0) == (0 if words else 2) and out.startswith("usage: jaxcnn data ") and not err
    if words[1:]:
        fields = {"show": "--train.batch-size", "inspect": "--json", "prepare": "--bad-limit", "convert": "--data-dir"}
        assert fields[words[0]] in out
    else:
        assert re.findall(r"^  (\w+)", out, re.MULTILINE) == ["show", "inspect", "prepare", "convert"]


def test_progress_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 12.0, 13.0, 13.5])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    with progress.WorkProgress() as shown:
        for done in (0, 500, 1200, 1300):
            shown("train", done, 3000)
        shown("val", 1, 10)
    assert capsys.readouterr().err == "train: 1,200/3,000  100 images/s  18 s left\n"


def experiment(folder, **data):
    fields = {"source": "folder", "path": folder, "test_split": "val", "image_size": 28, "bad_limit": 0.1} | data
    return Experiment(
        name="e",
        model=ModelConfig(name="lenet5"),
        data=DataConfig(**fields),
        optim=Momentum(),
        train=TrainConfig(batch_size=8, epochs=3),
    )


def samples(experiment, step, count):
    """Return the samples of a training step of an experiment."""
    return training_samples(experiment.data, jax.random.key(experiment.seed), experiment.train.batch_size, step, count)


def write_experiment(experiment):
    """Write e.py, whose EXPERIMENT it is."""
    Path("e.py").write_text(f"from pathlib import *\nfrom jaxcnn import *\nEXPERIMENT = {experiment!r}\n")


@pytest.mark.parametrize(
    "data",
    [
        {"augment": (PadCrop(pad=2), Flip()), "pipeline": "resident"},
        {"augment": (CutMix(),), "train_crop": RandomResizedCrop(), "last_batch": "pad"},
        {"source": "npz", "path": Path("arrays.npz"), "image_size": None, "per_pixel_mean": True},
    ],
    ids=["resident", "streaming", "in memory"],
)
def test_samples_are_the_batch_that_training_gets(folder, data):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1)).astype(np.uint8)
    arrays = {"train_images": images, "val_images": images[:4]}
    np.savez("arrays.npz", train_labels=np.arange(20) % 3, val_labels=np.arange(4) % 3, **arrays)
    # 18 examples in batches of 8: with "pad" the batch of step 5 has 2 that count.
    step, made = 5, experiment(folder, augment=data.pop("augment", ()), **data)
    found = samples(made, step, 8)
    trainer = Trainer.from_experiment(replace(made, train=replace(made.train, devices=1)))
    expected = jax.jit(trainer.inputs.batch)(trainer.stream.at(step))
    trainer.stream.close()
    images = 255 * (np.asarray(expected["image"]) * trainer.data.norms.std + trainer.data.norms.mean)
    mask = np.asarray(expected["mask"])
    np.testing.assert_array_equal(found.counts, mask)
    np.testing.assert_allclose(found.images[mask], images[mask], atol=0.51)
    assert found.views.shape == found.images.shape
    labels, names = np.asarray(expected["label"])[mask], trainer.data.class_names
    captions = [caption for caption, counts in zip(found.captions, mask, strict=True) if counts]
    assert all(names[label] in caption for label, caption in zip(labels, captions, strict=True))
    if "target" in expected:
        targets = np.asarray(expected["target"])[mask]
        for target, caption in zip(targets, captions, strict=True):
            shares = {part.split()[-1]: float(part.split()[0]) for part in caption.split(" + ") if " " in part}
            for name, share in shares.items():
                assert abs(target[names.index(name)] - share) <= 0.005 + 1e-6
        assert any(" + " in caption for caption in captions)
    if made.data.last_batch == "pad":
        assert mask.sum() <= 2 and found.captions.count("filler") == 6


def test_samples_without_augmentation_are_what_is_evaluated(folder):
    found = samples(experiment(folder), 0, 100)
    assert len(found.images) == 8
    np.testing.assert_array_equal(samples(experiment(folder), 0, 3).images, found.images[:3])
    np.testing.assert_array_equal(found.images, found.views)
    bad = [samples(experiment(folder), step, 8) for step in range(3)]
    marked = [(caption, counts) for part in bad for caption, counts in zip(part.captions, part.counts, strict=True)]
    assert ("cannot be used", False) in marked and all((caption in CLASSES) == counts for caption, counts in marked)


def test_show(folder, capsys):
    write_experiment(experiment(folder, augment=(Flip(),)))
    assert ran(capsys, "show", "e.py", "--count", "5") == "5 examples: e_samples.png\n"
    first = Path("e_samples.png").read_bytes()
    assert ran(capsys, "show", "e.py", "--count", "5", "--output", "new/again.png") == "5 examples: new/again.png\n"
    assert Path("new/again.png").read_bytes() == first
    ran(capsys, "show", "e.py", "--count", "5", "--seed", "1")  # over the picture that was there
    assert Path("e_samples.png").read_bytes() != first
    with Image.open("e_samples.png") as picture:
        assert picture.format == "PNG" and picture.width > 500


def test_show_needs_matplotlib(folder, refused, monkeypatch):
    write_experiment(experiment(folder))
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    assert refused("show", "e.py") == "figures need matplotlib: pip install 'jaxcnn[report]'"


def test_the_guide_is_right():
    text = (Path(__file__).parents[1] / "docs/data.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(code, {})
    assert set(re.findall(r"jaxcnn data ([a-z]+)", text)) == set(cli_data.COMMANDS)
    names = [kind.__name__ for kind in variants(Augmentation).values()] + [*OPENERS, *get_args(LastBatch)]
    assert [name for name in names if f"`{name}`" not in text] == []

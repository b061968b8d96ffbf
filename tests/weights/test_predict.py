"""`jaxcnn predict`: the most probable classes, by name."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli, create
from jaxcnn.weights import Preprocessing, load, save
from jaxcnn.weights.predict import imagenet_classes

FILES = Path(__file__).parent / "files"
PREPARED = Preprocessing(size=(28, 28), resize=28, channels="L", mean=(0.5,), std=(0.5,))
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(cli, "prepare_process", lambda *, distributed: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / name)
    variables = create("lenet5").init(jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    for name, names in (("named.safetensors", WORDS), ("unnamed.safetensors", None)):
        save(folder / name, variables, model="lenet5", preprocessing=PREPARED, class_names=names)
    _, features = load("jaxcnn", folder / "named.safetensors", num_classes=None)
    save(folder / "features.safetensors", features)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    save(folder / "broken.safetensors", broken, model="lenet5", preprocessing=PREPARED)
    return folder


def predict(*words):
    assert cli._main(["predict", *map(str, words)]) == 0


def test_json(folder, capsys):
    images = [folder / "b.png", folder / "a.png"]
    predict("--weights", folder / "named.safetensors", *images, "--json", "--top", "3")
    found = json.loads(capsys.readouterr().out)
    model, variables = load("jaxcnn", folder / "named.safetensors")
    assert [entry["image"] for entry in found] == [str(image) for image in images]
    for entry, image in zip(found, images, strict=True):
        wanted = jax.nn.softmax(model.apply(variables, PREPARED(image)[None])[0])
        best = np.argsort(-np.asarray(wanted))[:3]
        assert [guess["index"] for guess in entry["top"]] == best.tolist()
        assert [guess["name"] for guess in entry["top"]] == [WORDS[index] for index in best]
        np.testing.assert_allclose([guess["probability"] for guess in entry["top"]], wanted[best], rtol=1e-5)


def test_a_table_of_the_best_five(folder, capsys):
    predict(folder / "a.png", "--weights", folder / "unnamed.safetensors", "--model", "jaxcnn/lenet5")
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "probability", "index", "class"]
    assert len(rows) == 5 and all(row.startswith(str(folder / "a.png")) for row in rows)
    assert all(row.split()[-2:] == ["class", row.split()[-3]] for row in rows)


def test_an_option_of_one_value_leaves_what_follows(folder, capsys, monkeypatch):
    """It is an image, wherever options stand."""
    monkeypatch.chdir(folder)
    options, printed = ["--weights", "named.safetensors"], []
    for words in (["a.png", "b.png", *options], [*options, "a.png", "b.png"], ["a.png", *options, "b.png"]):
        predict("--top", "1", *words)
        predict("--model=jaxcnn", *words, "--top", "1")
        printed += [capsys.readouterr().out]
    images = [line.split()[0] for line in printed[0].splitlines()]
    assert images == ["image", "-----", "a.png", "b.png"] * 2 and printed[1:] == printed[:1] * 2


def test_more_classes_than_there_are(folder, capsys):
    predict(folder / "a.png", "--weights", folder / "named.safetensors", "--top", "100")
    assert len(capsys.readouterr().out.splitlines()) == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.png", "--weights is missing: expected a path, see jaxcnn predict --help"),
        ("--weights named.safetensors", "IMAGES is missing: expected a list of paths, see jaxcnn predict --help"),
        ("--weights named.safetensors --top 0 a.png", "--top is 0"),
        ("--weights named.safetensors none.png", "the image none.png cannot be used: No such file"),
        ("--weights named.safetensors a.png named.safetensors", "named.safetensors cannot be used: begins with"),
        ("--weights namd.safetensors a.png", "there is no file namd.safetensors: did you mean named.safetensors?"),
        ("--weights a.png a.png", "a.png has an unknown format"),
        ("--weights named.safetensors --model torchvision/resnet51 a.png", "unknown peer 'torchvision/resnet51'"),
        ("--weights named.safetensors --model torchvision/resnet18 a.png", "the tensors are not those of resnet18"),
        ("--weights features.safetensors a.png", "does not classify images"),
        ("--weights broken.safetensors a.png", "no finite numbers"),
        (f"--weights {FILES / 'tensors_zip.pth'} a.png", "does not say which model"),
    ],
)
def test_one_line_for_what_is_wrong(words, message, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli._main(["predict", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("jaxcnn: error: ") and message in err


def test_the_classes_of_imagenet():
    classes = imagenet_classes()
    assert len(classes) == 1000 and [wnid for wnid, _ in classes] == sorted({wnid for wnid, _ in classes})
    # Of the examples in the data's README: index, WordNet id, name.
    for index, wnid, name in (
        (0, "n01440764", "tench"),
        (217, "n02102040", "English springer"),
        (571, "n03425413", "gas pump"),
        (701, "n03888257", "parachute"),
    ):
        assert classes[index] == (wnid, name)

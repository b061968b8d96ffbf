"""From a run to files and from files to a run: export, starting from weights, frozen parts."""

import json
import shutil
from dataclasses import replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import jaxcnn
from jaxcnn import DataConfig, EvalConfig, Experiment, ModelConfig, Momentum, TrainConfig, cli, weights
from jaxcnn.errors import UsageError
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.runs.export import export

CLASSES = ["left", "right", "both"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey images that tell their class by where they are bright."""
    rng = np.random.default_rng(0)
    arrays = {"class_names": np.array(CLASSES)}
    for split, count in (("train", 60), ("test", 20)):
        labels = rng.integers(0, 3, count)
        images = rng.integers(0, 100, (count, 8, 8, 3))
        images[labels != 1, :, :4] += 100
        images[labels != 0, :, 4:] += 100
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def first(data):
    """A network with BatchNorm, a moving average of the parameters and a mean for each pixel."""
    return Experiment(
        name="first",
        model=ModelConfig(name="resnet20", options={"depths": (1, 1), "width": 4}),
        data=DataConfig(source="npz", path=data, per_pixel_mean=True),
        optim=Momentum(learning_rate=0.02),
        train=TrainConfig(batch_size=20, steps=6, devices=1, ema_decay=0.9),
        eval=EvalConfig(every=6),
    )


@pytest.fixture(scope="module")
def run(first, tmp_path_factory):
    return jaxcnn.run(first, tmp_path_factory.mktemp("runs"), progress=False)


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    return export(run.path, tmp_path_factory.mktemp("export"))


@pytest.fixture
def images(data):
    return np.load(data)["test_images"]


def second(first, files, **fields):
    """Another task on the same images: two heads more."""
    model = ModelConfig(name="resnet20", options=first.model.options, weights=files[0], num_classes=5)
    data = replace(first.data, per_pixel_mean=False)
    return replace(first, name="second", model=model, data=data, train=replace(first.train, **fields))


def test_the_weights_are_those_of_evaluation(run, files, images):
    model, variables = weights.load("jaxcnn", files[0])
    assert (variables.model, variables.class_names) == ("resnet20", tuple(CLASSES))
    for ours, theirs in zip(jax.tree.leaves(dict(variables)), jax.tree.leaves(run.state.variables), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    prepared = jnp.stack([variables.preprocessing(image) for image in images])
    found = jax.nn.softmax(model.apply(variables, prepared))
    np.testing.assert_allclose(found, run.predict(images), atol=1e-6)


def test_any_library_reads_the_file(files):
    tensors = load_file(files[0])
    assert tensors["params/stage1/block1/conv1/kernel"].shape == (3, 3, 4, 4)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_the_module_takes_any_batch(run, files, images, batch):
    exported = jax.export.deserialize(bytearray(files[1].read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    logits = exported.call(images[:batch])
    np.testing.assert_allclose(jax.nn.softmax(logits), run.predict(images[:batch]), atol=1e-6)


def test_export_and_predict_on_the_command_line(run, tmp_path, images, capsys):
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["export", str(run.path), "--output", str(tmp_path)])
    assert "model.stablehlo" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main(["predict", "--weights", str(tmp_path / "model.safetensors"), str(tmp_path / "image.png"), "--json"])
    found = capsys.readouterr().out
    best = CLASSES[np.argmax(run.predict(images[:1]))]
    assert best in json.dumps(json.loads(found)).partition("}")[0]


def test_a_run_starts_from_a_file(first, run, files, tmp_path):
    found = jaxcnn.run(second(first, files, steps=1), tmp_path, progress=False)
    ours, theirs = found.state.params, run.state.variables["params"]
    assert ours["head"]["kernel"].shape == (8, 5)
    # One step away at most, and not a new initialisation.
    distance = np.abs(ours["stage1"]["block1"]["conv1"]["kernel"] - theirs["stage1"]["block1"]["conv1"]["kernel"])
    assert 0 < distance.max() < 0.02
    # Images are normalised as the file says.
    assert found.folder.read("data")["norms"] == run.folder.read("data")["norms"]
    scored = jaxcnn.runs.evaluate(found.path)
    assert scored["test/accuracy"] == found.result["metrics"]["test/accuracy"]


def test_a_frozen_backbone_stays(first, run, files, tmp_path):
    found = jaxcnn.run(second(first, files, frozen=("stem/*", "stage*")), tmp_path, progress=False)
    before, after = run.state.variables, found.state
    for name in ("stem", "stage1", "stage2"):
        for old, new in zip(jax.tree.leaves(before["params"][name]), jax.tree.leaves(after.params[name]), strict=True):
            np.testing.assert_array_equal(old, new)
    jax.tree.map(np.testing.assert_array_equal, before["batch_stats"], after.batch_stats)


def test_the_file_is_needed_until_there_is_a_checkpoint(first, files, tmp_path):
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(files[0].read_bytes())
    experiment = second(first, [copy])
    found = jaxcnn.run(experiment, tmp_path, progress=False)
    sha256 = found.result["params_sha256"]
    (found.path / "result.json").unlink()
    hidden = found.path / "hidden"
    (found.path / "checkpoints").rename(hidden)
    _, variables = weights.load("jaxcnn", copy)
    weights.save(copy, jax.tree.map(lambda x: x + 1, variables))
    with pytest.raises(UsageError, match="does not hold the weights it began with"):
        jaxcnn.runs.resume(found.path, progress=False)
    copy.unlink()
    with pytest.raises(UsageError, match="there is no file"):
        jaxcnn.runs.resume(found.path, progress=False)
    shutil.rmtree(found.path / "checkpoints", ignore_errors=True)
    hidden.rename(found.path / "checkpoints")
    assert jaxcnn.runs.evaluate(found.path)["test/accuracy"] >= 0
    assert jaxcnn.runs.resume(found.path, progress=False).result["params_sha256"] == sha256


def test_what_cannot_be_started_from(first, files, tmp_path):
    def start(experiment):
        return jaxcnn.run(experiment, tmp_path, progress=False)

    wrong = second(first, files)
    with pytest.raises(UsageError, match=r"which is not the plain20 of this experiment|tensors are not those"):
        start(replace(wrong, model=replace(wrong.model, name="plain20", options={"depths": (1, 2), "width": 4})))
    with pytest.raises(UsageError, match="unknown peer 'torchvision/resnet5': did you mean"):
        start(replace(wrong, model=replace(wrong.model, peer="torchvision/resnet5")))
    with pytest.raises(UsageError, match="without a file"):
        replace(wrong, model=replace(wrong.model, weights=None, peer="torchvision/resnet50"))
    _, variables = weights.load("jaxcnn", files[0])
    weights.save(tmp_path / "bgr.safetensors", variables, preprocessing=Preprocessing(channels="BGR"))
    with pytest.raises(UsageError, match="expects blue first"):
        start(second(first, [tmp_path / "bgr.safetensors"]))

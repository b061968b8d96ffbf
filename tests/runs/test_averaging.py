"""Scores over several views: the average of what is predicted, each image once."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn import DataConfig, EvalConfig, Experiment, ModelConfig, Momentum, Task, TrainConfig
from jaxcnn.data.views import several_scales, ten_crops
from jaxcnn.errors import UsageError
from jaxcnn.models import MODELS
from jaxcnn.runs import Trainer
from jaxcnn.runs.averaging import score_views


class Small(nn.Module):
    """Takes images of any size."""

    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(nn.relu(nn.Conv(8, (3, 3))(x)).mean((1, 2)))


EXPERIMENT = Experiment(
    name="views",
    model=ModelConfig(name="small"),
    data=DataConfig(
        source="digits",
        image_size=12,
        resize_to=16,
        pipeline="streaming",
        train_split="train[:24]",
        test_split="test[:27]",
    ),
    optim=Momentum(learning_rate=0.05),
    train=TrainConfig(batch_size=8, steps=1, devices=2),
    eval=EvalConfig(batch_size=40),
)


@pytest.fixture
def trainer(monkeypatch):
    monkeypatch.setitem(MODELS, "small", replace(MODELS["lenet5"], factory=Small))
    return Trainer.from_experiment(EXPERIMENT)


def scaled(images, side):
    return [
        np.asarray(Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BILINEAR)) for image in images
    ]


@pytest.mark.parametrize("views", ["ten_crop", "multi_scale"])
def test_scores_are_those_of_averaged_probabilities(trainer, views):
    variables, test = trainer.initial_state().variables, trainer.data.test
    records = [test.records[index] for index in range(27)]
    images, labels = [record["image"] for record in records], np.array([record["label"] for record in records])
    scales = ()
    if views == "ten_crop":
        large = scaled(images, 16)
        corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
        cuts = [[image[t : t + 12, s : s + 12] for image in large] for t, s in corners]
    else:
        scales = (10, 14)
        cuts = [scaled(images, side) for side in scales]
    found = score_views(trainer, variables, test, EXPERIMENT.data, views, scales)
    cuts += [[image[:, ::-1] for image in cut] for cut in cuts]
    mean_pixel, std = trainer.data.norms

    def probabilities(cut):
        pixels = (np.stack(cut)[..., None].astype(np.float32) / 255 - mean_pixel) / std
        return np.asarray(jax.nn.softmax(trainer.model.apply(variables, pixels)))

    mean = np.mean([probabilities(cut) for cut in cuts], 0)
    assert found["accuracy"] == (mean.argmax(-1) == labels).mean()
    np.testing.assert_allclose(found["loss"], -np.log(mean[np.arange(27), labels]).mean(), rtol=1e-5)


def test_views_that_cannot_be(trainer):
    with pytest.raises(UsageError, match="give a resize_to, such as 13"):
        ten_crops(trainer.data.test, replace(EXPERIMENT.data, resize_to=None))
    with pytest.raises(UsageError, match="expected sizes in pixels"):
        several_scales(trainer.data.test, ())
    trainer.task = Task()
    with pytest.raises(UsageError, match="views ten_crop: what Task predicts has no mean over views of an image"):
        score_views(trainer, {}, trainer.data.test, EXPERIMENT.data, "ten_crop", ())


def test_a_run_is_scored_over_views_by_whatever_devices_there_are(trainer, tmp_path):
    experiment = replace(EXPERIMENT, data=replace(EXPERIMENT.data, pipeline="resident"))
    run = jaxcnn.run(experiment, tmp_path, progress=False)
    test = trainer.data.test  # streamed, though the run was not
    expected = score_views(trainer, run.restore("last", trainer).variables, test, EXPERIMENT.data, "ten_crop", ())
    found = jaxcnn.runs.evaluate(run.path, views="ten_crop")
    assert found == {f"test/{name}": pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    with pytest.raises(UsageError, match="unknown views 'ten_crops': did you mean 'ten_crop'"):
        jaxcnn.runs.evaluate(run.path, views="ten_crops")


class Sized:
    """A split of images of given sizes."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def size(self, index):
        return self.sizes[index]


def test_images_of_one_shape_go_together():
    (views,) = several_scales(Sized([(100, 150), (150, 100), (200, 310), (64, 64), (1, 1)]), (64,))
    found = {(some.height, some.width): some.indices.tolist() for some in views}
    assert found == {(64, 96): [0, 2], (96, 64): [1], (64, 64): [3, 4]}
    for some in views:
        larger = np.zeros((some.height * 2, some.width * 2 + 7, 3), np.uint8)
        assert some.cut(larger).shape == (2, some.height, some.width, 3)

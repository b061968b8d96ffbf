"""Scores over several views: the average of probabilities, each image once."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jaxcnn.runs.session import Session
from jaxcnn.runs.views import score_views, several_scales, ten_crops
from PIL import Image

from jaxcnn import DataConfig, EvalConfig, Experiment, ModelConfig, Momentum, TrainConfig
from jaxcnn.errors import UsageError
from jaxcnn.models import MODELS, resnet
from jaxcnn.stop import StopFlag

EXPERIMENT = Experiment(
    name="views",
    model=ModelConfig(name="resnet_tiny", options={"stem": "cifar"}),
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
def session(monkeypatch):
    monkeypatch.setitem(MODELS, "resnet_tiny", replace(MODELS["resnet20"], factory=resnet.resnet_tiny))
    return Session(EXPERIMENT, StopFlag())


def scaled(images, side):
    return [
        np.asarray(Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BILINEAR)) for image in images
    ]


@pytest.mark.parametrize("views", ["ten_crop", "multi_scale"])
def test_scores_are_those_of_averaged_probabilities(session, views):
    variables, test = session.initial_state().variables, session.dataset.test
    records = [test.records[index] for index in range(27)]
    images, labels = [record.image for record in records], np.array([record.label for record in records])
    if views == "ten_crop":
        large = scaled(images, 16)
        corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
        cuts = [[image[t : t + 12, s : s + 12] for image in large] for t, s in corners]
        found = score_views(session, variables, test, ten_crops(test, EXPERIMENT.data))
    else:
        cuts = [scaled(images, side) for side in (10, 14)]
        found = score_views(session, variables, test, several_scales(test, (10, 14)))
    cuts += [[image[:, ::-1] for image in cut] for cut in cuts]

    def probabilities(cut):
        pixels = (np.stack(cut)[..., None].astype(np.float32) / 255 - session.mean) / session.std
        return np.asarray(jax.nn.softmax(session.model.apply(variables, pixels, train=False)))

    mean = np.mean([probabilities(cut) for cut in cuts], 0)
    assert found["accuracy"] == (mean.argmax(-1) == labels).mean()
    np.testing.assert_allclose(found["loss"], -np.log(mean[np.arange(27), labels]).mean(), rtol=1e-5)


def test_views_that_cannot_be(session):
    with pytest.raises(UsageError, match="give a resize_to, such as 13"):
        ten_crops(session.dataset.test, replace(EXPERIMENT.data, resize_to=None))
    with pytest.raises(UsageError, match="expected sizes in pixels"):
        several_scales(session.dataset.test, ())


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
        assert some.cut(np.zeros((some.height * 2, some.width * 2 + 7, 3), np.uint8)).shape == (
            2,
            some.height,
            some.width,
            3,
        )

"""Files of weights that earlier versions wrote are read for good."""

import json
from pathlib import Path

import numpy as np
import pytest
from make_weights import NAMES, OPTIONS, PREPARED, image

from jaxcnn.weights import load

FILES = sorted(Path(__file__).parent.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_of_an_earlier_version(path):
    model, variables = load("jaxcnn", path)
    assert (variables.model, variables.options) == ("resnet20", OPTIONS)
    assert (variables.preprocessing, variables.class_names) == (PREPARED, NAMES)
    logits = model.apply(variables, variables.preprocessing(image())[None])[0]
    expected = json.loads(path.with_suffix(".json").read_text())["logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_there_is_one():
    assert FILES

"""Our own files, and variables that know what they are for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from jaxcnn import create, weights
from jaxcnn.errors import UsageError
from jaxcnn.weights import PEERS, Preprocessing, Variables, load, preprocessing, save

IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
PREPARED = Preprocessing(size=(32, 32), resize=None, mean=(0.1, 0.2, 0.3))


def flat(variables):
    return traverse_util.flatten_dict(dict(variables), sep="/")


def equal(found, wanted):
    found, wanted = flat(found), flat(wanted)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value), name)


@pytest.fixture(scope="module")
def plain():
    return create("resnet20", shortcut="B").init(jax.random.key(1), IMAGES)


@pytest.fixture
def file(plain, tmp_path):
    path = tmp_path / "new" / "resnet20.safetensors"
    save(
        path,
        plain,
        model="resnet20",
        options={"shortcut": "B"},
        preprocessing=PREPARED,
        class_names=[f"name {n}" for n in range(10)],
    )
    return path


def test_the_safetensors_library_reads_the_file(file, plain):
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert {"params/stage1/block1/conv1/kernel", "batch_stats/stage1/block1/bn1/mean"} < set(tensors)
    assert {name: value.tobytes() for name, value in tensors.items()} == {
        name: np.asarray(value).tobytes() for name, value in flat(plain).items()
    }
    assert metadata["format"] == "jaxcnn" and metadata["model"] == "resnet20"
    assert json.loads(metadata["options"]) == {"shortcut": "B"}
    assert Preprocessing.from_json(metadata["preprocessing"]) == PREPARED
    assert json.loads(metadata["class_names"])[3] == "name 3"


@pytest.mark.parametrize("peer", ["jaxcnn", "jaxcnn/resnet20"])
def test_round_trip(peer, file, plain, tmp_path):
    model, variables = load(peer, file)
    equal(variables, plain)
    assert model == create("resnet20", shortcut="B")
    assert (variables.model, variables.options, variables.preprocessing) == ("resnet20", {"shortcut": "B"}, PREPARED)
    save(tmp_path / "again.safetensors", variables)
    again = load("jaxcnn", tmp_path / "again.safetensors")[1]
    equal(again, plain)
    assert vars(again) == vars(variables)
    assert len(again.class_names) == 10
    assert [path.name for path in tmp_path.iterdir()].count("again.safetensors") == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_the_head_of_our_own_file(file, plain, tmp_path):
    features, variables = load("jaxcnn", file, num_classes=None)
    assert "head" not in variables["params"] and features.num_classes is None
    save(tmp_path / "features.safetensors", variables)
    model, found = load("jaxcnn", tmp_path / "features.safetensors")
    assert model.num_classes is None
    equal(found, variables)
    model, found = load("jaxcnn", tmp_path / "features.safetensors", num_classes=7, key=jax.random.key(3))
    assert found["params"]["head"]["kernel"].shape == (64, 7) and found.class_names is None
    equal({"params": found["params"]["stage1"]}, {"params": plain["params"]["stage1"]})
    model, found = load("jaxcnn", file, num_classes=7)
    assert model.num_classes == 7 and found["params"]["head"]["bias"].shape == (7,)


def test_a_tree_like_any_other(file, tmp_path):
    digits = create("lenet5").init(jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    save(tmp_path / "lenet5.safetensors", digits, model="lenet5", preprocessing=PREPARED)
    model, variables = load("jaxcnn", tmp_path / "lenet5.safetensors")
    images = jnp.ones((2, 28, 28, 1))
    for changed in (
        jax.jit(lambda v: v)(variables),
        jax.jit(jax.grad(lambda v: model.apply(v, images).sum()))(variables),
        jax.tree.map(jnp.zeros_like, variables),
        jax.device_get(variables),
    ):
        assert type(changed) is Variables and vars(changed) == vars(variables)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, variables)
    both = jax.jit(jax.vmap(model.apply, (0, None)))(stacked, images)
    np.testing.assert_allclose(both[1], model.apply(variables, images), rtol=1e-5, atol=1e-5)


def test_the_paths_are_those_of_a_dict(file):
    model, variables = load("jaxcnn", file)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    assert paths == [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(dict(variables))]
    train = lambda v: model.apply(v, jnp.ones((2, 32, 32, 3)), train=True, mutable=["batch_stats"])  # noqa: E731
    _, updated = jax.eval_shape(train, variables)
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_plain_variables_must_be_told(plain, tmp_path):
    path = tmp_path / "a.safetensors"
    for given, message in (
        ({}, "give save model= and preprocessing= too"),
        ({"model": "resnet20"}, "give save preprocessing= too"),
        ({"model": "resnt20", "preprocessing": PREPARED}, "did you mean 'resnet20'"),
        ({"model": "resnet20", "preprocessing": PREPARED, "options": {"shortcut": "Z"}}, "shortcut"),
    ):
        with pytest.raises(UsageError, match=message):
            save(path, plain, **given)
    for wrong, message in (
        ({}, "no variables"),
        ({"params": {"a": "x"}}, "params/a is no array of numbers: found str"),
    ):
        with pytest.raises(UsageError, match=message):
            save(path, wrong, model="resnet20", preprocessing=PREPARED)
    assert not path.exists()


def test_a_dict_of_our_own_names(plain):
    _, variables = load("jaxcnn/resnet20", flat(plain), shortcut="B")
    equal(variables, plain)
    assert variables.preprocessing is None
    with pytest.raises(UsageError, match="does not say which model"):
        load("jaxcnn", flat(plain))


def test_our_own_files_that_are_refused(file, plain, tmp_path):
    for option in ("channels", "tensors", "name"):
        with pytest.raises(UsageError, match=f"unknown option of resnet20 '{option}'"):
            load("jaxcnn", file, **{option: 3})
    with pytest.raises(UsageError, match="holds weights of resnet20, not of resnet18"):
        load("jaxcnn/resnet18", file)
    with pytest.raises(UsageError, match=r"missing: .*stage2/block1/shortcut/conv/kernel|left over"):
        load("jaxcnn", file, shortcut="A")
    good = {"format": "jaxcnn", "model": "resnet20", "options": "{}", "preprocessing": PREPARED.to_json()}
    tensors = {name: np.asarray(value) for name, value in flat(plain).items()}
    path = tmp_path / "bad.safetensors"
    for changed, message in (
        ({"model": "resnet21"}, "unknown model 'resnet21'"),
        ({"options": "["}, "what the metadata have as options is not valid JSON"),
        ({"options": "[]"}, "what the metadata have as options holds a list: expected values by name"),
        ({"options": "[" * 200_000}, "as options is nested deeper than"),
        ({"options": '{"a":' * 200_000 + "1" + "}" * 200_000}, "as options is nested deeper than"),
        ({"options": '{"shortcut": 3}'}, "shortcut"),
        ({"options": '{"depths": [100000]}'}, "expected 1 to 64 integers of 1 to 65536"),
        ({"options": f'{{"depths": {[65536] * 64}}}'}, "ask for a ResNet of more layers than its file has tensors for"),
        ({"preprocessing": "{"}, "the preprocessing is not valid JSON"),
        ({"preprocessing": "[" * 200_000}, "the preprocessing is nested deeper than"),
        ({"preprocessing": '{"size": [40000, 40000]}'}, "expected sides up to 4096 pixels"),
        ({"preprocessing": '{"resize": 10000000}'}, "expected sides up to 4096 pixels"),
        ({"class_names": "3"}, "as class names holds an? int: expected a list"),
        ({"class_names": "[3]"}, "as class names holds other values than texts"),
        ({"class_names": "[" * 200_000}, "as class names is nested deeper than"),
        ({"format": "pt"}, "does not say which model"),
    ):
        path.write_bytes(to_bytes(tensors, good | changed))
        with pytest.raises(UsageError, match=message) as error:
            load("jaxcnn", path)
        assert len(str(error.value)) < 500
    for missing in ("model", "options", "preprocessing"):
        path.write_bytes(to_bytes(tensors, {name: value for name, value in good.items() if name != missing}))
        with pytest.raises(UsageError, match=f"{path} is refused: the metadata lack {missing}"):
            load("jaxcnn", path)


def test_peers_and_tags():
    assert preprocessing("torchvision/resnet50") == PEERS["torchvision/resnet50"].preprocessing
    assert preprocessing("torchvision/resnet50.IMAGENET1K_V1") == preprocessing("torchvision/resnet50")
    assert preprocessing("torchvision/resnet50.IMAGENET1K_V2").resize == 232
    for peer, message in (
        ("torchvison/resnet50", r"did you mean 'torchvision/resnet50'"),
        ("torchvision/resnet50.IMAGENET1K_V3", "did you mean 'IMAGENET1K_V"),
        ("resnet50", "unknown peer"),
    ):
        for ask in (preprocessing, lambda peer: load(peer, {"a": np.ones(1)})):
            with pytest.raises(UsageError, match=message):
                ask(peer)


def test_the_tag_decides_how_images_are_prepared(monkeypatch):
    def variables_of(row, tensors, num_classes, key, channels, **options):
        model = create(row.model, **options)
        return model, {"params": {}}

    monkeypatch.setattr(weights, "variables_of", variables_of)
    _, variables = load("torchvision/resnet50.IMAGENET1K_V2", {"a": np.ones(1)})
    assert variables.preprocessing.resize == 232
    _, variables = load("torchvision/resnet50", {"a": np.ones(1)}, zero_gamma=True, dtype="bfloat16")
    assert variables.preprocessing.resize == 256 and variables.options == {"zero_gamma": True}


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet5", (28, 28, 3)), ("lenet5", (28, 28, 2)), ("resnet20", (32, 32, 4)), ("unet_same", (16, 16, 1))],
)
def test_images_may_have_other_channels_than_published(name, shape, tmp_path):
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    like = jax.eval_shape(lambda key: create(name, num_classes=4).init(key, images), jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(1), leaf.shape), like)
    save(tmp_path / "file.safetensors", variables, model=name, preprocessing=None)
    model, found = load("jaxcnn", tmp_path / "file.safetensors")
    assert model.num_classes == 4 and found.preprocessing is None
    equal(found, variables)
    with pytest.raises(UsageError, match="give save preprocessing= too"):
        save(tmp_path / "again.safetensors", found)


def test_what_load_could_not_read_is_not_written(plain, tmp_path):
    path = tmp_path / "file.safetensors"
    for variables, given, message in (
        (
            {"params": plain["params"]},
            {"model": "resnet20", "options": {"shortcut": "B"}},
            "missing or differ: batch_st",
        ),
        (plain, {"model": "resnet32", "options": {"shortcut": "B"}}, "not the variables of resnet32"),
        (
            plain,
            {"model": "resnet20", "options": {"num_classes": 10}},
            "num_classes is none of the options of resnet20",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            save(path, variables, preprocessing=PREPARED, **given)
    assert not path.exists()


@pytest.mark.slow
def test_auxiliary_heads_are_as_in_the_file_or_as_asked():
    images = jax.ShapeDtypeStruct((1, 80, 80, 3), jnp.float32)
    variables = create("googlenet", aux_heads=True).init(jax.random.key(0), images)
    tensors = flat(variables)

    def loaded(tensors, **options):
        model, found = load("jaxcnn/googlenet", tensors, **options)
        return model.aux_heads, any(name.startswith("aux") for name in found["params"])

    without = {name: value for name, value in tensors.items() if "/aux" not in name}
    assert loaded(tensors) == (True, True)
    assert loaded(without) == (False, False)
    assert loaded(tensors, aux_heads=False) == (False, False)
    assert loaded(without, aux_heads=True) == (True, True)

import pytest
import tensorflow_datasets as tfds
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxcnn.data.slicing import Slice, parse
from jaxcnn.errors import UsageError

SIZES = {"train": 60_000, "test": 10}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train", [("train", 0, 60_000)]),
        ("train[:45000]", [("train", 0, 45_000)]),
        ("train[-5000:]", [("train", 55_000, 60_000)]),
        ("train[10%:-10%]", [("train", 6_000, 54_000)]),
        ("train[:-59999]+test", [("train", 0, 1), ("test", 0, 10)]),
        ("test[:33%]", [("test", 0, 3)]),
    ],
)
def test_known_slices(spec, expected):
    assert parse(spec, SIZES) == [Slice(*part) for part in expected]


def tfds_slice(spec, size):
    """What TFDS itself makes of a spec over one split, as (start, stop)."""
    template = tfds.core.ShardedFileTemplate(
        dataset_name="d", data_dir="/nowhere", split="train", filetype_suffix="array_record"
    )
    info = tfds.core.SplitInfo(name="train", shard_lengths=[size], num_bytes=0, filename_template=template)
    (part,) = tfds.core.splits.ReadInstruction.from_spec(spec).to_absolute({"train": info})
    return part.from_ or 0, size if part.to is None else part.to


numbers = st.integers(-70, 70).map(str)
percents = st.one_of(st.integers(-110, 110), st.floats(-110, 110).map(lambda x: round(x, 2))).map("{}%".format)
bounds = st.one_of(
    *(st.tuples(st.one_of(st.just(""), kind), st.one_of(st.just(""), kind)) for kind in (numbers, percents))
)


@settings(deadline=None)
@given(bounds=bounds.filter(any), size=st.integers(1, 60))
@example(bounds=("-101%", ""), size=1)
def test_agrees_with_tfds(bounds, size):
    spec = f"train[{bounds[0]}:{bounds[1]}]"
    try:
        start, stop = tfds_slice(spec, size)
    except ValueError:
        start = stop = 0
    if start >= stop:
        with pytest.raises(UsageError):
            parse(spec, {"train": size})
    else:
        assert parse(spec, {"train": size}) == [("train", start, stop)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trian", "unknown split 'trian': did you mean 'train'"),
        ("train[5]", "not understood"),
        ("train[a:b]", "not understood"),
        ("", "not understood"),
        ("train[10:50%]", "mixes a number and a percentage"),
        ("train[:70000]", "beyond the 60000 examples"),
        ("test[5:5]", "is empty: test has 10"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        parse(spec, SIZES)

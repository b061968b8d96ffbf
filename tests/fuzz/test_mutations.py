"""The fuzzers' own checks find what they are to find, and mutations are what a seed makes them."""

import json
import mmap
import time

import numpy as np
import pytest
from mutations import Deep, Finding, dumps, fuzz, mutate, mutate_json, replay

from jaxcnn.errors import UsageError

GOOD = bytes(range(256)) * 8


def test_mutations_are_a_function_of_the_seed_and_change_the_file():
    first, second = ([mutate(np.random.default_rng([s, n]), GOOD) for n in range(200)] for s in (0, 0))
    assert first == second and len(set(first)) > 180
    assert any(len(one) < len(GOOD) for one in first) and any(len(one) > len(GOOD) for one in first)
    placed = [mutate(np.random.default_rng(n), GOOD, [(1000, 4)]) for n in range(200)]
    assert sum(one[:1000] == GOOD[:1000] and one != GOOD for one in placed) > 50
    assert mutate(np.random.default_rng(0), b"") == b""


def test_json_mutations():
    good = {"name": "x", "sizes": [1, 2, {"a": 0.5}], "none": None}
    found = [dumps(mutate_json(np.random.default_rng(n), good)) for n in range(300)]
    assert len(set(found)) > 150 and good == {"name": "x", "sizes": [1, 2, {"a": 0.5}], "none": None}
    assert any(not text.startswith(b"{") for text in found) and any(b"[" * 1000 in text for text in found)
    assert json.loads(dumps(good)) == good and dumps([Deep(100_000)]) == b"[" * 100_001 + b"]" * 100_001


@pytest.mark.parametrize(
    ("door", "finding"),
    [
        (lambda: {}["x"], "^KeyError"),
        (lambda: (_ for _ in ()).throw(UsageError("a\nb\nc\nd")), "^a message of 7 characters"),
        # Fresh pages: malloc may have kept as many.
        (lambda: np.frombuffer(mmap.mmap(-1, 80 << 20), np.uint8).fill(1), "^it takes .*more than 50"),
    ],
)
def test_what_must_not_come_out(door, finding):
    with pytest.raises(Finding, match=finding):
        replay(lambda rng: door, 0, memory=50 << 20)


def test_a_hang_is_found(monkeypatch):
    monkeypatch.setattr("mutations.SECONDS", 0.1)

    def door():
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    with pytest.raises(Finding, match=r"^it takes longer than 0.1 s, at test_mutations.py"):
        replay(lambda rng: door, 0)


def test_findings_are_gathered_by_where_they_come_from():
    def case(rng):
        number = int(rng.integers(3))

        def door():
            if number == 0:
                raise UsageError("no")
            if number == 1:
                raise ValueError(str(number))

        return door

    with pytest.raises(AssertionError, match=r"1 kinds of findings in .*\ncase \d+ of seed 0: ValueError test_mutat"):
        fuzz(case, cases=30)
    assert set(fuzz(lambda rng: lambda: None, cases=30)) == {"fine"}
    assert fuzz(lambda rng: lambda: None, cases=1, seconds=0.05)["fine"] > 1

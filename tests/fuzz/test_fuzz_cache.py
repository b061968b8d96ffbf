"""Damaged and hostile caches, whose checksums may all be right: images, or one line."""

import hashlib
import json

import numpy as np
import pytest
from mutations import dumps, fuzz, lengths, mutate, mutate_json
from stored import photos, write_folder

from jaxcnn.data.decode import decoded
from jaxcnn.data.reading import labelled
from jaxcnn.data.stores.cache import open_cache, prepare
from jaxcnn.data.stores.image_folder import open_folder
from jaxcnn.data.stores.records import digest
from jaxcnn.errors import BadExample


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The files of two caches, one of JPEG files and one of pixels, by name."""
    root = tmp_path_factory.mktemp("cache")
    store = open_folder(write_folder(root / "images", photos(6)))
    folders = []
    for format in ("jpeg", "raw"):
        prepare(store, root / format, {}, short_side=8, format=format, threads=1)
        folders.append({file.name: file.read_bytes() for file in (root / format).iterdir()})
    return folders


def drain(store):
    assert all(name.isprintable() for name in store.class_names)
    for split in store.sizes:
        records = store.records(split)
        assert len(records) == store.sizes[split]
        for index in range(min(len(records), 10)):
            assert records.name(index).isprintable()
            try:
                image, _ = labelled(records, index, len(store.class_names))
                assert decoded(image, store.fields["image"].channels).dtype == np.uint8
            except BadExample:
                continue


@lengths
def test_cache(tmp_path, good, seconds):
    def case(rng):
        files = dict(good[rng.integers(2)])
        manifest = json.loads(files.pop("cache.json"))
        name = sorted(files)[rng.integers(len(files))]
        start = 128 if name.endswith(".npy") and rng.integers(2) else 0  # behind its header
        part = mutate(rng, files[name][start:])
        files[name] = files[name][:start] + part
        entries = manifest["splits"]["train"]["files"]
        if rng.integers(8):
            entries[name] = {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
        if rng.integers(2):
            manifest = mutate_json(rng, manifest)
        if rng.integers(8) and isinstance(manifest, dict):
            try:
                text = json.loads(dumps(manifest))
                manifest["sha256"] = digest([json.dumps(text | {"sha256": None}, sort_keys=True)])
            except RecursionError:
                pass
        for file, content in (files | {"cache.json": dumps(manifest)}).items():
            (tmp_path / file).write_bytes(content)
        return lambda: drain(open_cache(tmp_path))

    ended = fuzz(case, cases=300, seconds=seconds, memory=64 << 20)
    assert ended["fine"] > 20 and ended["UsageError"] > 50

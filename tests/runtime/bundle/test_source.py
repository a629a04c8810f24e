"""Where weights came from stands in the manifest; an older one says nothing of it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from bundle_helpers import toy_manifest

from pitstop import BundleError
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.bundle.source import SourceSpec

SOURCE = SourceSpec("model", "lab/dit", "0123abc", "a.pt", "mit")


def written(*sources: object) -> str:
    content = json.loads(toy_manifest().to_json())
    return json.dumps({**content, "sources": sources})


def test_what_is_written_is_what_is_read() -> None:
    manifest = dataclasses.replace(toy_manifest(), sources=(SOURCE,))

    assert Manifest.from_json(manifest.to_json()).sources == (SOURCE,)


def test_a_manifest_from_before_has_none() -> None:
    content = json.loads(toy_manifest().to_json())
    del content["sources"]

    assert Manifest.from_json(json.dumps(content)).sources == ()


@pytest.mark.parametrize(
    "change",
    [{"role": "text"}, {"repository": 3}, {"revision": ""}, {"licence": ["mit"]}, {"more": "x"}],
)
def test_a_field_of_another_type_is_told(change: dict[str, object]) -> None:
    with pytest.raises(BundleError) as raised:
        Manifest.from_json(written({**dataclasses.asdict(SOURCE), **change}))

    assert len(str(raised.value).splitlines()) == 1


def test_a_record_that_is_no_table_is_told() -> None:
    with pytest.raises(BundleError, match="sources"):
        Manifest.from_json(written("lab/dit"))

"""``pitstop export OWNER/NAME``: what it fetches is a bundle that says where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import refused, run
from format_helpers import write_diffusers
from hub_server import COMMIT, Hub, served, use
from vae_helpers import save_kl

from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.source import SourceSpec

CARD = "---\nlicense: cc-by-nc-4.0\n---\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served() as hub:
        use(monkeypatch, hub, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        yield hub


def test_a_pipeline_and_its_vae_become_a_bundle_with_their_commits_and_licences(
    hub: Hub, tmp_path: Path
) -> None:
    from diffusers import DDIMScheduler

    model, bundle = tmp_path / "dit", tmp_path / "bundle"
    write_diffusers(model / "transformer")
    DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False).save_pretrained(
        model / "scheduler"
    )
    parts = {"scheduler": ["diffusers", "DDIMScheduler"], "_class_name": "DiTPipeline"}
    (model / "model_index.json").write_text(json.dumps(parts))
    (model / "README.md").write_text(CARD)
    hub.repositories |= {"lab/tiny-dit": model, "lab/vae": save_kl(tmp_path / "vae")}

    inspected = run("inspect", "lab/tiny-dit", "--json", tmp_path / "checkpoint.json")
    done = run("export", "lab/tiny-dit", "--revision", "v1", "--vae", "lab/vae",
               "--vae-tile", 8, "--out", bundle)  # fmt: skip

    assert inspected.exit_code == done.exit_code == 0, done.output
    assert f"pitstop export lab/tiny-dit --revision {COMMIT}" in inspected.stdout
    manifest = open_bundle(bundle).manifest
    assert manifest.sources == (
        SourceSpec("model", "lab/tiny-dit", COMMIT, "", "cc-by-nc-4.0"),
        SourceSpec("vae", "lab/vae", COMMIT),
    )
    assert manifest.model.name == "tiny-dit"
    assert manifest.schedule.rule == "scaled_linear"
    told = " ".join(run("inspect", bundle, "--json", tmp_path / "bundle.json").stdout.split())
    assert f"from lab/tiny-dit at {COMMIT}, licence cc-by-nc-4.0" in told
    assert f"vae from lab/vae at {COMMIT}, no licence in its model card" in told
    assert json.loads((tmp_path / "bundle.json").read_text())["sources"][1]["role"] == "vae"
    source = json.loads((tmp_path / "checkpoint.json").read_text())["source"]
    assert (source["repository"], source["revision"]) == ("lab/tiny-dit", COMMIT)
    hub.asked.clear()
    compared = run("compare", bundle, "--checkpoint", "lab/tiny-dit", "--images", 1, "--steps", 2)
    assert compared.exit_code == 0, compared.output
    assert hub.asked[0][1] == f"/api/models/lab/tiny-dit/revision/{COMMIT}"


def test_a_path_goes_before_a_name_and_has_no_revision(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    tiny_checkpoint(tmp_path / "lab" / "tiny.dit.safetensors")
    (tmp_path / "lab" / "tiny.dit.safetensors").rename(tmp_path / "lab" / "tiny")

    line = refused("export", "lab/tiny", "--revision", "v1", "--out", tmp_path / "bundle")

    assert "Leave `--revision` out" in line
    assert hub.asked == []


def test_a_name_that_is_nowhere_is_one_line(hub: Hub, tmp_path: Path) -> None:
    line = refused("export", "lab/none", "--out", tmp_path / "bundle")

    assert "There is no lab/none here, and none that you may read" in line
    assert not (tmp_path / "bundle").exists()
    assert "lab/none" in refused("inspect", "lab/none")

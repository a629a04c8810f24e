"""A repository's name becomes the files that are needed, or one line that says why not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, served, use

from pitstop import CheckpointError
from pitstop.models.hub import Downloaded, fetch_model, fetch_vae, is_hub_name

REPOSITORY = "lab/tiny-dit"
WEIGHTS = "diffusion_pytorch_model"
PARTS = {"scheduler": ["diffusers", "DDIMScheduler"], "vae": ["diffusers", "AutoencoderKL"]}
PIPELINE = (
    "README.md", "model_index.json", "scheduler/scheduler_config.json", "transformer/config.json",
    f"transformer/{WEIGHTS}.safetensors", "vae/config.json",
)  # fmt: skip
UNNEEDED = (
    ".gitattributes", "picture.png", f"transformer/{WEIGHTS}.bin",
    f"transformer/{WEIGHTS}.bf16.safetensors", f"vae/{WEIGHTS}.safetensors",
)  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served() as hub:
        use(monkeypatch, hub, tmp_path / "cache")
        yield hub


def repository(hub: Hub, folder: Path, *names: str, name: str = REPOSITORY) -> None:
    """Serve a repository with files of these names."""
    for file in names:
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(PARTS if file == "model_index.json" else {"file": file}))
    (folder / name / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    hub.repositories[name] = folder / name


def unheard(what: str, files: int) -> object:
    return lambda count: None


def fetch(
    source: str = REPOSITORY, revision: str | None = None, variant: str | None = None
) -> Downloaded:
    return fetch_model(source, revision, variant, unheard)


def refusal(source: str = REPOSITORY, revision: str | None = None) -> str:
    with pytest.raises(CheckpointError) as raised:
        fetch(source, revision)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_only_the_files_that_are_needed_of_a_pipeline_are_fetched(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, *PIPELINE, *UNNEEDED)

    found = fetch()

    assert hub.fetched() == set(PIPELINE)
    assert (found.repository, found.revision, found.file) == (REPOSITORY, COMMIT, "")
    assert found.licence == "cc-by-nc-4.0"
    assert found.name == "tiny-dit"
    assert (found.path / f"transformer/{WEIGHTS}.safetensors").is_file()


def test_what_is_in_the_cache_is_not_sent_again(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, *PIPELINE)
    first = fetch()
    hub.asked.clear()

    assert fetch(revision="v1").path == first.path
    assert hub.fetched() == set()


def test_a_variant_is_fetched_in_the_place_of_the_plain_weights(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, *PIPELINE, *UNNEEDED)

    fetch(variant="bf16")

    assert f"transformer/{WEIGHTS}.bf16.safetensors" in hub.fetched()
    assert f"transformer/{WEIGHTS}.safetensors" not in hub.fetched()


def test_bin_is_fetched_where_there_are_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, "config.json", f"{WEIGHTS}.bin")

    fetch()

    assert hub.fetched() == {"README.md", "config.json", f"{WEIGHTS}.bin"}


def test_shards_are_fetched_as_their_list_names_them(hub: Hub, tmp_path: Path) -> None:
    shards = [f"{WEIGHTS}-0000{k}-of-00002.safetensors" for k in (1, 2)]
    index = f"{WEIGHTS}.safetensors.index.json"
    repository(hub, tmp_path, "config.json", index, *shards, f"{WEIGHTS}-00003.safetensors")
    told = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}})
    (tmp_path / REPOSITORY / index).write_text(told)

    fetch()

    assert hub.fetched() == {"README.md", "config.json", index, *shards}


def test_the_one_checkpoint_of_a_repository_is_taken_and_one_of_several_is_named(
    hub: Hub, tmp_path: Path
) -> None:
    repository(hub, tmp_path, "DiT.pt", "notes.txt", name="lab/one")
    repository(hub, tmp_path, "a.pt", "sub/b.safetensors", name="lab/two")

    assert fetch("lab/one").file == "DiT.pt"
    found = fetch("lab/two:sub/b.safetensors")
    assert (found.file, found.name, found.path.name) == ("sub/b.safetensors", "b", "b.safetensors")
    line = refusal("lab/two")
    assert "lab/two has several checkpoints" in line
    assert "lab/two:FILE, of: a.pt, sub/b.safetensors" in line
    assert "has no file c.pt. Choose one of: README.md, a.pt" in refusal("lab/two:c.pt")


def test_a_repository_without_a_denoiser_is_told_with_what_it_has(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, "model_index.json", "unet/config.json")

    assert "has no denoiser that can be read: no transformer/config.json" in refusal()


def test_a_file_of_a_pipeline_is_refused_for_its_scheduler_would_be_lost(
    hub: Hub, tmp_path: Path
) -> None:
    repository(hub, tmp_path, *PIPELINE)

    line = refusal(f"{REPOSITORY}:transformer/{WEIGHTS}.safetensors")
    assert f"Name {REPOSITORY} alone" in line


@pytest.mark.parametrize("where", ["", "vae/"])
def test_a_vae_is_fetched_from_its_own_repository_or_a_pipelines(
    hub: Hub, tmp_path: Path, where: str
) -> None:
    needed = [f"{where}config.json", f"{where}{WEIGHTS}.safetensors"]
    index = ["model_index.json"] if where else []
    repository(hub, tmp_path, *index, *needed, f"{where}{WEIGHTS}.bin")

    found = fetch_vae(REPOSITORY, unheard)

    assert hub.fetched() == {"README.md", *needed}
    assert (found.path / "config.json").is_file()
    assert found.file == ""


def test_a_repository_without_a_vae_is_told(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, "DiT.pt")

    with pytest.raises(CheckpointError, match=r"has no VAE of diffusers.*sd-vae-ft-ema"):
        fetch_vae(REPOSITORY, unheard)
    with pytest.raises(CheckpointError, match=r"one file\. Name its repository: lab/tiny-dit"):
        fetch_vae(f"{REPOSITORY}:DiT.pt", unheard)


def test_a_gated_repository_is_not_said_to_be_missing(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, *PIPELINE)
    hub.gated.add(REPOSITORY)

    line = refusal()

    assert "is gated" in line
    assert f"{hub.url}/{REPOSITORY}" in line
    assert "HF_TOKEN" in line


def test_what_is_missing_is_told_each_with_its_own_remedy(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, *PIPELINE)

    assert "There is no lab/none here, and none that you may read" in refusal("lab/none")
    line = refusal(revision="v2")
    assert "has no revision v2" in line
    assert "--revision" in line
    assert "a repository cannot have that name" in refusal("lab/a..b")


def test_a_file_that_a_list_names_and_nobody_serves_is_told(hub: Hub, tmp_path: Path) -> None:
    index = f"{WEIGHTS}.safetensors.index.json"
    repository(hub, tmp_path, "config.json", index)
    (tmp_path / REPOSITORY / index).write_text('{"weight_map": {"a": "none.safetensors"}}')

    assert "lacks a file that its own lists name" in refusal()


def told(**changed: object) -> bytes:
    said = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": "DiT.pt"}]}
    return json.dumps({**said, **changed}).encode()


@pytest.mark.parametrize(
    "listing",
    [
        b"<html>log in here</html>",
        b"[]",
        b"null",
        b"{}",
        told(siblings=5),
        told(siblings=[{"name": "a"}]),
        told(siblings=[{"rfilename": None}]),
        told(sha=None),
        told(sha="None"),
        told(sha=5),
    ],
)
def test_an_answer_that_no_hub_gives_is_told_as_that(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: bytes
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    repository(hub, tmp_path, "DiT.pt")
    hub.listing = listing

    line = refusal()

    assert f"{hub.url} does not answer as a hub does" in line
    assert "Check HF_ENDPOINT" in line


def test_a_hubs_commit_names_no_file_of_the_users(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, "DiT.pt")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    hub.listing = told(sha=f"../../../{os.path.relpath(precious, tmp_path)}")
    hub.headers = {"X-Repo-Commit": "theirs"}

    assert "does not answer as a hub does" in refusal()
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["/a.pt", "../a.pt", "..\\a.pt", "a//b.pt", "./a.pt", "a\0.pt", ""]
)
def test_a_name_that_leaves_the_repository_is_no_file_of_it(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    repository(hub, tmp_path, "DiT.pt")
    hub.listing = told(siblings=[{"rfilename": name}])

    assert "but no file at all" in refusal()


def test_a_file_is_held_to_the_sha256_that_names_it(hub: Hub, tmp_path: Path) -> None:
    repository(hub, tmp_path, "DiT.pt")
    hub.headers = {"ETag": f'"{64 * "a"}"'}

    line = refusal()

    assert "is damaged: its bytes are not those of its sha256" in line
    assert "Remove " in line

    (weights,) = (tmp_path / REPOSITORY).glob("*.pt")
    (tmp_path / REPOSITORY / "README.md").unlink()
    hub.headers = {"ETag": f'"{hashlib.sha256(weights.read_bytes()).hexdigest()}"'}
    assert fetch().path.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(
    ("headers", "status", "found"),
    [
        ({}, 500, "answers with 500"),
        ({"ETag": None}, None, "does not answer as a hub does"),
        ({"X-Repo-Commit": None}, None, "does not answer as a hub does"),
        ({"X-Repo-Commit": "../../.."}, None, "does not answer as a hub does"),
        ({"X-Linked-Size": "3"}, None, "is not whole"),
    ],
)
def test_a_file_that_does_not_come_is_not_told_as_a_missing_repository(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str | None],
    status: int | None,
    found: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    repository(hub, tmp_path, "DiT.pt")
    hub.headers, hub.files = headers, status

    line = refusal()

    assert found in line
    assert "There is no" not in line


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_does_not_serve_is_told_with_its_answer(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.answer = status

    line = refusal()

    assert f"answers with {status}" in line
    assert "HF_ENDPOINT" in line


def test_a_token_that_is_not_taken_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(hub, tmp_path, *PIPELINE)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")

    line = refusal()

    assert "does not take the token" in line
    assert "hf_wrong" not in line


def test_no_network_is_told_with_what_helps(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = Hub(url=f"http://127.0.0.1:{closed.getsockname()[1]}")
    use(monkeypatch, nowhere, tmp_path / "cache")

    line = refusal()

    assert f"{nowhere.url} cannot be reached" in line
    assert "HF_HUB_OFFLINE=1" in line


def test_a_full_disk_is_told_with_the_caches_place(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(hub, tmp_path, *PIPELINE)

    def full(*asked: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)

    line = refusal()

    assert f"{tmp_path / 'cache'} (No space left on device)" in line
    assert "HF_HOME" in line


def test_offline_the_cache_is_taken_and_what_it_lacks_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository(hub, tmp_path, *PIPELINE)
    online = fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()

    assert fetch() == online
    assert fetch(revision=COMMIT) == online
    line = refusal("lab/other")
    assert "not in huggingface_hub's cache at main, and HF_HUB_OFFLINE forbids" in line
    (online.path / "scheduler" / "scheduler_config.json").unlink()
    assert "without its scheduler/scheduler_config.json" in refusal()
    assert hub.asked == []


def test_offline_without_any_cache_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert "HF_HUB_OFFLINE forbids" in refusal()


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: flux-1\n---\n", "flux-1"),
        ("---\nlicense: [mit]\n---\n", ""),
        ("---\n- a list\n---\n", ""),
        ("---\nlicense: {\n---\n", ""),
        ("# no head\n", ""),
    ],
)
def test_the_licence_is_what_the_model_card_says(
    hub: Hub, tmp_path: Path, card: str, licence: str
) -> None:
    repository(hub, tmp_path, "DiT.pt")
    (tmp_path / REPOSITORY / "README.md").write_text(card)

    assert fetch().licence == licence


def test_a_path_that_exists_or_names_a_file_is_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("facebook/DiT-XL-2-256")
    assert is_hub_name("facebook/DiT-XL-2-256:a.pt")
    (tmp_path / "facebook" / "DiT-XL-2-256").mkdir(parents=True)

    for source in ("facebook/DiT-XL-2-256", "fashion", "out/dit.pt", "./a/b", "/a/b", "a/b/c"):
        assert not is_hub_name(source)


def test_without_the_package_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    assert "pip install 'pitstop[hub]'" in refusal()


def test_endpoint_cache_and_token_are_the_environments(tmp_path: Path) -> None:
    with served(token="hf_right") as hub:
        repository(hub, tmp_path, *PIPELINE)
        code = (
            "from pitstop.models.hub import fetch_model\n"
            f"print(fetch_model({REPOSITORY!r}, None, None, lambda *a: lambda n: None).path)"
        )
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_right",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")

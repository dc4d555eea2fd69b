"""From a model argument to a folder. Downloads run in fresh processes, against a local hub."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, Repo, commit_of, serve_hub

from rustllm.errors import ModelLoadError
from rustllm.hub import resolve_model, resolve_tokenizer

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"not needed",
    "pytorch_model.bin": b"not needed",
    "consolidated.safetensors": b"not needed",
    "onnx/config.json": b"not needed",
    "original/model.safetensors": b"not needed",
    "modeling_llama.py": b"raise SystemExit('model code was run')",
}
WANTED = {"config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"}

SENTENCE_FILES = {
    **FILES,
    "modules.json": json.dumps(
        [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../x"}]
    ).encode(),
    "1_Pooling/config.json": b"{}",
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": b"dense",
    "2_Dense/pytorch_model.bin": b"not needed",
}

RESOLVE = """
import json, sys
from rustllm.errors import ModelLoadError
from rustllm.hub import resolve_model, resolve_tokenizer
function, model, options = json.loads(sys.argv[1])
try:
    print(json.dumps({"folder": str(globals()[function](model, **options))}))
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    old, new = commit_of("old"), commit_of("new")
    changed = {**FILES, "model.safetensors": b"newer weights"}
    repos = {
        "org/model": Repo({old: FILES, new: changed}, {"main": new, "v1": old}),
        "org/gated": Repo({old: FILES}, {"main": old}, token="hf_secret"),
        "org/private": Repo({old: FILES}, {"main": old}, token="hf_secret", private=True),
        "org/sentences": Repo({old: SENTENCE_FILES}, {"main": old}),
        "org/pickled": Repo({old: {"config.json": b"{}", "model.bin": b""}}, {"main": old}),
    }
    with serve_hub(Hub(repos)) as served:
        yield served


class Client:
    """Resolves models in fresh processes that share one cache."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self._hub = hub
        self._home = home
        self.stderr = ""

    def __call__(
        self,
        model: str,
        *,
        function: str = "resolve_model",
        environment: dict[str, str] | None = None,
        **options: object,
    ) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE, json.dumps([function, model, options])],
            env=self.environment(environment or {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        self.stderr = done.stderr
        answer: dict[str, str] = json.loads(done.stdout)
        return answer

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """The environment of the processes."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        home = {"HF_ENDPOINT": self._hub.url, "HF_HOME": str(self._home)}
        return {**kept, **home, "HF_HUB_DISABLE_TELEMETRY": "1", **more}

    def folder(self, model: str, **options: object) -> Path:
        answer = self(model, **options)  # type: ignore[arg-type]
        assert "folder" in answer, answer
        return Path(answer["folder"])

    def error(self, model: str, **options: object) -> str:
        answer = self(model, **options)  # type: ignore[arg-type]
        assert "error" in answer, answer
        return answer["error"]


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


def test_downloads_what_is_needed_and_reuses_it(hub: Hub, client: Client) -> None:
    folder = client.folder("org/model")
    assert {path.name for path in folder.iterdir()} == WANTED
    assert (folder / "model.safetensors").read_bytes() == b"newer weights"
    assert sorted(hub.downloads) == sorted(WANTED)
    assert "%|" not in client.stderr, "a progress bar in a pipe"

    assert client.folder("org/model") == folder
    assert sorted(hub.downloads) == sorted(WANTED), "nothing is downloaded twice"

    hub.requests.clear()
    assert client.folder("org/model", environment={"HF_HUB_OFFLINE": "1"}) == folder
    assert not hub.requests


def test_modules_of_sentence_transformers_come_along(hub: Hub, client: Client) -> None:
    folder = client.folder("org/sentences")
    found = {str(path.relative_to(folder)) for path in folder.glob("*/*")}
    assert found == {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"}
    assert {path.name for path in folder.glob("*.*")} == {*WANTED, "modules.json"}
    hub.requests.clear()
    assert client.folder("org/sentences", environment={"HF_HUB_OFFLINE": "1"}) == folder
    assert not hub.requests


def test_a_terminal_shows_progress(client: Client) -> None:
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    subprocess.run(
        [sys.executable, "-c", RESOLVE, json.dumps(["resolve_model", "org/model", {}])],
        env=client.environment({"TERM": "xterm"}),
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        timeout=120,
        check=True,
    )
    os.close(stderr)
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        assert b"4/4" in screen.read(65536)


def test_a_revision_is_pinned(hub: Hub, client: Client) -> None:
    for revision in ("v1", commit_of("old")):
        folder = client.folder("org/model", revision=revision)
        assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
        assert folder.name == commit_of("old")
    message = client.error("org/model", revision="v9")
    assert "it has no revision 'v9'" in message


def test_cache_dir(client: Client, tmp_path: Path) -> None:
    folder = client.folder("org/model", cache_dir=str(tmp_path / "elsewhere"))
    assert folder.is_relative_to(tmp_path / "elsewhere")


def test_gated_and_private_models_need_the_token(hub: Hub, client: Client) -> None:
    message = client.error("org/gated")
    assert "access to it is restricted: accept its terms at" in message
    assert f"{hub.url}/org/gated" in message
    assert "hf_token=" in message
    assert "it does not exist, or is private" in client.error("org/private")
    for model in ("org/gated", "org/private"):
        assert (client.folder(model, token="hf_secret") / "config.json").is_file()
    environment = {"HF_TOKEN": "hf_secret"}
    assert (client.folder("org/gated", environment=environment) / "config.json").is_file()


def test_models_that_do_not_exist(hub: Hub, client: Client) -> None:
    message = client.error("org/nothing")
    assert f"'org/nothing' is no folder here, and on the hub ({hub.url}) it does not" in message


def test_offline_and_not_in_the_cache(hub: Hub, client: Client) -> None:
    message = client.error("org/model", environment={"HF_HUB_OFFLINE": "1"})
    assert "in the hub cache, and downloads are off (HF_HUB_OFFLINE)" in message
    assert not hub.requests


def test_the_hub_cannot_be_reached(hub: Hub, client: Client) -> None:
    folder = client.folder("org/model")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert client.folder("org/model", environment=nowhere) == folder, "the cache still serves"
    message = client.error("org/gated", environment=nowhere)
    assert "cannot be reached: " in message
    hub.broken = True
    assert "cannot be reached: HfHubHTTPError" in client.error("org/gated")


def test_models_without_safetensors(client: Client) -> None:
    assert "has no *.safetensors at its top level" in client.error("org/pickled")


def test_a_tokenizer_alone_brings_no_weights(hub: Hub, client: Client) -> None:
    folder = client.folder("org/model", function="resolve_tokenizer")
    assert {path.name for path in folder.iterdir()} == WANTED - {"model.safetensors"}


def test_local_folders(tmp_path: Path) -> None:
    assert resolve_model(tmp_path) == resolve_model(str(tmp_path)) == tmp_path
    assert resolve_tokenizer(tmp_path) == tmp_path


def test_the_default_model() -> None:
    folder = resolve_model("default")
    assert folder == resolve_model(None) == resolve_tokenizer("default")
    assert (folder / "config.json").is_file()


@pytest.mark.parametrize("model", ["./missing", "/no/such/folder", "a/b/c", "a b", "", "~/none"])
def test_neither_folder_nor_hub_id(model: str) -> None:
    with pytest.raises(ModelLoadError, match="neither an existing folder nor a hub id"):
        resolve_model(model)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    with pytest.raises(ModelLoadError, match="is a file: name the folder"):
        resolve_model(str(path))


def test_names_the_hub_does_not_allow(client: Client) -> None:
    assert "not a valid hub id" in client.error("org/bad--name")

"""Weights that are not what they should be: one clear line, exit code 2, and nothing half-written."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import hf_folders

from egem.cli import main
from egem.core.errors import CheckpointError
from egem.models.interchange import hub


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must end with exit code 2; returns what it printed on standard error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert "Traceback" not in printed.err
    return printed.err


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`qwen`, `sana`, and `official`, made of them."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("pristine")
    hf_folders.write_backbone(path / "qwen", tied=False)
    hf_folders.write_pipeline(path / "sana")
    parts = ["--backbone", str(path / "qwen"), "--depth-head", str(path / "sana")]
    main(["init", *parts, "--out", str(path / "gem")])
    main(["export", str(path / "gem"), "--format", "gem-official", "--out", str(path / "official")])
    return path


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(pristine, tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def init(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`egem init` from the parts, which must be refused and leave nothing."""

    def run(**others: object) -> str:
        given = {
            "backbone": folder / "qwen",
            "depth-head": folder / "sana",
            "codec": folder / "sana",
        } | others
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        message = refused(capsys, "init", *words, "--out", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
        return message

    return run


@pytest.fixture
def import_official(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`egem import-official` of the released folder, likewise."""

    def run(*others: object, source: object = folder / "official") -> str:
        message = refused(capsys, "import-official", source, "--out", tmp_path / "out", *others)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
        return message

    return run


def change(path: Path, name: str, value: torch.Tensor | None) -> None:
    """Replace, add or (None) remove a tensor."""
    tensors = load_file(path)
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), path, metadata={"format": "pt"})


def set_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


NORM = "model.language_model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("file", "tensor", "value", "message"),
    [
        ("qwen/model", NORM, None, f"qwen: the weights are not those of this model. missing: {NORM}."),
        ("qwen/model", "lm_head.weight", None, "missing: lm_head.weight."),
        ("qwen/model", "model.surplus", torch.zeros(2), "unknown: model.surplus."),
        ("qwen/model", NORM, torch.zeros(5), f"mis-shaped: {NORM} is (5,), not (32,)."),
        ("sana/transformer/diffusion_pytorch_model", "proj_out.bias", None, "missing: proj_out.bias."),
        ("sana/transformer/diffusion_pytorch_model", "x.y", torch.zeros(2), "unknown: x.y."),
        ("sana/transformer/diffusion_pytorch_model", "proj_out.bias", torch.zeros(5), "is (5,), not (4,)."),
        (
            "sana/vae/diffusion_pytorch_model",
            "encoder.conv_in.weight",
            None,
            "missing: encoder.conv_in.weight.",
        ),
        ("sana/vae/diffusion_pytorch_model", "surplus", torch.zeros(2), "unknown: surplus."),
        ("sana/vae/diffusion_pytorch_model", "encoder.conv_in.bias", torch.zeros(5), "is (5,), not (4,)."),
    ],
)
def test_tensors_of_parts(init, folder: Path, file: str, tensor: str, value, message: str) -> None:
    change(folder / f"{file}.safetensors", tensor, value)
    said = init()
    assert message in said
    assert str((folder / file).parent) in said


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        (NORM, None, f"(model.*, lm_head.*): the weights are not those of this model. missing: {NORM}."),
        (
            "sana.proj_out.bias",
            None,
            "(sana.*): the weights are not those of this model. missing: proj_out.bias.",
        ),
        ("vae.encoder.conv_in.bias", torch.zeros(5), "mis-shaped: encoder.conv_in.bias is (5,), not (4,)."),
        ("diffusion_connector.3.weight", None, "missing: layers.3.weight."),
        ("diffusion_connector.4.weight", torch.zeros(1), "unknown: layers.4.weight."),
        ("optimizer.step", torch.zeros(1), "1 tensors are no part of a GEM, such as optimizer.step;"),
    ],
)
def test_tensors_of_a_released_state(import_official, folder: Path, tensor: str, value, message: str) -> None:
    change(folder / "official" / "model.safetensors", tensor, value)
    assert message in import_official()


def test_other_models(init, folder: Path) -> None:
    assert "holds no config.json; a Qwen3-VL was expected there" in init(backbone=folder / "sana")
    assert "holds no config.json; a diffusers model" in init(**{"depth-head": folder})
    assert "is no known model, not diffusers' SanaTransformer2DModel" in init(
        **{"depth-head": folder / "qwen"}
    )
    assert "is a 'AutoencoderDC' model, not diffusers' Sana" in init(
        **{"depth-head": folder / "sana" / "vae"}
    )
    said = init(codec=folder / "sana" / "transformer")
    assert "is a 'SanaTransformer2DModel' model, not diffusers' AutoencoderDC; give --codec" in said
    set_config(folder / "sana" / "vae", _class_name="AutoencoderKL")
    assert "is a 'AutoencoderKL' model" in init()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("llama", "is a 'llama' model, not a Qwen3-VL. Use a dense Qwen3-VL"),
        ("qwen3_vl_moe", "Mixtures of experts"),
        ("qwen3_5", "linear-attention layers"),
        ("qwen3_5_moe", "linear-attention layers"),
        ("qwen2_5_vl", "is a 'qwen2_5_vl' model"),
    ],
)
def test_other_backbones(init, folder: Path, kind: str, message: str) -> None:
    set_config(folder / "qwen", model_type=kind)
    assert message in init()


def test_backbones_that_cannot_be_used(init, folder: Path) -> None:
    set_config(folder / "qwen", quantization_config={"quant_method": "fp8"})
    assert "is quantised" in init()


def test_a_sana_that_cannot_be_used(init, folder: Path) -> None:
    set_config(folder / "sana" / "transformer", guidance_embeds=True)
    assert "guidance-distilled" in init()


def test_parts_that_do_not_fit(init, folder: Path) -> None:
    path = folder / "sana" / "transformer"
    set_config(path, in_channels=8, out_channels=8)
    weights = path / "diffusion_pytorch_model.safetensors"
    for name, value in load_file(weights).items():
        if name == "patch_embed.proj.weight":
            change(weights, name, value.repeat(1, 2, 1, 1))
        elif name.startswith("proj_out."):
            change(weights, name, value.repeat(2, *[1] * (value.ndim - 1)))
    said = init()
    assert "misfit" in said
    assert "8 channels" in said


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", "tokenizer.json cannot be read"),
        ("generation_config.json", "holds no generation_config.json"),
        ("preprocessor_config.json", "preprocessor_config.json"),
        ("model.safetensors", "holds neither model.safetensors nor"),
        ("config.json", "holds no config.json"),
    ],
)
def test_missing_files(init, folder: Path, missing: str, message: str) -> None:
    (folder / "qwen" / missing).unlink()
    said = init()
    assert message in said
    assert str(folder / "qwen") in said
    assert ".tmp" not in said


def test_a_processor_of_another_model(init, folder: Path) -> None:
    path = folder / "qwen" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_size": 16}))
    assert "config.json says patch_size 8, the image processor 16" in init()


def test_torn_files(init, import_official, folder: Path) -> None:
    for path in (
        folder / "qwen" / "model.safetensors",
        folder / "sana" / "vae" / "diffusion_pytorch_model.safetensors",
        folder / "sana" / "transformer" / "config.json",
        folder / "official" / "model.safetensors",
    ):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        said = import_official() if path.parent.name == "official" else init()
        assert str(path) in said
        path.write_bytes(content)


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = refused(capsys, "init", "--backbone", "q", "--out", out)
    assert "--depth-head must be given too" in said
    said = refused(capsys, "init", "--codec", "q", "--out", out)
    assert "--backbone and --depth-head must be given too" in said
    said = refused(capsys, "init", "--backbone", "q", "--preset", "tiny", "--out", out)
    assert "not both" in said
    assert "is not a GEM checkpoint" in refused(
        capsys, "export", tmp_path / "no", "--format", "qwen3-vl", "--out", out
    )
    assert list(tmp_path.iterdir()) == []


def test_no_gem_state(import_official, folder: Path) -> None:
    (folder / "official" / "config.json").unlink()
    assert "there is no config.json beside" in import_official()
    said = import_official(source=folder / "qwen")
    assert "has no sana.* tensors" in said
    said = import_official(
        "--depth-head", folder / "sana", "--codec", folder / "sana", source=folder / "qwen"
    )
    assert "has no diffusion_connector.* tensors" in said


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs; files are below `root`, `broken` ones end early."""

    root: Path
    broken: str | None = None
    sha = "0" * 39 + "1"

    def log_message(self, *words: object) -> None: ...

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if not path.startswith(("/api/models/org/sana", "/org/sana/")):
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/org/sana/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": name.replace("/", "-")}
                for name, content in self._files().items()
            ]
            self._answer(200, json.dumps(entries).encode())
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self._files()]
            values = {"_id": "1", "id": "org/sana", "sha": self.sha, "siblings": siblings}
            self._answer(200, json.dumps(values).encode())
        else:
            name = path.removeprefix(f"/org/sana/resolve/{self.sha}/")
            tag = {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": self.sha}
            self._answer(200, self._files()[name], tag, short=name == self.broken)

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def _files(self) -> dict[str, bytes]:
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}

    def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None, *, short=False) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if short else body)


@pytest.fixture
def served(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine with the Sana pipeline as org/sana."""

    class Served(Hub):
        root = pristine / "sana"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield Served
    server.shutdown()
    server.server_close()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.mark.timeout(60)
def test_a_hub_download(served: type[Hub], pristine: Path) -> None:
    head = hub.locate("org/sana", hub.DEPTH_HEAD_FILES)
    assert sorted(path.name for path in head.iterdir()) == ["transformer"]
    codec = hub.locate("org/sana", hub.DEPTH_CODEC_FILES)
    for name in ("transformer", "vae"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert (codec / file).read_bytes() == (pristine / "sana" / file).read_bytes()
    with pytest.raises(
        CheckpointError, match="org/other is neither a folder here nor on the Hugging Face hub"
    ):
        hub.locate("org/other", hub.DEPTH_HEAD_FILES)


@pytest.mark.timeout(60)
def test_an_interrupted_download(served: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    served.broken = "transformer/diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match=r"org/sana .* could not be fetched .* Repeat the command"):
        hub.locate("org/sana", hub.DEPTH_HEAD_FILES)
    served.broken = None
    assert (hub.locate("org/sana", hub.DEPTH_HEAD_FILES) / "transformer" / "config.json").is_file()


@pytest.mark.timeout(60)
def test_no_network(init, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    use_hub(monkeypatch, "http://127.0.0.1:9", folder / "cache")  # nobody listens there
    said = init(backbone="org/qwen")
    assert "org/qwen is no folder here and could not be fetched" in said
    said = init(backbone="./no/where")
    assert "./no/where does not exist, and it is no hub id" in said

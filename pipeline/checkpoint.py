"""Pins and fetches the source checkpoint: safetensors only, shards against their index, every file hashed.

Nothing of a checkpoint is executed: no remote code, no pickle. A pickle-only checkpoint is refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.artifact import hash_file
from pipeline.errors import CheckpointError
from pipeline.recipe import Model
from pipeline.records import Checkpoint, read
from pipeline.tensors import Tensor, not_finite, read_header

WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt", "LICENSE*", "README.md")
MIXTRAL = {"block_sparse_moe": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
NEEDED = ("config.json", "tokenizer_config.json", "tokenizer.json")
EMBEDDINGS, OUTPUTS = ("embed_tokens", "embed_in"), ("lm_head", "embed_out")  # the second of each: GPT-NeoX
ROUTERS = ("gate", "router", "shared_expert_gate")  # a mixture's choice of experts: small, sensitive, never quantized


def pin(model: Model) -> Checkpoint:
    """Fetches (hub) or opens (local) the checkpoint and checks all of it. Raises CheckpointError."""
    folder = fetch(model)
    _refuse_unsafe(folder)
    config = _json(folder / "config.json")
    linear_shapes(folder)
    tensors = source_tensors(folder)
    damaged = {name: count for name in sorted(tensors) if (count := not_finite(tensors[name]))}
    if damaged:
        listing = ", ".join(f"{name} ({count} values)" for name, count in damaged.items())
        raise CheckpointError(f"{folder}: NaN or infinite weights in {listing}. The checkpoint is damaged: fetch it again.")
    files = [hash_file(path, path.name) for path in _files(folder)]
    dtypes = Counter({dtype: sum(math.prod(t.shape) for t in tensors.values() if t.dtype == dtype)
                      for dtype in {t.dtype for t in tensors.values()}})  # fmt: skip
    return Checkpoint(
        repo=model.repo,
        revision=model.revision,
        path=model.path,
        architecture=(config.get("architectures") or ["unknown"])[0],
        dtype=dtypes.most_common(1)[0][0],
        parameters=dtypes.total(),
        license=_license(folder),
        files=files,
    )


def _license(folder: Path) -> str | None:
    """What the checkpoint's own model card names, as an identifier of the hub; None without a readable card that names one."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        named = ModelCard.load(card).data.license
    except (ValueError, YAMLError):  # a card is for readers: a damaged one stops nobody from quantizing
        return None
    return str(named) if named else None


def fetch(model: Model) -> Path:
    """The folder that holds the checkpoint's files; downloads them from the hub if they are not there."""
    if model.path is not None:
        folder = Path(model.path)
        if not folder.is_dir():
            raise CheckpointError(f"model.path: found {model.path!r}, which is no folder. Expected a local checkpoint.")
        if "@" in model.path:
            raise CheckpointError(
                f"model.path: found {model.path!r}; optimum-intel reads '@' as a hub revision. Rename the folder."
            )
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repo, revision = str(model.repo), str(model.revision)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(WANTED)))
    except GatedRepoError as error:
        raise CheckpointError(
            f"model.repo: {repo} is gated. Accept its licence on the hub, then set HF_TOKEN or run: hf auth login"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"model.repo: {repo} at {revision} is not in the hub cache and the hub cannot be reached. On a machine with a "
            f"network run: hf download {repo} --revision {revision}, then bring its cache here (HF_HOME), or give model.path."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"model.repo: {repo} at {revision}: the hub answered: {str(error).splitlines()[0]}") from error


def open_pinned(recipe: str, model: Model) -> tuple[Path, Checkpoint]:
    """Folder and record of a pinned checkpoint, its files hashed again. Raises CheckpointError if one changed."""
    record = read(paths.checkpoint(recipe), Checkpoint)
    folder = fetch(model)
    found = {path.name: hash_file(path, path.name) for path in _files(folder)}
    pinned = {file.path: file for file in record.files}
    changed = sorted(name for name in found.keys() | pinned.keys() if found.get(name) != pinned.get(name))
    if changed:
        raise CheckpointError(f"{folder}: changed since it was pinned: {', '.join(changed)}. Run: dvc repro pin@{recipe}")
    return folder, record


def source_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder by name. Raises CheckpointError for a missing, torn or contradictory shard."""
    index = folder / "model.safetensors.index.json"
    shards = sorted(path for path in folder.glob("*.safetensors"))
    if index.is_file():
        weight_map: dict[str, str] = _json(index).get("weight_map", {})
        escaped = [name for name in weight_map.values() if Path(name).name != name]
        if escaped:
            raise CheckpointError(f"{index}: shard {escaped[0]!r} is no plain file name; shards must lie in the folder.")
        missing = sorted(set(weight_map.values()) - {path.name for path in shards})
        if missing:
            raise CheckpointError(f"{folder}: missing shards {', '.join(missing)} that {index.name} names. Fetch them again.")
        shards = [folder / name for name in sorted(set(weight_map.values()))]
    elif not shards:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        found = f"only pickle files ({', '.join(pickles)}), which can run code when loaded" if pickles else "no weights"
        raise CheckpointError(f"{folder}: found {found}; expected *.safetensors. Use the repository's safetensors revision.")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in read_header(shard).items():
            if name in tensors:
                raise CheckpointError(f"{folder}: tensor {name} is in {tensors[name].file.name} and in {shard.name}.")
            tensors[name] = tensor
    if index.is_file():
        wrong = [n for n in weight_map if n not in tensors or tensors[n].file.name != weight_map[n]]
        if wrong or len(weight_map) != len(tensors):
            raise CheckpointError(
                f"{folder}: the shards hold {len(tensors)} tensors, {index.name} names {len(weight_map)}"
                f"{'; not where it says: ' + ', '.join(wrong[:3]) if wrong else ''}. Fetch the shards again."
            )
    return tensors


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Weight shapes [out, in] of the linear layers inside the decoder blocks: what a quantizer is expected to cover.

    Layers go by the names of transformers' modules. Each expert of a mixture has its own; the routers that choose among them
    are left out. Raises CheckpointError for other layouts.
    """
    tensors = source_tensors(folder)
    stacked = [name for name, tensor in tensors.items() if ".experts." in name and len(tensor.shape) == 3]
    if stacked:
        raise CheckpointError(
            f"{folder}: {stacked[0]} holds all experts in one tensor {list(tensors[stacked[0]].shape)}. Expected the layout of "
            "Mixtral and Qwen-MoE, with a matrix for each expert ('*.experts.N.*.weight')."
        )
    shapes = {
        module_name(name).removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in sorted(tensors.items())
        if name.endswith(".weight") and len(tensor.shape) == 2 and ".layers." in name and not is_router(name)
    }
    if not shapes:
        raise CheckpointError(f"{folder}: no linear layers named '*.layers.N.*.weight'. Expected a decoder that is laid out so.")
    return shapes


def module_name(tensor: str) -> str:
    """What transformers calls the module or weight that a checkpoint stores under this name: Mixtral's has an older one."""
    return ".".join(MIXTRAL.get(part, part) for part in tensor.split(".")) if ".block_sparse_moe." in tensor else tensor


def output_layer(folder: Path) -> str:
    """The name of the output projection, also where it is the embedding's matrix."""
    return next((name for name in OUTPUTS if f"{name}.weight" in source_tensors(folder)), OUTPUTS[0])


def routers(folder: Path) -> list[str]:
    """The layers that choose among experts."""
    return sorted(module_name(name).removesuffix(".weight") for name in source_tensors(folder) if is_router(name))


def is_router(name: str) -> bool:
    """Whether a layer, or its weight, chooses experts."""
    return bool(set(name.removesuffix(".weight").split(".")) & set(ROUTERS))


def _refuse_unsafe(folder: Path) -> None:
    for name in NEEDED:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}. Expected a Hugging Face checkpoint with its tokenizer.")
    for name in NEEDED[:2]:
        remote = _json(folder / name).get("auto_map")
        if remote:
            raise CheckpointError(
                f"{folder / name}: auto_map {remote} asks for code from the repository, which quantgate never runs. "
                "Use a checkpoint whose architecture transformers itself has."
            )


def _files(folder: Path) -> list[Path]:
    return sorted({path for pattern in WANTED for path in folder.glob(pattern) if path.is_file()})


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value

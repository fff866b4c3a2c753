"""Pins and fetches the source checkpoint: safetensors only, shards against their index, every file
hashed.

Nothing of a checkpoint is executed: no remote code, no pickle. What the tools are given is a folder
of its own that holds the hashed files and nothing else, so that no other file of the checkpoint's
folder is ever loaded."""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path

from pipeline import paths, reading
from pipeline.errors import CheckpointError
from pipeline.recipe import Model
from pipeline.recipe.parsing import of_file
from pipeline.records import Checkpoint, read
from pipeline.records.artifact import hash_file
from pipeline.source import files as source
from pipeline.source import hub
from pipeline.source.tensors import Tensor, not_finite, read_header

MIXTRAL = {"block_sparse_moe": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
EMBEDDINGS, OUTPUTS = (
    ("embed_tokens", "embed_in"),
    ("lm_head", "embed_out"),
)  # the second of each: GPT-NeoX
CARD_METADATA = re.compile(
    r"\s*---[\r\n]+(.*?)[\r\n]+---\s*(?:[\r\n]|$)", re.DOTALL
)  # in front of a model card, as YAML
ROUTERS = (
    "gate",
    "router",
    "shared_expert_gate",
)  # a mixture's choice of experts: small, sensitive, never quantized


def pin(model: Model) -> Checkpoint:
    """Fetches (hub) or opens (local) the checkpoint and checks all of it. Raises
    CheckpointError."""
    folder = fetch(model)
    check(folder)
    tensors = source_tensors(folder)
    damaged = {name: count for name in sorted(tensors) if (count := not_finite(tensors[name]))}
    if damaged:
        listing = ", ".join(f"{name} ({count} values)" for name, count in damaged.items())
        raise CheckpointError(
            f"{folder}: NaN or infinite weights in {listing}. The checkpoint is damaged: fetch it"
            " again."
        )
    files = [hash_file(path, path.name) for path in source.files(folder)]
    dtypes = Counter({dtype: sum(math.prod(t.shape) for t in tensors.values() if t.dtype == dtype)
                      for dtype in {t.dtype for t in tensors.values()}})  # fmt: skip
    return Checkpoint(
        repo=model.repo,
        revision=model.revision,
        path=model.path,
        architecture=(source.config(folder).get("architectures") or ["unknown"])[0],
        dtype=dtypes.most_common(1)[0][0],
        parameters=dtypes.total(),
        license=_license(folder),
        files=files,
        left_out=source.left_out(folder),
    )


def check(folder: Path) -> None:
    """All that names, headers and settings tell, without reading the weights. Raises
    CheckpointError."""
    source.refuse(folder)
    linear_shapes(folder)


def _license(folder: Path) -> str | None:
    """What the checkpoint's own model card names, as an identifier of the hub; None without a
    readable card that names one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        metadata = CARD_METADATA.match(reading.text(card, CheckpointError))
        front_matter = (
            reading.yaml_value(metadata[1], str(card), CheckpointError) if metadata else None
        )
    except CheckpointError:  # a card is for readers: a damaged one stops nobody from quantizing
        return None
    named = front_matter.get("license") if isinstance(front_matter, dict) else None
    return str(named) if named else None


def fetch(model: Model) -> Path:
    """The folder that holds the checkpoint's files; downloads them from the hub if they are not
    there."""
    if model.path is not None:
        folder = Path(model.path)
        if not folder.is_dir():
            raise CheckpointError(
                f"model.path: found {model.path!r}, which is no folder. Expected a local"
                " checkpoint, relative to the project, for instance path: recipes/tiny/checkpoint."
            )
        if "@" in model.path:
            raise CheckpointError(
                f"model.path: found {model.path!r}; optimum-intel reads '@' as a hub revision."
                " Rename the folder."
            )
        return folder
    repo, revision = str(model.repo), str(model.revision)
    folder = download(repo, revision, [*source.COMPANIONS])
    return download(repo, revision, _named_weights(folder))


def _named_weights(folder: Path) -> list[str]:
    """What a repository's weights are called, by the files beside them; which of them are taken is
    told by source.weight_files."""
    named = [source.WEIGHTS]
    if (folder / source.INDEX).is_file():
        named += sorted(set(source.weight_map(folder / source.INDEX).values()))
    return named


def download(repo: str, revision: str, patterns: list[str]) -> Path:
    """Those files of a hub repository, from its cache where they are there. Raises
    CheckpointError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"model.repo: {repo} is gated. Accept its licence on the hub, then set HF_TOKEN or run:"
            " hf auth login"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, RuntimeError) as error:
        if not isinstance(error, LocalEntryNotFoundError) and not hub.is_unreachable(error):
            raise
        raise CheckpointError(
            f"model.repo: {repo} at {revision} is not in the hub cache and the hub cannot be"
            f" reached. On a machine with a network run: hf download {repo} --revision {revision},"
            " then bring its cache here (HF_HOME), or give model.path."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"model.repo: {repo} at {revision}: the hub answered: {str(error).splitlines()[0]}"
        ) from error
    except (
        ImportError,
        ValueError,
    ) as error:  # httpx: a SOCKS proxy without socksio, or a proxy's address that is none
        proxies = ", ".join(
            sorted(
                name for name in os.environ if name.lower().endswith("_proxy") and os.environ[name]
            )
        )
        if not proxies:
            raise
        message = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"model.repo: the hub cannot be asked through the proxy of {proxies} ({message}). Give"
            " an"
            " http:// proxy, or unset it."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"model.repo: {repo} at {revision} cannot be fetched: {str(error)[:200]}."
        ) from error


def open_pinned(recipe: str, model: Model) -> tuple[Path, Checkpoint]:
    """Record of a pinned checkpoint, and a folder that holds its files and nothing else, hashed
    again.

    Raises CheckpointError if one changed.
    """
    record = read(paths.checkpoint(recipe), Checkpoint)
    with of_file(paths.recipe(recipe)):
        folder = fetch(model)
    digests = {path.name: hash_file(path, path.name) for path in source.files(folder)}
    pinned = {file.path: file for file in record.files}
    changed = sorted(
        name for name in digests.keys() | pinned.keys() if digests.get(name) != pinned.get(name)
    )
    if changed:
        raise CheckpointError(
            f"{folder}: changed since it was pinned: {', '.join(changed)}. Run: dvc repro"
            f" pin@{recipe}"
        )
    return isolate(recipe, folder, record), record


def isolate(recipe: str, folder: Path, record: Checkpoint) -> Path:
    """A folder with hard links to the pinned files, or copies where there can be none. Raises
    CheckpointError if one changes."""
    target, names = paths.source(recipe), [file.path for file in record.files]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # stages of one recipe may run beside each other
        if not _holds(target, folder, record):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for name in names:
                link(folder / name, target / name)
            if not _holds(target, folder, record):
                raise CheckpointError(
                    f"{folder}: changed while it was read. Run: dvc repro pin@{recipe}"
                )
    return target


def _holds(target: Path, folder: Path, record: Checkpoint) -> bool:
    """Whether a folder holds the pinned files and nothing else; what is the very file that was
    hashed is not hashed again."""
    if not target.is_dir() or {path.name for path in target.iterdir()} != {
        file.path for file in record.files
    }:
        return False
    return all(
        (target / file.path).samefile(folder / file.path)
        or hash_file(target / file.path, file.path) == file
        for file in record.files
    )


def link(file: Path, target: Path) -> None:
    try:
        os.link(file.resolve(), target)
    except OSError:  # another device, a file system without links, or another user's file
        shutil.copyfile(file, target)


def source_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder by name. Raises CheckpointError for a missing, torn or
    contradictory shard."""
    index, shards = source.index_of(folder), source.weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in read_header(shard).items():
            if name in tensors:
                raise CheckpointError(
                    f"{folder}: tensor {name} is in {tensors[name].file.name} and in {shard.name}."
                )
            tensors[name] = tensor
    if index is not None:
        weight_map = source.weight_map(index)
        wrong = [n for n in weight_map if n not in tensors or tensors[n].file.name != weight_map[n]]
        if wrong or len(weight_map) != len(tensors):
            misplaced = f"; not where it says: {', '.join(wrong[:3])}" if wrong else ""
            raise CheckpointError(
                f"{folder}: the shards hold {len(tensors)} tensors, {index.name} names"
                f" {len(weight_map)}{misplaced}."
                " Fetch the shards again."
            )
    return tensors


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Weight shapes [out, in] of the linear layers inside the decoder blocks: what a quantizer is
    expected to cover.

    Layers go by the names of transformers' modules. Each expert of a mixture has its own; the
    routers that choose among them are left out. Raises CheckpointError for other layouts."""
    tensors = source_tensors(folder)
    stacked = [
        name for name, tensor in tensors.items() if ".experts." in name and len(tensor.shape) == 3
    ]
    if stacked:
        raise CheckpointError(
            f"{folder}: {stacked[0]} holds all experts in one tensor"
            f" {list(tensors[stacked[0]].shape)}. Expected the layout of Mixtral and Qwen-MoE, with"
            " a matrix for each expert ('*.experts.N.*.weight')."
        )
    shapes = {
        module_name(name).removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in sorted(tensors.items())
        if name.endswith(".weight")
        and len(tensor.shape) == 2
        and ".layers." in name
        and not is_router(name)
    }
    if not shapes:
        raise CheckpointError(
            f"{folder}: no linear layers named '*.layers.N.*.weight'. Expected a decoder that is"
            " laid out so."
        )
    return shapes


def module_name(tensor: str) -> str:
    """What transformers calls the module or weight that a checkpoint stores under this name:
    Mixtral's has an older one."""
    return (
        ".".join(MIXTRAL.get(part, part) for part in tensor.split("."))
        if ".block_sparse_moe." in tensor
        else tensor
    )


def output_layer(folder: Path) -> str:
    """The name of the output projection, also where it is the embedding's matrix."""
    return next(
        (name for name in OUTPUTS if f"{name}.weight" in source_tensors(folder)), OUTPUTS[0]
    )


def embedding_rows(folder: Path) -> int:
    """How many tokens the model has an embedding for; by config.json where the embedding has
    another name."""
    for name, tensor in source_tensors(folder).items():
        if name.endswith(tuple(f"{embedding}.weight" for embedding in EMBEDDINGS)):
            return tensor.shape[0]
    return int(source.config(folder)["vocab_size"])


def routers(folder: Path) -> list[str]:
    """The layers that choose among experts."""
    return sorted(
        module_name(name).removesuffix(".weight")
        for name in source_tensors(folder)
        if is_router(name)
    )


def is_router(name: str) -> bool:
    """Whether a layer, or its weight, chooses experts."""
    return bool(set(name.removesuffix(".weight").split(".")) & set(ROUTERS))

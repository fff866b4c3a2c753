"""Which files of a folder are the model's, and whether quantgate can start from it. In the control
environment.

The weights are those that transformers would load (modeling_utils._get_resolved_checkpoint_files):
what else lies there (consolidated or fp16 twins, adapters, pickles) is left out, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import reading
from pipeline.errors import CheckpointError
from pipeline.recipe import parsing
from pipeline.source.tensors import Tensor, read_header

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
COMPANIONS = ("*.json", "*.jinja", "tokenizer.model", "*.txt", "LICENSE*", "README.md")
NOT_THE_MODELS = (
    ADAPTER,
    "*.index.json",
    "*.safetensors.json",
    "quantize_config.json",
    "hf_quant_config.json",
)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
OTHERS = (".gguf", ".onnx")
NEEDED = ("config.json", "tokenizer_config.json", "tokenizer.json")
# What a quantizer leaves in a checkpoint besides config.json's quantization_config: names of
# tensors, and types of matrices
PACKED = ("qweight", "qzeros", "weight_packed", "weight_scale_inv", "quant_map")
SMALL = (
    "U8",
    "I8",
    "I32",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "F8_E8M0",
    "F6_E2M3",
    "F6_E3M2",
    "F4",
)

Size = Annotated[int, Field(gt=0, le=10**9)]


class Config(BaseModel):
    """What quantgate itself reads of a config.json; transformers looks at the rest."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    architectures: list[str] | None = None
    model_type: str | None = None
    vocab_size: Size | None = None
    hidden_size: Size | None = None
    tie_word_embeddings: bool | None = None


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model's weights, sorted. Raises CheckpointError if there are none, or
    one is missing."""
    index = folder / INDEX
    named = (
        config(folder).get("transformers_weights") if (folder / "config.json").is_file() else None
    )
    if named is not None:
        _require_plain(folder / "config.json", [named])
        index = folder / named
        if not named.endswith(INDEX.removeprefix("model")):
            return [_existing(folder, named)]
    elif (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not index.is_file():
        raise CheckpointError(_no_weights(folder))
    names = sorted(set(weight_map(index).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: missing shards {', '.join(missing)} that {index.name} names. Fetch them"
            " again."
        )
    return [folder / name for name in names]


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index says. Raises CheckpointError for an index that is none,
    or leads out of its folder."""
    shards = reading.json_object(index, CheckpointError).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(
            f"{index}: weight_map: found {str(shards)[:60]}, expected the file of each tensor."
        )
    _require_plain(index, list(shards.values()))
    return shards


def index_of(folder: Path) -> Path | None:
    """The index that the weights were taken by; None for a single file."""
    named = (
        config(folder).get("transformers_weights") if (folder / "config.json").is_file() else None
    )
    if named is not None:
        return folder / named if str(named).endswith(".index.json") else None
    return None if (folder / WEIGHTS).is_file() else folder / INDEX


def files(folder: Path) -> list[Path]:
    """All files of the model: weights, and what is read beside them. Everything that a tool is
    given is among them."""
    index = index_of(folder)
    beside = {path for pattern in COMPANIONS for path in folder.glob(pattern) if path.is_file()}
    beside -= {path for pattern in NOT_THE_MODELS for path in folder.glob(pattern)}
    return sorted(beside | {*weight_files(folder)} | ({index} if index else set()))


def left_out(folder: Path) -> list[str]:
    """Weights and adapters that lie there and are not the model's."""
    weights = ("*.safetensors", ADAPTER, *(f"*{suffix}" for suffix in (*PICKLES, *OTHERS)))
    present = {path.name for pattern in weights for path in folder.glob(pattern)}
    return sorted(present - {path.name for path in files(folder)})


def refuse_strays(folder: Path) -> None:
    """Raises CheckpointError for safetensors files of which transformers would take no notice, but
    vLLM, which takes them all."""
    if strays := {path.name for path in folder.glob("*.safetensors")} - {
        path.name for path in weight_files(folder)
    }:
        raise CheckpointError(
            f"{folder}: {', '.join(sorted(strays))}: no part of the model by its index. Expected"
            " its weights alone."
        )


def config(folder: Path) -> dict[str, Any]:
    """All of config.json. Raises CheckpointError for values that cannot be what their keys say."""
    path = folder / "config.json"
    settings = reading.json_object(path, CheckpointError)
    try:
        Config.model_validate(settings)
    except ValidationError as error:
        raise CheckpointError(parsing.describe(path, Config, error.errors()[0])) from error
    return settings


def refuse(folder: Path) -> None:
    """Raises CheckpointError for a folder that quantgate cannot start from: an adapter, a quantized
    model, parts missing."""
    if (folder / ADAPTER).is_file():
        _refuse_adapter_alone(folder)
    for name in NEEDED:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: no {name}. Expected a Hugging Face checkpoint with its tokenizer."
            )
    for path in files(folder):
        if path.suffix == ".json":  # also what only some tools read, and at the end of their work
            reading.json_object(path, CheckpointError)
    if (method := _quantized_by(folder)) is not None:
        raise CheckpointError(
            f"{folder}: already quantized by {method}. quantgate starts from the unquantized"
            " original and compares with it: give that one (a model card mostly names it as the"
            " base model)."
        )


def _refuse_adapter_alone(folder: Path) -> None:
    try:
        weight_files(folder)
    except CheckpointError as error:
        settings = reading.json_object(folder / ADAPTER, CheckpointError)
        base = settings.get("base_model_name_or_path") or "a base model that it does not name"
        raise CheckpointError(
            f"{folder}: an adapter ({settings.get('peft_type', 'of PEFT')}) of {base}, not a model."
            f" Merge it first: load {base}, put the adapter on it with"
            " peft.PeftModel.from_pretrained, then merge_and_unload() and save_pretrained."
        ) from error


def _quantized_by(folder: Path) -> str | None:
    """By what the checkpoint is quantized already, and where that is said; None for one in
    floats."""
    for key in ("quantization_config", "compression_config"):
        if quantization := config(folder).get(key):
            method = quantization.get("quant_method") if isinstance(quantization, dict) else None
            return f"{method or 'a quantizer'} (config.json: {key})"
    for name in ("quantize_config.json", "hf_quant_config.json"):
        if (folder / name).is_file():
            return f"what {name} says"
    for path in weight_files(folder):
        for tensor in read_header(path).values():
            if _is_packed(tensor):
                return f"a quantizer ({path.name} holds {tensor.name} as {tensor.dtype})"
    return None


def _is_packed(tensor: Tensor) -> bool:
    return tensor.name.endswith(PACKED) or (len(tensor.shape) in (2, 3) and tensor.dtype in SMALL)


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise CheckpointError(
            f"{folder}: no {name}, which config.json names as the weights. Fetch it again."
        )
    return folder / name


def _require_plain(where: Path, names: list[Any]) -> None:
    """Shards lie in the folder itself, and are safetensors."""
    for name in names:
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith((".safetensors", ".safetensors.index.json"))
        ):
            raise CheckpointError(
                f"{where}: shard {str(name)[:80]!r} is no plain file name of a safetensors file in"
                " the folder."
            )


def _no_weights(folder: Path) -> str:
    def named(suffixes: tuple[str, ...]) -> str:
        return ", ".join(
            sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)[:4]
        )

    if others := named((".safetensors",)):
        held = f"{others}, which transformers does not take for a model"
    elif pickles := named(PICKLES):
        held = f"only pickle files ({pickles}), which can run code when loaded"
    elif others := named(OTHERS):
        held = f"only {others}"
    else:
        held = "no weights"
    return (
        f"{folder}: found {held}; expected {WEIGHTS}, or shards with {INDEX}. Use the repository's"
        " safetensors revision."
    )

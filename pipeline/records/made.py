"""What was pinned, calibrated and quantized."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.records.base import Record, Sealed
from pipeline.records.timed import Estimate


class File(Record):
    path: str
    size_bytes: int
    sha256: str


class Revision(Record):
    """The state of the project's code and recipes: the git commit, and the files that differ from
    it."""

    commit: str | None
    changed: list[str]


class Origin(Record):
    """Under what something was made or measured: the project, the recipe and the pinned
    environment, by their SHA-256.

    Of a recipe that leaves out sections it is the file that has them all, which a bundle carries
    too."""

    revision: Revision
    recipe_sha256: str
    environment: str
    environment_sha256: str


class Tokenizer(Record):
    """What the tokenizer puts around a text: token ids in `front` (BOS, mostly) and behind its
    `end`."""

    front: list[int]
    end: list[int]


class Checkpoint(Record):
    """The pinned source: where from, and every file's size and hash. `left_out` lies beside it and
    is not the model's."""

    repo: str | None
    revision: str | None
    path: str | None
    architecture: str
    dtype: str
    parameters: int
    license: str | None = None
    files: list[File]
    left_out: list[str] = Field(default=[])
    tokenizer: Tokenizer | None = None


class Samples(Record):
    """Calibration set: `ids` is [samples, tokens] token ids; sha256 is over them and their order.
    `coverage`: of a mixture of experts, how many of the tokens each expert of each block is sent by
    the source model. `template_date`: what a chat template that writes today's date was given.
    `prompts_refused` are those that the template did not take."""

    prompts: str
    seed: int
    prompts_used: int
    prompts_empty: int = 0
    prompts_repeated: int = 0
    prompts_refused: int = 0
    template_date: str | None = None
    sha256: str
    overlap: float
    overlap_limit: float
    ids: list[list[int]]
    coverage: dict[str, list[int]] = Field(default={})


class Text(Record):
    """Evaluation text: `windows` is [count, window] token ids, the same for every engine; `bytes`
    are the UTF-8 bytes of each window's scored tokens (all but the first)."""

    name: str
    bos: str
    characters: int
    tokens_dropped: int
    sha256: str
    windows: list[list[int]]
    bytes: list[int]


class Texts(Record):
    texts: list[Text]


class Layers(Record):
    """How the model's linear layers came out; `skipped` are those that the recipe's precision was
    not applied to, `kept` those that the recipe wants in 16 bits, `int8` those that it wants in 8
    where the others have 4."""

    expected: int
    quantized: int
    skipped: list[str]
    kept: list[str] = Field(default=[])
    int8: list[str] = Field(default=[])


class Rounding(Record):
    """How the layers of an artifact's low precision were rounded.

    `format` is the layout that holds them, simulated where they are floats again. `group_size`
    columns share a scale, -1: all of a row; None where layers differ. `symmetric`: no zero-points.
    `outside` are the types of embedding and output projection."""

    format: str
    bits: int
    group_size: int | None
    symmetric: bool
    outside: list[str]


class Step(Record):
    """One rung of a ladder as it was tried. `rung` in words; `mean_kl` at the few positions that
    were looked at first, with the bound below which it hardly lies and the limit, of the worst
    text; `status` is the gate's, or FAIL at first look, or UNUSABLE: not made, or not run by its
    engine."""

    rung: str
    status: str
    reason: str
    size_bytes: int | None = None
    output_tokens_per_s: Estimate | None = None
    mean_kl: float | None = None
    mean_kl_low: float | None = None
    mean_kl_limit: float | None = None


class Climb(Record):
    """The way up a ladder: the rungs that were tried, in order; `reached` are the settings of the
    one that this artifact is of."""

    goal: str | None
    steps: list[Step]
    reached: dict[str, Any]


class Manifest(Sealed):
    """Of an artifact. `taken_from` says where one lay that quantgate did not make: then nobody
    measured how it was made, nor with what calibration set, and `versions` and `resolved` are its
    files' own word.

    `resolved` is to be shown, in the words of the tool that answered; what is decided rests on
    `rounding`. That is None of the unquantized model, and where it was made before quantgate wrote
    it down. `stored_types` counts decoder layers, `weights_by_type` the single weights of all
    matrices."""

    recipe: str
    variant: str
    engine: str
    device: str
    quantizer: str | None
    answered_by: str
    weights: str
    requested: dict[str, Any]
    resolved: dict[str, Any]
    rounding: Rounding | None = None
    notes: list[str]
    layers: Layers
    stored_types: dict[str, int]
    weights_by_type: dict[str, int] = Field(default={})
    versions: dict[str, str]
    checkpoint_sha256: str
    samples_sha256: str | None
    coverage: dict[str, list[int]] = Field(default={})
    files: list[File]
    wall_s: float
    peak_memory_bytes: int
    climb: Climb | None = None
    taken_from: str | None = None
    origin: Origin

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

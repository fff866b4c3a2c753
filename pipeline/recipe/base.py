"""What the parts of a recipe have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Weights = Literal["bf16", "int8", "int4", "nf4", "mxfp4", "fp8", "int2"]
KvCache = Literal["u8", "bf16", "f16", "f32"]
# The most of each kind of number: more is a typing error, and breaks what it is multiplied with.
LARGEST = 10**13
LONGEST = 10_000_000  # tokens: the longest context of any model that was published
MOST = 1_000_000  # of what takes a second or a file each
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Few = Annotated[int, Field(gt=0, le=MOST)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _without_home(path: str) -> str:
    if not path.strip() or "\0" in path:
        raise ValueError(f"found {path!r}, expected a path")
    if path.startswith("~"):
        raise ValueError(
            f"found {path!r}; ~ is not expanded, since DVC reads this path too. Write"
            f" {str(Path(path).expanduser())!r}"
        )
    return path


LocalPath = Annotated[str, AfterValidator(_without_home)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

"""Where the model and the prompts come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.recipe.base import LONGEST, MOST, Count, LocalPath, Positive, Strict


class Model(Strict):
    """The source checkpoint: a hub repository at a commit, or a local folder."""

    repo: str | None = Field(None, description="hub repository, owner/name")
    revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="commit of the repository, 40 hex digits"
    )
    path: LocalPath | None = Field(None, description="local folder, relative to the project")
    parameters: Positive | None = Field(
        None, description="parameter count, for estimates before the fetch"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.repo is None) == (self.path is None):
            raise ValueError(
                "give either 'repo' with 'revision', or 'path', for instance path: ../my-model, a"
                " folder beside the project; quantgate init OWNER/NAME finds a hub's revision"
            )
        if self.repo is not None and self.revision is None:
            raise ValueError(
                "'repo' needs 'revision': the commit's 40 hex digits (a branch name can move), for"
                " instance revision: 12fd25f77366fa6b3b4b768ec3050bf629380bac; quantgate init"
                f" {self.repo} finds it"
            )
        return self


class Calibration(Strict):
    """What the quantizers see: `samples` rows of `tokens` token ids each."""

    prompts: str = Field(description="name of a prompt set in calibration/")
    samples: Annotated[int, Field(gt=0, le=MOST)]
    tokens: Annotated[int, Field(ge=16, le=LONGEST)]
    seed: Count = 0
    chat_template: bool = Field(
        False, description="render each prompt through the checkpoint's chat template"
    )
    max_overlap: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description=(
            "largest share of the evaluation texts' 13-word sequences that may occur in the samples"
        ),
    )


class PromptSet(Strict):
    """One YAML in calibration/: a source of prompts or text, its licence and hash."""

    path: LocalPath | None = Field(None, description="local file: .jsonl, .jsonl.gz or .txt")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    repo: str | None = Field(None, description="hub data set, owner/name")
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    config: str | None = None
    data_dir: str | None = None
    split: str | None = None
    field: str | None = Field(None, description="the column that holds the text")
    dialogue: Literal["hh-rlhf"] | None = Field(
        None, description="how to split the text into turns"
    )
    first: Count | None = Field(None, description="skip this many documents")
    documents: Positive | None = Field(None, description="use this many documents; default all")
    licence: str
    source: str

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.repo is None) == (self.path is None):
            raise ValueError(
                "give either 'path' with 'sha256', or 'repo' with 'revision' and 'split'"
            )
        if self.repo is not None and (
            self.revision is None or self.split is None or self.field is None
        ):
            raise ValueError("'repo' needs 'revision' (40 hex digits), 'split' and 'field'")
        return self

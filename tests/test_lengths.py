"""Lengths of a recipe against the positions that a model was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import recipe
from pipeline.errors import RecipeError
from pipeline.evidence import opened
from pipeline.planning import local
from pipeline.source import lengths


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": 1}, 4096),
        (
            {
                "max_position_embeddings": 2048,
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            },
            8192,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
            },
            131072,
        ),
        ({"max_position_embeddings": 2048, "rope_scaling": "odd"}, 2048),
        ({"max_position_embeddings": "many"}, None),
        ({"max_position_embeddings": 10**400}, None),
        (
            {
                "max_position_embeddings": 2048,
                "rope_scaling": {"rope_type": "linear", "factor": 1e308},
            },
            2048,
        ),
        ({}, None),
    ],
)
def test_positions_of_a_configuration(config: dict[str, Any], expected: int | None) -> None:
    found = lengths.positions(config)
    assert (found and found[1]) == expected


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "max_model_len: 512",
            "max_model_len: 513",
            "serve.max_model_len: found 513, the model was made for 512 positions",
        ),
        ("tokens: 128", "tokens: 600", "calibration.tokens: found 600"),
    ],
)
def test_more_than_the_model_was_made_for_is_refused_by_plan(
    project: Path, old: str, new: str, said: str
) -> None:
    path = Path("recipes/tiny.yaml")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecipeError) as error:
        local.refuse(recipe.load("tiny"))
    assert said in str(error.value)
    assert "max_position_embeddings" in str(error.value)


def test_tasks_from_outside_the_project_need_a_word(project: Path, tmp_path: Path) -> None:
    path = Path("recipes/tiny.yaml")
    (Path("recipes/tiny/tasks")).rename(tmp_path / "tasks")
    path.write_text(
        path.read_text().replace(
            "task_path: recipes/tiny/tasks", f"task_path: {tmp_path / 'tasks'}"
        )
    )
    with pytest.raises(
        RecipeError,
        match=r"evaluate.task_path: found .* lies outside the project .*evaluate.task_code: true",
    ):
        opened.unclimbed("tiny")
    Path("recipes/tiny/tasks").symlink_to(tmp_path / "tasks")
    path.write_text(
        path.read_text().replace(
            f"task_path: {tmp_path / 'tasks'}", "task_path: recipes/tiny/tasks"
        )
    )
    with pytest.raises(RecipeError, match="lies outside the project"):
        opened.unclimbed("tiny")
    path.write_text(
        path.read_text().replace(
            "task_path: recipes/tiny/tasks", "task_path: recipes/tiny/tasks\n  task_code: true"
        )
    )
    opened.unclimbed("tiny")

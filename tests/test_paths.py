"""Which command makes what lies in artifacts/."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getmembers, isfunction, signature
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import paths
from tests.conftest import ROOT

STAGE = "evaluate@mine--ov-int8"
GIVEN = {"recipe": "mine", "variant": "ov-int8", "suffix": "json", "stage": STAGE}


def _given(place: Callable[..., Path]) -> list[str]:
    return [GIVEN[name] for name in signature(place).parameters]


PLACES = [
    place(*_given(place))
    for _, place in getmembers(paths, isfunction)
    if signature(place).return_annotation == "Path"
    and signature(place).parameters.keys() <= GIVEN.keys()
]


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place.is_relative_to(paths.ARTIFACTS)], ids=str
)
def test_every_place_has_a_command_that_makes_it(place: Path) -> None:
    command, verb, *what = paths.producer(place).split()
    if command == "quantgate":
        assert [verb, *what] == ["benchmark", "mine", "--http", "ov-int8"]
        return
    assert (command, verb) == ("dvc", "repro")
    stage, _, item = what[0].partition("@")
    asked = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][stage]["foreach"]
    assert item == ("mine" if asked == "${recipes}" else "mine--ov-int8")

"""The panel's list of items holds together."""

from __future__ import annotations

import re

from tests.panel.items import BENIGN, DAMAGES


def test_names_are_unique() -> None:
    names = [item.name for item in [*DAMAGES, *BENIGN]]
    assert len(names) == len(set(names))


def test_every_released_bug_names_its_report_and_an_honest_twin() -> None:
    released = [item for item in DAMAGES if item.shipped]
    honest = {item.name for item in BENIGN}
    assert len({item.shipped for item in released}) >= 8
    for item in released:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", item.shipped), item
        assert item.twin in honest, item
    assert not [item.name for item in BENIGN if item.shipped or item.twin]

"""What is not there, or holds nothing: one sentence that names it and says what to do, in no
library's words."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipeline import cli, recipe
from pipeline.errors import CalibrationError, CheckpointError
from pipeline.planning import power
from pipeline.recipe import PromptSet
from pipeline.runtime import environments, process
from pipeline.source import checkpoint, hub, prompts

CLOSED = RuntimeError("Cannot send a request, as the client has been closed.")
ROWS = b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 2}\n'
OF_HUB = PromptSet(
    repo="a/b", revision="0" * 40, split="train", field="text", licence="x", source="x"
)


@pytest.mark.parametrize(
    ("name", "content", "more", "told"),
    [
        (
            "p.jsonl",
            ROWS,
            ["--field", "promt"],
            "--field: found 'promt', p.jsonl has the columns prompt, id. Did you mean 'prompt'?",
        ),
        (
            "p.jsonl",
            ROWS,
            ["--field", "other"],
            "--field: found 'other', p.jsonl has the columns prompt, id.",
        ),
        ("p.jsonl", b"", [], "p.jsonl: is empty. Expected prompts: a text on each line"),
        ("p.jsonl", b"\n \n", [], "p.jsonl: is empty. Expected prompts: a text on each line"),
        ("p.jsonl.gz", gzip.compress(b""), [], "p.jsonl.gz: is empty. Expected prompts"),
        ("p.txt", b"", ["--field", "x"], "p.txt: is empty. Expected prompts: a text on each line"),
        ("p.txt", b" \n", [], "prompt set 'p': no text left: of 1 documents 0 are skipped"),
        ("p.txt", None, [], "p.txt: a folder or a device. Expected prompts: a text on each line"),
    ],
)
def test_a_file_without_what_was_asked_for(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    more: list[str],
    told: str,
) -> None:
    Path(name).mkdir() if content is None else Path(name).write_bytes(content)
    assert cli.main(["calibration", "add", name, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"quantgate: {told}")
    assert said.count("\n") == 1
    assert not Path("calibration/p.yaml").exists()


def test_a_registry_that_is_not_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "no/registry"]) == 2
    assert "no/registry: no such folder, so nothing is published there" in capsys.readouterr().err
    Path("empty").mkdir()
    assert cli.main(["list", "empty"]) == 0


def test_a_lost_network_is_said_in_our_words() -> None:
    chained = ValueError("x")
    chained.__cause__ = ConnectionError("y")
    for error in (CLOSED, ConnectionError("Couldn't reach 'a/b'"), chained, TimeoutError()):
        assert hub.reason(error) == hub.NOT_HERE
    assert hub.reason(ValueError("Config x is not there.")) == "ValueError: Config x is not there"


def test_whatever_is_of_the_hub_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CLOSED

    monkeypatch.setattr(prompts, "_loaded", fail)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    assert not prompts.is_here(OF_HUB)
    with pytest.raises(CalibrationError, match=f"data set a/b at 0+ cannot be had: {hub.NOT_HERE}"):
        prompts.documents("p", OF_HUB)
    with pytest.raises(CheckpointError, match="owner/model at main is not in the hub cache"):
        checkpoint.download("owner/model", "main", [])


def test_plan_names_what_is_not_here(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*asked: object, **_: object) -> process.Finished:
        job = asked[2]
        assert isinstance(job, dict)
        absent = [f"prompt set {name} ({of['repo']})" for name, of in job["prompts"].items()]
        return process.Finished({"items": {}, "absent": [*absent, "task mmlu (cais/mmlu)"]}, 0, 0)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(environments, "is_complete", lambda name: True)
    monkeypatch.setattr(process, "run", answer)
    power.count_items(recipe.load("qwen3-8b"))
    said = capsys.readouterr().err
    for what in ("model Qwen/Qwen3-8B", "prompt set hh-rlhf (Anthropic/hh-rlhf)", "(cais/mmlu)"):
        assert what in said
    assert "dvc repro reference@qwen3-8b trace@qwen3-8b on a machine that has one" in said

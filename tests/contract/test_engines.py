"""One suite over the fake and every real engine: what the rest of the pipeline relies on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import engines
from pipeline.runtime import environments
from tests.conftest import ROOT
from tests.contract.conftest import TINY, run_probe
from tests.contract.probe import SERVE, choices, probe, sequences

# bfloat16 keeps 8 bits of precision; mean absolute difference in nats per token that execution in
# it may cost.
TOLERANCE = {"reference": 1e-4, "openvino": 0.1, "vllm": 0.1}
TOGETHER = {
    "fake": 0.0,
    "reference": 2e-5,  # with AVX2 1.05e-5 was seen
    "openvino": 0.05,
    "vllm": 0.05,
}  # nats; other shapes round otherwise
REAL = [pytest.param(name, marks=pytest.mark.engine) for name in ("reference", "openvino", "vllm")]


@pytest.fixture(scope="session")
def found(tiny_artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache: dict[str, dict[str, Any]] = {}

    def get(name: str) -> dict[str, Any]:
        if name not in cache:
            if name == "fake":
                with engines.open_engine("fake", Path(), SERVE) as engine:
                    cache[name] = probe(engine)
            else:
                out = tmp_path_factory.mktemp(name) / "found.json"
                cache[name] = run_probe(
                    engines.ENGINES[name].environment, name, str(tiny_artifacts[name]), out=out
                )
        return cache[name]

    return get


@pytest.fixture(scope="session")
def tiny_artifacts(request: pytest.FixtureRequest) -> dict[str, Path]:
    """Unquantized tiny on each engine; the OpenVINO one comes from the integration run, which makes
    it anyway."""
    if any(item.get_closest_marker("engine") for item in request.session.items):
        run = request.getfixturevalue("tiny_untouched")
        return {"reference": TINY, "openvino": run / "artifacts/models/tiny/ov-bf16", "vllm": TINY}
    return {}


@pytest.mark.parametrize("name", ["fake", *REAL])
def test_scores_have_one_value_per_token_after_the_first(found: Any, name: str) -> None:
    scores = found(name)["scores"]
    assert [len(row) for row in scores] == [len(ids) - 1 for ids in sequences()]
    assert all(value <= 0 for row in scores for value in row)


@pytest.mark.parametrize("name", ["fake", *REAL])
def test_choices_score_together_as_each_alone(found: Any, name: str) -> None:
    """Shared contexts, equal requests and padding change nothing but rounding."""
    for (together, greedy), (alone, expected), request in zip(
        found(name)["choices"], found(name)["alone"], choices(), strict=True
    ):
        assert len(together) == len(request.continuation)
        assert together == pytest.approx(alone, rel=1e-6, abs=TOGETHER[name])
        assert (greedy is None) == (expected is None) == (not request.greedy)


@pytest.mark.engine
def test_the_references_choices_are_transformers_in_float32(
    found: Any, torch_scores: dict[str, Any]
) -> None:
    for request, ours, theirs in zip(
        choices(), found("reference")["choices"], torch_scores["choices"], strict=True
    ):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-6, abs=1e-5)
        assert ours[1] == (theirs[1] if request.greedy else None)


@pytest.mark.parametrize("name", ["fake", *REAL])
def test_decoding_in_between_changes_no_score(found: Any, name: str) -> None:
    assert found(name)["after_decoding"] == pytest.approx(
        found(name)["alone"][0][0], abs=TOGETHER[name]
    )


@pytest.mark.parametrize("name", ["fake", *REAL])
def test_decoding_gives_exactly_the_tokens_asked_for(found: Any, name: str) -> None:
    assert [len(ids) for ids in found(name)["decoded"]] == [1, 2, 7, 7, 3]
    assert found(name)["idle"] == 0


@pytest.mark.parametrize("name", ["fake", *REAL])
def test_distributions_are_whole_and_those_of_the_engines_own_scoring(
    found: Any, name: str
) -> None:
    """Two code paths: on OpenVINO GenAI's echo scoring, and its paged-attention model run with
    every logit kept; on vLLM its prompt log-probabilities, and its hidden states projected by us.
    """
    assert [len(row) for row in found(name)["distributions"]] == [
        len(ids) - 1 for ids in sequences()
    ]
    assert found(name)["worst_sum"] < 1e-3
    pairs = zip(found(name)["distributions"], found(name)["scores"], strict=True)
    ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
    likely = theirs > -8
    assert np.abs(ours - theirs)[likely].mean() < 0.02


@pytest.mark.parametrize("name", REAL)
def test_the_weights_view_of_unquantized_weights_is_transformers_in_float32(
    found: Any, torch_scores: dict[str, Any], name: str
) -> None:
    for ours, theirs in zip(found(name)["weights"], torch_scores["scores"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)


@pytest.mark.parametrize("name", ["fake", *REAL])
def test_settings_are_told(found: Any, name: str) -> None:
    assert found(name)["settings"]


@pytest.mark.parametrize("name", REAL)
def test_scores_agree_with_transformers(
    found: Any, torch_scores: dict[str, Any], name: str
) -> None:
    ours, theirs = (
        np.concatenate([np.array(row) for row in side["scores"]])
        for side in (found(name), torch_scores)
    )
    # Random ids are far off the model's text: compare where it gives them a chance at all.
    likely = theirs > -8
    assert likely.sum() > 50
    assert np.abs(ours - theirs)[likely].mean() < TOLERANCE[name]


@pytest.mark.parametrize("name", REAL)
def test_first_decoded_token_agrees_with_transformers(
    found: Any, torch_scores: dict[str, Any], name: str
) -> None:
    decoded = [ids[0] for ids in found(name)["decoded"]]
    assert (
        np.mean(
            [token == row[-1] for token, row in zip(decoded, torch_scores["best"][:5], strict=True)]
        )
        >= 0.8
    )


REFUSED_BY_VLLM = """
import sys
import json
import shutil
import subprocess
from pathlib import Path
from pipeline.engines.vllm import VllmEngine
from pipeline.errors import EvaluationError
from tests.contract.probe import SERVE
try:
    with VllmEngine(Path(sys.argv[1]), SERVE):
        print("loaded")
except EvaluationError as error:
    print(error)
"""


@pytest.mark.engine
def test_what_vllm_does_not_load_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Here a context that is shorter than what is asked for. The verdict on an artifact that
    somebody uploaded tells no more."""
    shutil.copytree(TINY, tmp_path / "short")
    config = json.loads((TINY / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(
        json.dumps({**config, "max_position_embeddings": 16})
    )
    command = [environments.python("vllm"), "-c", REFUSED_BY_VLLM, tmp_path / "short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"vLLM does not load {tmp_path / 'short'}: " in done.stdout
    assert "max_position_embeddings" in done.stdout or "max_model_len" in done.stdout

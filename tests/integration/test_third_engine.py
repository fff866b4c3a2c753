"""A third engine, by one new file and one row: from its recipe to the report, and served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import command, commit_all, make_project

pytestmark = pytest.mark.engine

FILE = '''"""transformers as an engine."""

from pipeline.engines.reference import ReferenceEngine


class ThirdEngine(ReferenceEngine):
    """Greedy, one request after another."""


def snippet(folder, settings):
    """Of the card."""
    return [f"Load {folder} with transformers, in {settings['dtype']}."]
'''
ROW = """
ENGINES["third"] = Engine(
    scores="pipeline.engines.third:ThirdEngine",
    serves="pipeline.engines.third:ThirdEngine",
    weights="pipeline.engines.third:ThirdEngine",
    environment="openvino",
    packages=("torch", "transformers"),
    name="Third",
    title="transformers",
    artifact_format=SAFETENSORS,
    targets=("cpu",),
    driven_on=("cpu",),
    own_precision=False,
    own_kv_cache=False,
    shares_prefixes=True,
    servers={"own": "pipeline.engines.own_server"},
    takes_token_ids=False,
    needs={},
    fuses=False,
    divisor=1,
    quantizer=None,
    own_words=(),
    ladder=("rounding int8",),
    faster=(),
    hub_library="transformers",
    snippet="pipeline.engines.third:snippet",
    costs=Costs(
        deployed=Passes(5, 10, "float32", {"bf16": 0.65}),
        weights=Passes(2, 10, "float32", {"bf16": 0.65}),
        base_bytes=0.5e9,
        logits_bytes=0.13e9,
        step_s=0.01,
        load_s=5,
        keeps_quantized=False,
        takes_cache=False,
        compiling_bytes=0,
    ),
)
"""
RECIPE = """model: {path: recipes/tiny/checkpoint}
calibration: {prompts: tiny-prompts, samples: 16, tokens: 64, seed: 0}
evaluate:
  perplexity: {texts: [tiny-text], window: 256}
  divergence: {positions: 4080, windows: 16}
  tasks: {world_facts: 64}
  task_path: recipes/tiny/tasks
gate:
  rare: 0.2
  perplexity_ratio: {bf16: 1.005, int8: 1.05}
  mean_kl: {bf16: 0.001, int8: 0.02}
  p99_kl: {bf16: 0.02, int8: 0.3}
  top1_agreement: {bf16: 0.9, int8: 0.8}
  accuracy_drop: {bf16: 0.05, int8: 0.3}
  task_drop: {bf16: 0.05, int8: 0.3}
serve: {max_model_len: 512, max_num_seqs: 8, max_num_batched_tokens: 2048, kv_cache_gib: 1}
benchmark: {concurrency: [1], prompt_tokens: 16, output_tokens: 4, requests: 4, repeats: 2}
variants:
  third-bf16: {engine: third}
  third-int8: {engine: third, quantizer: rounding, weights: int8}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("third"))
    (folder / "pipeline" / "engines" / "third.py").write_text(FILE)
    with (folder / "pipeline" / "capabilities.py").open("a") as table:
        table.write(ROW)
    (folder / "recipes" / "third.yaml").write_text(RECIPE)
    return folder


def test_from_recipe_to_report(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    commit_all()
    for words in (
        ("quantgate", "index"),
        ("quantgate", "plan", "third"),
        ("dvc", "repro", "--keep-going", "report@third"),
    ):
        done = command(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(Path("artifacts/reports/third.json").read_text())
    assert list(summary["variants"]) == ["third-bf16", "third-int8"]
    for row in summary["variants"].values():
        assert (row["verdict"]["status"], row["benchmark"]["measured"]) == ("PASS", True)
    assert (
        "with transformers, in float32" in Path("artifacts/cards/third/third-int8.md").read_text()
    )


SERVED = """
import json, sys, urllib.request
from pathlib import Path
from pipeline.engines import server
from pipeline.engines.server import Served
from pipeline.recipe import Serve
what = Served("third", Path(sys.argv[1]).resolve(), Serve(max_model_len=64), "third")
with server.served(what, Path(sys.argv[2])) as running:
    body = {"model": "third", "prompt": "The", "max_tokens": 4, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{running.url}/completions", json.dumps(body).encode(), headers
    )
    print(json.load(urllib.request.urlopen(request))["usage"]["completion_tokens"])
"""


def test_it_is_served_by_quantgates_own_server(project: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SERVED, "artifacts/models/third/third-bf16", str(tmp_path)]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4\n"

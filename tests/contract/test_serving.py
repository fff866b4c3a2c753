"""quantgate's own server over OpenVINO GenAI, asked by the official client."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from pipeline.engines import server
from pipeline.engines.server import Served, Server
from pipeline.runtime import environments
from tests.conftest import ROOT
from tests.contract.conftest import run_probe
from tests.contract.probe import SERVE
from tests.serving import until
from tests.test_schemas import KEPT

pytestmark = pytest.mark.engine

KEY = "a-key-of-the-tests"
PROMPT = "The favourite colour of"


@pytest.fixture(scope="module")
def artifact(tiny_untouched: Path) -> Path:
    return tiny_untouched / "artifacts/models/tiny/ov-bf16"


@pytest.fixture(scope="module")
def serving(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a key, as beyond this machine."""
    what = Served("openvino", artifact, SERVE, "tiny", "d1635")
    with server.served(what, tmp_path_factory.mktemp("serving"), key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def told(serving: Server) -> dict[str, Any]:
    python = str(environments.python("vllm"))
    words = [python, "-m", "tests.contract.openai_probe", serving.url, serving.model, KEY, PROMPT]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_official_client_gets_the_engines_own_text(
    told: dict[str, Any], artifact: Path, tmp_path: Path
) -> None:
    own = run_probe("openvino", "continue", str(artifact), PROMPT, out=tmp_path / "own.json")
    assert told["models"] == ["tiny"]
    assert told["text"] == told["streamed"] == own["text"] != ""
    assert told["usage"] == told["streamed_usage"]
    assert told["usage"] == {"prompt_tokens": own["prompt_tokens"], "completion_tokens": 12}
    assert told["finish"] == "length"
    assert told["logprobs"] == pytest.approx(own["logprobs"], abs=0.05)


def test_the_official_client_chats(told: dict[str, Any]) -> None:
    assert told["chat"] == told["chat_streamed"] != ""
    assert told["second_turn"] > 2 * told["first_turn"]
    assert told["chat_logprobs"] == told["chat_tokens"]
    assert told["stopped"] == told["text"][: told["text"].index(told["stop"])]


def test_a_seed_gives_the_same_sample(told: dict[str, Any]) -> None:
    first, again, other = told["sampled"]
    assert first == again != other


def test_a_schema_is_kept(told: dict[str, Any]) -> None:
    assert json.loads(told["formatted"]) in ("yes", "no")


def test_errors_are_the_clients_own_classes(told: dict[str, Any]) -> None:
    assert told["errors"] == {
        "schema": ["BadRequestError", 400, "unsupported_value"],
        "long": ["BadRequestError", 400, "context_length_exceeded"],
        "model": ["NotFoundError", 404, "model_not_found"],
        "key": ["AuthenticationError", 401, "invalid_api_key"],
        "temperature": ["BadRequestError", 400, None],
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"$ref": "http://x/y"},
        {"type": "foo"},
        {"type": "object", "properties": 7},
        {"enum": []},
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"type": "array", "items": {}, "minItems": 5, "maxItems": 2},
        {"type": "string", "pattern": "("},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
    ],
    ids=json.dumps,
)
def test_a_schema_that_cannot_be_kept_ends_its_request_alone(
    schema: dict[str, Any], serving: Server
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(ask, serving, max_tokens=100) for _ in range(4)]
        until(lambda: metrics(serving)["requests_running"] == 4)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(serving, response_format=form)
        error = json.load(refused.value)["error"]
        assert (refused.value.code, error["param"]) == (400, "response_format")
        assert "found" in error["message"] and "supported" in error["message"]
        for other in others:
            assert other.result()["usage"]["completion_tokens"] == 100


@pytest.mark.parametrize("name", KEPT)
def test_a_schema_that_is_taken_is_kept(name: str, serving: Server) -> None:
    """What is whole within the tokens; the model writes anything, at such a temperature."""
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": KEPT[name]}}
    asked = {"response_format": form, "temperature": 2, "max_tokens": 120, "ignore_eos": False}
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, serving, **asked, seed=seed) for seed in range(8)]
    for choice in (answer.result()["choices"][0] for answer in answers):
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(choice["text"], strict=False), KEPT[name])


def test_what_an_engine_lost_unseen_begins_again(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "told.json"
    python = str(environments.python("openvino"))
    command = [python, "-m", "tests.contract.lost_probe", str(artifact), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    begun, unseen, faulty = json.loads(out.read_text())
    assert unseen == ["length", None]
    assert begun[1].startswith("OpenVINO GenAI failed in a step, at json_schema_converter.cc:")
    assert faulty[1].endswith("the JSON schema of this request may be why")
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("quantgate:")]
    assert said.endswith("1 requests begin again, 2 end") and "nowhere" not in said


def ask(serving: Server, **more: Any) -> dict[str, Any]:
    body = {"model": serving.model, "prompt": PROMPT, "temperature": 0, "max_tokens": 32} | more
    request = urllib.request.Request(
        f"{serving.url}/completions",
        json.dumps({"ignore_eos": True} | body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_of_many_at_once_none_is_lost(serving: Server) -> None:
    """Twice as many as run at once."""
    count = 2 * SERVE.max_num_seqs
    with ThreadPoolExecutor(count) as pool:
        together = list(pool.map(lambda _: ask(serving), range(count)))
    texts = {one["choices"][0]["text"] for one in [ask(serving), *together]}
    assert len(texts) <= 2  # batches round otherwise than a request alone
    assert all(one["usage"]["completion_tokens"] == 32 for one in together)


def process_of(running: Server, module: str) -> psutil.Process:
    """Of the server, or of its engine: both are told the port."""
    port = re.search(r":(\d+)/", running.url)
    assert port is not None
    (found,) = [
        child
        for child in psutil.Process().children(recursive=True)
        if module in (words := " ".join(child.cmdline()))
        and re.search(rf'"port": ?{port[1]}\b', words)
    ]
    return found


def test_a_killed_engine_ends_the_server_with_an_error(artifact: Path, tmp_path: Path) -> None:
    what = Served("openvino", artifact, SERVE, "tiny")
    with server.served(what, tmp_path) as running:
        process = process_of(running, "pipeline.serving.worker")
        parent = process.parent()
        os.kill(process.pid, signal.SIGKILL)
        assert parent is not None and parent.wait(30) == 2
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{running.url}/models", timeout=5)


def metrics(running: Server) -> dict[str, float]:
    """The gauges, without their prefix."""
    text = urllib.request.urlopen(running.url.removesuffix("/v1") + "/metrics").read().decode()
    found = re.findall(r"^quantgate_(\w+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_whoever_is_cancelled_stops_the_engine(artifact: Path, tmp_path: Path) -> None:
    """That a client which hangs up is cancelled, tests/test_serving.py tells."""
    out = tmp_path / "told.json"
    python = str(environments.python("openvino"))
    command = [python, "-m", "tests.contract.cancel_probe", str(artifact), str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    told = json.loads(out.read_text())
    assert told["spoken"] == [0]
    assert 0 < told["after"] == pytest.approx(told["before"] / SERVE.max_num_seqs, rel=0.2)
    assert told["at_last"] == 0


def test_ctrl_c_lets_what_runs_end(artifact: Path, tmp_path: Path) -> None:
    """The whole group gets it, the engine's process too."""
    what = Served("openvino", artifact, SERVE, "tiny")
    with server.served(what, tmp_path) as running, ThreadPoolExecutor(1) as pool:
        process = process_of(running, "-m pipeline.serving")
        answer = pool.submit(ask, running, max_tokens=200)
        until(lambda: metrics(running)["requests_running"] == 1)
        # a few of 36,792 blocks
        until(lambda: 1e-5 < metrics(running)["kv_cache_usage_ratio"] < 1e-3)
        os.killpg(process.pid, signal.SIGINT)
        assert answer.result(60)["usage"]["completion_tokens"] == 200
        assert process.wait(60) in (0, None)
    assert (tmp_path / "server.log").read_text().strip() == "tiny: ready"

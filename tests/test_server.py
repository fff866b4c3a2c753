"""What servers are started with, and what `--http` and `--url` refuse, without an engine."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from pipeline import paths, records
from pipeline.benchmark import http
from pipeline.capabilities import ENGINES
from pipeline.engines import own_server, server, vllm, vllm_server
from pipeline.engines.listed import Models
from pipeline.engines.server import Served
from pipeline.errors import EvaluationError, Rejected, SetupError
from pipeline.recipe import Serve
from pipeline.release import deploy
from pipeline.runtime import environments
from pipeline.serving.wire import Job
from pipeline.stages import benchmark_http
from tests.http_server import Behaviour, running

SERVE = Serve(
    max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64, kv_cache_gib=2, threads=1
)
VLLM = Served("vllm", Path("model"), SERVE, "name")
OPENVINO = Served("openvino", Path("model"), SERVE, "name", "d1635")


def test_the_command_has_every_setting_of_the_engine_in_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environments, "python", lambda name: Path("/e/bin/python"))
    words = vllm_server.command(VLLM, "127.0.0.1", 8000, Path())
    assert words[words.index("/e/bin/python") :][:4] == [
        "/e/bin/python",
        "/e/bin/vllm",
        "serve",
        "model",
    ]
    pairs = dict(itertools.pairwise(words))
    assert (pairs["--host"], pairs["--served-model-name"]) == ("127.0.0.1", "name")
    assert pairs["--max-num-batched-tokens"] == "256"
    assert {"--no-enable-prefix-caching", "--no-enforce-eager"} <= set(words)
    assert all(
        f"--{key.replace('_', '-')}" in words or f"--no-{key.replace('_', '-')}" in words
        for key in vllm.arguments(SERVE)
    )


def test_a_server_of_our_own_gets_the_engines_variables_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for secret in server.SECRETS:
        monkeypatch.setenv(secret, "a-secret")
    given = server.surroundings(VLLM)
    assert "a-secret" not in given.values()
    assert (given["VLLM_CPU_KVCACHE_SPACE"], given["VLLM_CPU_INT4_W4A8"]) == ("2", "1")
    assert len(given["VLLM_CPU_OMP_THREADS_BIND"].split(",")) == 1


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("https://host/v3/", "https://host/v3"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_reaches_up_to_the_version(url: str, base: str) -> None:
    assert benchmark_http._base(url) == base


@pytest.mark.parametrize(
    "url",
    [
        "host:8000",
        "ftp://host",
        "http://user:key@host",
        "http://key@host/v1",
        "http://host/v1?key=key",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(
    url: str,
) -> None:
    with pytest.raises(EvaluationError, match="--url") as refused:
        benchmark_http._base(url)
    assert "key" not in str(refused.value)


def test_the_one_model_of_a_server_needs_no_name() -> None:
    with running(Behaviour(models=("one",))) as server:
        assert benchmark_http._only_model(server.url) == "one"
    with (
        running(Behaviour(models=("one", "two"))) as server,
        pytest.raises(EvaluationError, match=r"one, two.*--model"),
    ):
        benchmark_http._only_model(server.url)


def test_a_server_shows_the_artifact_by_its_digest_or_a_name_that_ends_in_it() -> None:
    digest = "a" * 64
    for shown in (
        {"id": "tiny", "digest": f"sha256:{digest}"},
        {"id": f"tiny@sha256:{digest}", "object": "model"},
    ):
        listed = Models.model_validate({"data": [{"id": "other"}, shown]})
        assert listed.pinned(digest) == f"tiny@sha256:{digest}"
        assert listed.pinned("b" * 64) is None


def test_what_did_not_pass_or_cannot_be_served_here_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write_text(paths.gate("tiny", "gptq-int4"), "FAIL\n")
    with pytest.raises(Rejected, match="the gate says FAIL"):
        benchmark_http.run("tiny", "gptq-int4", None, None)
    row = dataclasses.replace(ENGINES["openvino"], servers={})
    monkeypatch.setitem(ENGINES, "openvino", row)
    with pytest.raises(EvaluationError, match=r"starts no server of OpenVINO.*--url"):
        benchmark_http.run("tiny", "ov-bf16", None, None)
    with pytest.raises(EvaluationError, match=r"expected one of .*: none"):
        server.of(OPENVINO)
    with pytest.raises(EvaluationError, match=r"of vLLM: found ovms, expected one of .*: vllm"):
        server.of(dataclasses.replace(VLLM, server="ovms"))


def test_of_a_traceback_the_last_line_is_kept() -> None:
    assert http._last_line("Traceback:\n  file\nValueError: bad\n") == "ValueError: bad"
    assert http._last_line("") is None


@pytest.mark.parametrize(
    ("host", "open_door"),
    [("0.0.0.0", True), ("::", True), ("a.host", True), ("127.0.0.2", False), ("::1", False)],
)
def test_a_server_that_others_reach_needs_a_key(host: str, open_door: bool, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ours\n")
    assert deploy._key(host, file) == "ours"
    if open_door:
        with pytest.raises(
            SetupError, match=f"--host {host}: whoever reaches.*--api-key-file FILE"
        ):
            deploy._key(host, None)
    else:
        assert deploy._key(host, None) is None


def test_a_key_by_the_environment_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read from there once: an open server would be the answer."""
    monkeypatch.setenv(deploy.KEY, "ours")
    with pytest.raises(SetupError, match="--api-key-file FILE") as refused:
        deploy._key("127.0.0.1", None)
    assert "ours" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "\n", "two words", "é", "a\0b", "x" * 5000])
def test_what_is_no_key_is_refused_without_repeating_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(SetupError, match=str(file)) as refused:
        deploy._key("127.0.0.1", file)
    assert not text.strip() or text not in str(refused.value)


@pytest.mark.parametrize(
    ("what", "variable"), [(VLLM, "VLLM_API_KEY"), (OPENVINO, "QUANTGATE_API_KEY")]
)
def test_the_key_goes_by_the_environment_alone(
    what: Served, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "python", lambda name: Path("/e/bin/python"))
    monkeypatch.setenv("VLLM_API_KEY", "somebody's")
    assert "somebody's" not in server.surroundings(what).values()
    given = server.surroundings(what, "ours")
    assert [name for name, value in given.items() if value == "ours"] == [variable]
    # a command line others could read
    assert "ours" not in " ".join(server.of(what).command(what, "127.0.0.1", 1, Path()))


def test_our_own_server_is_told_all_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments, "is_complete", lambda name: False)
        with pytest.raises(SetupError, match="quantgate setup openvino"):
            own_server.command(OPENVINO, "127.0.0.1", 8000, Path())
    monkeypatch.setattr(environments, "python", lambda name: Path("/e/bin/python"))
    words = own_server.command(OPENVINO, "127.0.0.1", 8000, Path())
    job = Job.model_validate_json(words[-1])
    assert words[-3:-1] == ["-m", "pipeline.serving"]
    assert (job.serve, job.name, job.digest, job.port) == (SERVE, "name", "d1635", 8000)
    assert own_server.worker_command("openvino", SERVE, "{}")[-1] == "{}"


def test_model_server_gets_the_engines_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = dataclasses.replace(
        OPENVINO,
        artifact=tmp_path / 'a "model"',
        serve=SERVE.model_copy(update={"kv_cache": "u8"}),
        server="ovms",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="ovms: not found on the PATH"):
        server.of(what).command(what, "127.0.0.1", 8000, tmp_path)
    (tmp_path / "ovms").touch(mode=0o755)
    words = server.of(what).command(what, "127.0.0.1", 8000, tmp_path)
    pairs = dict(itertools.pairwise(words))
    assert (pairs["--rest_bind_address"], pairs["--rest_port"]) == ("127.0.0.1", "8000")
    (served,) = json.loads(Path(pairs["--config_path"]).read_text())["mediapipe_config_list"]
    assert (served["name"], served["base_path"]) == ("name", str(tmp_path))
    graph = Path(served["graph_path"]).read_text()
    options = dict(
        line.strip().split(": ", 1)
        for line in graph.splitlines()
        if line.startswith("      ") and ": " in line
    )
    assert json.loads(options["models_path"]) == str(tmp_path / 'a "model"')
    assert json.loads(json.loads(options["plugin_config"])) == {
        "INFERENCE_NUM_THREADS": 1,
        "KV_CACHE_PRECISION": "u8",
    }
    assert {key: json.loads(options[key]) for key in ("cache_size", "max_num_seqs")} == {
        "cache_size": 2,
        "max_num_seqs": 8,
    }
    assert json.loads(options["max_num_batched_tokens"]) == 64
    assert (options["enable_prefix_caching"], options["device"]) == ("false", '"CPU"')
    assert graph.count("{") == graph.count("}")
    assert server.surroundings(what, "ours")["API_KEY"] == "ours"

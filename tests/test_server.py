"""What `vllm serve` is started with, and what `--http` and `--url` refuse, without an engine."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pipeline import paths, records
from pipeline.benchmark import http
from pipeline.engines import vllm, vllm_server
from pipeline.errors import EvaluationError, Rejected, SetupError
from pipeline.recipe import Serve
from pipeline.release import deploy
from pipeline.release.bundle import serve_settings
from pipeline.runtime import environments
from pipeline.stages import benchmark_http
from tests.http_server import Behaviour, running

SERVE = Serve(
    max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64, kv_cache_gib=2, threads=1
)


def test_the_command_has_every_setting_of_the_engine_in_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environments, "python", lambda name: Path("/e/bin/python"))
    words = vllm_server.command(Path("model"), SERVE, "name", 8000)
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
    for secret in vllm_server.SECRETS:
        monkeypatch.setenv(secret, "a-secret")
    given = vllm_server.surroundings(SERVE)
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


def test_what_did_not_pass_or_cannot_be_served_here_is_refused(project: Path) -> None:
    records.write_text(paths.gate("tiny", "gptq-int4"), "FAIL\n")
    with pytest.raises(Rejected, match="the gate says FAIL"):
        benchmark_http.run("tiny", "gptq-int4", None, None)
    with pytest.raises(EvaluationError, match=r"OpenVINO Model Server.*--url"):
        benchmark_http.run("tiny", "ov-bf16", None, None)


def test_of_a_traceback_the_last_line_is_kept() -> None:
    assert http._last_line("Traceback:\n  file\nValueError: bad\n") == "ValueError: bad"
    assert http._last_line("") is None


@pytest.mark.parametrize(
    ("host", "open_door"),
    [("0.0.0.0", True), ("::", True), ("a.host", True), ("127.0.0.2", False), ("::1", False)],
)
def test_a_server_that_others_reach_needs_a_key(
    host: str, open_door: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "somebody's")
    monkeypatch.delenv(deploy.KEY, raising=False)
    settings = serve_settings.Settings(engine="vllm", device="cpu", serve=SERVE, measured={})
    monkeypatch.setattr(environments, "python", lambda name: Path("/e/bin/python"))
    monkeypatch.setattr(deploy, "_require_free", lambda host, port: None)
    if open_door:
        with pytest.raises(
            SetupError,
            match=(
                f"--host {host}: whoever reaches this machine could use the model. Set {deploy.KEY}"
            ),
        ):
            deploy._command(Path("b"), settings, "name", host, None)
    else:
        assert "VLLM_API_KEY" not in deploy._command(Path("b"), settings, "name", host, None)[1]
    monkeypatch.setenv(deploy.KEY, "ours")
    words, surroundings = deploy._command(Path("b"), settings, "name", host, None)
    assert (surroundings["VLLM_API_KEY"], deploy.KEY in surroundings) == ("ours", False)
    assert "ours" not in words  # which others could read

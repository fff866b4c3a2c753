"""The files that run a deployment elsewhere: of which bundles they are written, and what all of
them have in common."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import QuantgateError, RecipeError, Rejected, SetupError, Tampered
from pipeline.gateway import deploy_file
from pipeline.gateway.files import (
    commands,
    compose,
    kubernetes,
    names,
    plan,
    size,
    systemd,
    text,
    write,
)
from pipeline.recipe import Serve
from pipeline.records import Benchmark
from pipeline.release.signoff import commands as signoff
from tests import timed
from tests.deployments import (
    CLOUD,
    EDGE,
    LOCAL,
    LONE,
    SECRET,
    loaded,
    manifests,
    planned,
)
from tests.release import BOB, PASS, key
from tests.serving import until

CONTAINERS = {"compose": compose, "kubernetes": kubernetes}
ALL = {**CONTAINERS, "systemd": systemd}


def wanted(bundle: Path, more: str = "") -> Path:
    """A deploy.yaml over a published bundle, in the project."""
    file = Path("deploy.yaml")
    keys = "keys: {shop: {file: shop.key}}\n"
    file.write_text(
        f"models: {{chat: {{tiers: {{edge: {{bundle: {bundle.resolve()}}}}}}}}}\n{keys}{more}"
    )
    return file


def test_files_of_a_bundle_that_is_approved(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write.write(wanted(bundle), "compose", Path("../out"), None)
    said = capsys.readouterr().out
    assert "docker compose up" in said
    assert "approved until 2" in said
    service = loaded(Path("../out/compose.yaml").read_text())[0]["services"]["chat-edge"]
    # 10**9 bytes at their peak, all of the cache (1 GiB) and what is beside the engine
    assert service["deploy"]["resources"]["limits"] == {"cpus": "2", "memory": "2688m"}
    assert f"{bundle.resolve()}:/var/lib/quantgate/models/tiny/ov-int8/1:ro" in service["volumes"]
    readme = Path("../out/README.md").read_text()
    assert all(line.strip() in readme for line in said.splitlines() if line.startswith("    "))


def test_none_of_one_that_is_not(bundle: Path) -> None:
    file = wanted(bundle)
    signoff.reject(*PASS, key(BOB), "no")
    with pytest.raises(Rejected, match=r"rejected by bob@example\.org"):
        write.write(file, "compose", Path("../out"), None)
    (bundle / "w").write_bytes(b"z")
    with pytest.raises(Tampered):
        write.write(file, "systemd", Path("../out"), None)
    assert not Path("../out").exists()


def test_a_version_is_named_in_the_files(bundle: Path) -> None:
    """What runs there is what was checked, not what is published later."""
    registry = bundle.resolve().parents[2]
    file = wanted(bundle)
    file.write_text(
        file.read_text().replace(str(bundle.resolve()), f"file://{registry}/tiny/ov-int8")
    )
    found = plan.read(file, "i").servers[0].bundle
    assert found.source == f"{registry}/tiny/ov-int8/{found.entry.version}"
    assert Path(found.source).is_dir()


def test_of_a_server_that_runs_elsewhere_its_model_is_not_needed(bundle: Path) -> None:
    registry = bundle.resolve().parents[2]
    file, url = Path("deploy.yaml"), f"file://{registry}/tiny/ov-int8/1"
    there = f"{{bundle: '{url}', url: 'http://other.internal:8000/v1'}}"
    file.write_text(f"models: {{chat: {{tiers: {{other: {there}}}}}}}\n")
    (bundle / "w").unlink()
    assert plan.read(file, "i").servers[0].bundle.entry.variant == "ov-int8"
    ours = f"models: {{chat: {{tiers: {{other: {there}, edge: {{bundle: '{url}'}}}}}}}}\n"
    file.write_text(ours)
    with pytest.raises(QuantgateError, match="w"):
        plan.read(file, "i")


def test_nothing_is_overwritten_or_half_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = wanted(bundle)
    out = Path("../out")
    out.mkdir()
    (out / "mine").write_text("")
    with pytest.raises(SetupError, match="something already"):
        write.write(file, "compose", out, None)
    (out / "mine").unlink()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(Path, "write_text", full)
        write.write(file, "compose", out, None)
    assert not any(out.iterdir())
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".out")] == []
    write.write(file, "compose", out, None)
    assert (out / "compose.yaml").is_file()
    with pytest.raises(SetupError, match="expected one of compose, kubernetes, systemd, litellm"):
        write.write(file, "swarm", Path("../other"), None)
    with pytest.raises(SetupError, match="no folder can be made there"):
        write.write(file, "compose", file / "out", None)


@pytest.mark.parametrize("target", ALL)
def test_no_file_holds_a_secret(target: str, tmp_path: Path) -> None:
    shop = planned(tmp_path)
    files, steps = ALL[target].files(shop), ALL[target].steps(shop)
    assert SECRET not in "".join(files.values()) + "".join(steps)
    for secret in ("client-key.shop", "server-key.chat-bot-edge", "redis-password"):
        assert any(secret in step for step in steps), secret


@pytest.mark.parametrize("target", ALL)
def test_the_gateways_file_is_one(target: str, tmp_path: Path) -> None:
    """It says what the given one says, and names each server that runs by its address."""
    files = ALL[target].files(planned(tmp_path))
    said = {
        "compose": files.get("config/deploy.yaml"),
        "systemd": files.get("etc/quantgate/deploy.yaml"),
        "kubernetes": target == "kubernetes"
        and manifests(files)["ConfigMap", "quantgate-config"]["data"]["deploy.yaml"],
    }[target]
    assert isinstance(said, str)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "deploy.yaml").write_text(said)
    there = deploy_file.load(tmp_path / "there" / "deploy.yaml")
    tiers = there.models["Chat.Bot"].tiers
    assert {name: tier.url for name, tier in tiers.items()} == {
        "other": "http://other.internal:8000/v1",
        **{
            "compose": {
                "edge": "http://chat-bot-edge:8000/v1",
                "cloud": "http://chat-bot-cloud:8000/v1",
            },
            "kubernetes": {
                "edge": "http://quantgate-chat-bot-edge:8000/v1",
                "cloud": "http://quantgate-chat-bot-cloud:8000/v1",
            },
            "systemd": {
                "edge": "http://127.0.0.1:8001/v1",
                "cloud": "http://127.0.0.1:8002/v1",
            },
        }[target],
    }
    keys = {
        "compose": "/run/secrets",
        "kubernetes": "/run/secrets/quantgate",
        "systemd": "/run/credentials/quantgate-gateway.service",
    }[target]
    assert there.keys["shop"].file == f"{keys}/client-key.shop"
    assert {name: tier.key_file for name, tier in tiers.items()} == {
        name: f"{keys}/server-key.chat-bot-{name}" for name in tiers
    }
    # the model itself is only where its server is; of the others the gateway needs what speaks
    # for it
    at = "/var/lib/quantgate/models/tiny" if target != "kubernetes" else "s3://models/tiny"
    assert tiers["edge"].bundle == f"{at}/ov-int8/1"
    assert tiers["other"].bundle == "s3://models/tiny/ov-int8/1"
    assert (there.drain_s, there.models["Chat.Bot"].latency_target_ms) == (30, 2000)
    assert (tiers["edge"].price_per_hour, tiers["cloud"].timeout_s) == (0.2, 20)
    assert there.keys["shop"].budget == deploy_file.Budget(soft=5, hard=10)
    assert there.cache
    host = {"compose": "redis:6379", "kubernetes": "quantgate-redis:6379"}.get(
        target, "127.0.0.1:6379"
    )
    assert (there.cache.url, there.cache.most_mib) == (f"redis://{host}/2", 100)


def test_what_only_holds_on_one_machine_is_refused(tmp_path: Path) -> None:
    """All of it at once, with what to do."""
    text = LONE.replace("}}}}", "}, two: {bundle: '../local', url: 'http://127.0.0.1:1/v1'}}}}") + (
        "cache: {url: 'unix:///run/redis.sock'}\ntraces: http://localhost:4318/v1/traces\n"
    )
    lone = planned(tmp_path, text)
    with pytest.raises(RecipeError) as refused:
        compose.files(lone)
    said = str(refused.value)
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "models.tiny.tiers.two.url",
        "traces",
        "keys",
        "cache.url",
    ]
    with pytest.raises(RecipeError, match=r"tiers\.edge\.bundle: /home/me/a \$model is on this"):
        kubernetes.files(planned(tmp_path, LONE + "keys: {shop: {file: shop.key}}\n"))
    assert systemd.files(planned(tmp_path, LONE))


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ("cache: {url: 'redis://:hunter2@host:6379/0'}\n", "cache.url: holds a password"),
        ("listen: {port: 0}\n", "listen.port: 0 is any port"),
    ],
)
def test_a_file_that_cannot_run_elsewhere(bundle: Path, more: str, wrong: str) -> None:
    with pytest.raises(RecipeError) as refused:
        plan.read(wanted(bundle, more), "i")
    assert wrong in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_names_that_every_target_takes() -> None:
    found = names.labels([("a", "b-c"), ("a-b", "c"), ("Chat", "edge"), ("x" * 60, "y")])
    assert found["Chat", "edge"] == "chat-edge"
    assert len(set(found.values())) == 4
    assert all(len(label) <= names.LONGEST for label in found.values())
    assert names.variable("quantgate key chat-edge") == "QUANTGATE_KEY_CHAT_EDGE"


def test_memory_and_cores_are_those_that_were_measured() -> None:
    peak, serve = 10**9, Serve(max_model_len=64, kv_cache_gib=2, threads=3)
    record: Benchmark = timed.benchmark("ov-int8", [])
    on_vllm = record.model_copy(update={"engine": "vllm"})
    openvino, vllm = size.memory_bytes(record, serve), size.memory_bytes(on_vllm, serve)
    assert openvino and vllm
    assert openvino - vllm == pytest.approx(
        2 * size.GIB, abs=size.STEP
    )  # has its cache from the start
    assert 1.15 * peak + size.BESIDE <= vllm <= 1.15 * peak + size.BESIDE + size.STEP
    assert size.memory_bytes(record.model_copy(update={"profiles": {}}), serve) is None
    assert size.cores(record, serve) == 2  # threads, but of those that were there
    assert size.cores(record.model_copy(update={"machine": {}}), Serve(max_model_len=64)) is None


def test_yaml_of_1_1_reads_no_text_as_anything_else() -> None:
    odd = ["no", "On", "1e3", "0.0.0.0", "10001:10001", "0o17", "~", "12", "1_000", ".5", "-1"]
    lines = text.yaml(odd).splitlines()
    assert lines == [f'  - "{one}"' for one in odd]
    assert text.yaml(["10s", "a b", "2g"]).splitlines() == ["  - 10s", "  - a b", "  - 2g"]


def test_a_bundle_is_fetched_once(tmp_path: Path) -> None:
    shop = planned(tmp_path)
    script = commands.fetch(shop.fetched[0], "echo")
    target = "/var/lib/quantgate/models/tiny/ov-int8/1"
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said == f"fetch {EDGE}/1 --to {target} --policy /etc/quantgate/policy.yaml\n"
    (tmp_path / "there").mkdir()
    again = script.replace(target, str(tmp_path / "there"))
    assert not subprocess.run(["sh", "-c", again], capture_output=True, check=True).stdout
    assert shop.fetched[1].source == CLOUD  # which names its version


@pytest.mark.parametrize("secret", [None, "pass word"])
def test_redis_starts_as_the_script_says(secret: str | None, tmp_path: Path) -> None:
    """The password is asked for, and stands in no list of processes."""
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server here")
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    file = tmp_path / "password"
    file.write_text(f"{secret}\n")
    script = commands.redis(planned(tmp_path), str(file) if secret else None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = script.replace("redis-server", f"redis-server --port {port} --bind 127.0.0.1", 1)
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL, cwd=tmp_path) as server:
        try:
            client = redis.Redis(port=port, password=secret, retry=Retry(NoBackoff(), 0))
            until(lambda: listens(port))
            client.ping()
            assert client.config_get("maxmemory*")["maxmemory"] == str(100 * size.MIB)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
            line = Path(f"/proc/{server.pid}/cmdline").read_text()
            assert line.startswith("redis-server")  # in sh's place: it gets the signals
            if secret:
                assert secret not in line
                with pytest.raises(redis.AuthenticationError):
                    redis.Redis(port=port, retry=Retry(NoBackoff(), 0)).ping()
        finally:
            server.terminate()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_errors_are_ours(tmp_path: Path) -> None:
    file = tmp_path / "deploy.yaml"
    file.write_text(f"models: {{a: {{tiers: {{b: {{bundle: '{LOCAL}'}}}}}}}}\n")
    with pytest.raises(QuantgateError):
        write.write(file, "compose", tmp_path / "out", None)
    assert not (tmp_path / "out").exists()

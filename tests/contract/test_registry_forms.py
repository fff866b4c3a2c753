"""What each kind of registry does in its own way: the form in which others find a bundle there,
logins, strangers' things."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from pipeline import paths
from pipeline.errors import DiskFull, RegistryError
from pipeline.records.artifact import hash_files
from pipeline.release.registries import Entry, open_registry
from tests import registry_servers, token_server
from tests.bundles import WEIGHTS, fetched, make_bundle, publish
from tests.registry_servers import Served, use

PASSWORD = "hidden-word"
BCRYPT = "$2b$04$azdNXIA7kGZ01ERRLs.N1ODKRXlzRf68wAB1k623p/Q/rP8DqoEc6"  # of PASSWORD
Start = Callable[[str], Served]


def test_a_folder_without_a_signature_is_not_published(tmp_path: Path, bundle: Path) -> None:
    registry, entry = open_registry(str(tmp_path / "registry")), Entry("tiny", "int4", "1")
    publish(registry, entry, bundle)
    half = tmp_path / "registry" / "tiny" / "int4" / "2"
    half.mkdir()
    (half / WEIGHTS).write_bytes(b"half")
    (tmp_path / "registry" / "a file").write_text("of somebody else")
    assert registry.list() == [entry]
    with pytest.raises(RegistryError, match="Directory not empty"):
        publish(registry, Entry("tiny", "int4", "2"), bundle)
    assert (half / WEIGHTS).read_bytes() == b"half"


@pytest.mark.parametrize("url", ["file://{}/registry", "memory://{}/registry"])
def test_any_url_of_fsspec(tmp_path: Path, bundle: Path, url: str) -> None:
    registry, entry = open_registry(url.format(tmp_path)), Entry("tiny", "int4", "1")
    publish(registry, entry, bundle)
    assert registry.list() == [entry]
    assert fetched(registry, entry, bundle, tmp_path / "back") == hash_files(bundle)


def test_a_full_disk_is_no_fault_of_the_url(tmp_path: Path, bundle: Path, entry: Entry) -> None:
    """What is sent to the file lands on a device that has no room."""
    incoming = tmp_path / "registry" / entry.recipe / entry.variant / f".incoming-{entry.version}"
    incoming.mkdir(parents=True)
    (incoming / WEIGHTS).symlink_to("/dev/full")
    with pytest.raises(
        DiskFull, match=r"registry: publishing .*: the disk is full\. Free some space"
    ) as refused:
        publish(open_registry(str(tmp_path / "registry")), entry, bundle)
    assert "credentials" not in str(refused.value)


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(RegistryError, match=r"gopher://host: opening it.*Check the URL"):
        open_registry("gopher://host")


def test_s3_without_its_bucket(
    servers: Start, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    use(servers("s3"), monkeypatch)
    registry = open_registry("s3://no-such-bucket/models")
    assert registry.list() == []
    with pytest.raises(RegistryError, match="bucket does not exist"):
        publish(registry, Entry("tiny", "int4", "1"), bundle)


def test_an_oci_artifact_is_a_modelpack(servers: Start, entry: Entry, bundle: Path) -> None:
    """https://github.com/modelpack/model-spec: docs/spec.md, docs/config.md."""
    server = servers("oci")
    publish(open_registry(server.url), entry, bundle)
    team = server.url.removeprefix("oci+").replace("/team", "/v2/team")
    base = f"{team}/{entry.recipe}/{entry.variant}"
    manifest = requests.get(
        f"{base}/manifests/{entry.version}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        timeout=9,
    ).json()
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {
        layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"]
        for layer in manifest["layers"]
    }
    assert set(kinds) == {file.path for file in hash_files(bundle)}
    assert kinds[WEIGHTS] == "application/vnd.cncf.model.weight.v1.raw"
    assert kinds["config.json"] == "application/vnd.cncf.model.weight.config.v1.raw"
    assert kinds["README.md"] == kinds[paths.SIGNATURE] == "application/vnd.cncf.model.doc.v1.raw"
    config = requests.get(f"{base}/blobs/{manifest['config']['digest']}", timeout=9).json()
    assert set(config) == {"descriptor", "config", "modelfs"}
    assert config["descriptor"]["version"] == entry.version
    assert config["modelfs"] == {
        "type": "layers",
        "diffIds": [layer["digest"] for layer in manifest["layers"]],
    }


def test_an_oci_tag_of_somebody_else(servers: Start, entry: Entry, bundle: Path) -> None:
    server = servers("oci")
    registry = open_registry(server.url)
    publish(registry, entry, bundle)
    team = server.url.removeprefix("oci+").replace("/team", "/v2/team")
    base = f"{team}/{entry.recipe}/{entry.variant}"
    kind = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    image = requests.get(f"{base}/manifests/{entry.version}", headers=kind, timeout=9).json()
    del image["artifactType"]
    put = requests.put(
        f"{base}/manifests/image",
        data=json.dumps(image),
        headers={"Content-Type": kind["Accept"]},
        timeout=9,
    )
    assert put.status_code == 201
    assert [each for each in registry.list() if each.recipe == entry.recipe] == [entry]
    with pytest.raises(RegistryError, match="is not published there"):
        registry.resolve(Entry(entry.recipe, entry.variant, "image"))


@pytest.mark.parametrize("recipe", ["a..b", "a-", "a._b"])
def test_a_name_that_no_repository_can_have(servers: Start, bundle: Path, recipe: str) -> None:
    with pytest.raises(RegistryError, match="cannot be part of a repository's name"):
        publish(open_registry(servers("oci").url), Entry(recipe, "int4", "1"), bundle)


def test_an_oci_registry_with_a_password(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `docker login` leaves it, or in the URL; never in what is said."""
    if reason := registry_servers.missing("oci"):
        pytest.skip(reason)
    (tmp_path / "users").write_text(f"tester:{BCRYPT}\n")
    (tmp_path / "docker").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = f"auth: {{htpasswd: {{realm: test, path: {tmp_path / 'users'}}}}}\n"
    (tmp_path / "server").mkdir()
    with registry_servers.oci(tmp_path / "server", settings) as server:
        entry, host = Entry("tiny", "int4", "1"), server.url.split("/")[2]
        with pytest.raises(RegistryError, match=f"Run: docker login {host}"):
            publish(open_registry(server.url), entry, bundle)
        wrong = open_registry(server.url.replace("://", "://tester:wrong-word@"))
        with pytest.raises(RegistryError, match="401") as caught:
            publish(wrong, entry, bundle)
        assert "wrong-word" not in str(caught.value)
        login = base64.b64encode(f"tester:{PASSWORD}".encode()).decode()
        (tmp_path / "docker" / "config.json").write_text(
            json.dumps({"auths": {host: {"auth": login}}})
        )
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        publish(open_registry(server.url), entry, bundle)
        monkeypatch.delenv("DOCKER_CONFIG")
        in_url = open_registry(server.url.replace("://", f"://tester:{PASSWORD}@"))
        assert in_url.list() == [entry]
        with pytest.raises(RegistryError, match="published already") as caught:
            publish(in_url, entry, bundle)
        assert PASSWORD not in str(caught.value)
    said = capfd.readouterr()
    assert PASSWORD not in said.out + said.err


def test_an_oci_registry_with_tokens(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token for reading is asked for first and does not let anybody write."""
    if reason := registry_servers.missing("oci"):
        pytest.skip(reason)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "server").mkdir()
    with (
        token_server.running(tmp_path, f"tester:{PASSWORD}") as tokens,
        registry_servers.oci(tmp_path / "server", tokens.settings) as server,
    ):
        entry = Entry("tiny", "int4", "1")
        with pytest.raises(RegistryError, match=r"wants a login and took none.*Run: docker login"):
            publish(open_registry(server.url), entry, bundle)
        registry = open_registry(server.url.replace("://", f"://tester:{PASSWORD}@"))
        publish(registry, entry, bundle)
        assert registry.list() == [entry]
        assert fetched(registry, entry, bundle, tmp_path / "back") == hash_files(bundle)
        assert tokens.asked[0] == "repository:team/models/tiny/int4:pull"
        assert any("push" in scope for scope in tokens.asked)


def test_mlflow_points_at_the_newest(servers: Start, entry: Entry, bundle: Path) -> None:
    import mlflow

    server = servers("mlflow")
    registry, name = open_registry(server.url), f"{entry.recipe}--{entry.variant}"
    address = server.url.removeprefix("mlflow+")
    client = mlflow.MlflowClient(tracking_uri=address, registry_uri=address)
    for version in ("1", "2"):
        publish(registry, Entry(entry.recipe, entry.variant, version), bundle)
        found = client.get_model_version_by_alias(name, "approved")
        assert found.tags["quantgate.version"] == version
        assert client.get_run(found.run_id).info.status == "FINISHED"
    client.create_model_version(
        name, source=client.get_run(found.run_id).info.artifact_uri, run_id=found.run_id
    )
    assert [each.version for each in registry.list() if each.recipe == entry.recipe] == ["1", "2"]
    assert mlflow.get_tracking_uri() != address


def test_hub_names_that_collide(
    servers: Start, monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path
) -> None:
    use(servers("hub"), monkeypatch)
    registry = open_registry("hf://collisions")
    first, second = Entry("a", "b-c", "1"), Entry("a-b", "c", "1")
    publish(registry, first, bundle)
    with pytest.raises(
        RegistryError, match=r"collisions/a-b-c has a tag 1 of a/b-c/1, so it cannot hold a-b/c/1"
    ):
        publish(registry, second, make_bundle(tmp_path / "other", 1))
    with pytest.raises(RegistryError, match="is not published there"):
        registry.resolve(second)
    assert registry.list() == [first]


def test_hub_tag_of_somebody_else(
    servers: Start, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    import huggingface_hub

    server = use(servers("hub"), monkeypatch)
    registry, entry = open_registry("hf://strangers"), Entry("a", "b", "1")
    publish(registry, entry, bundle)
    hub = huggingface_hub.HfApi(endpoint=server.environment["HF_ENDPOINT"])
    hub.create_tag("strangers/a-b", tag="v9", revision="main")
    assert registry.list() == [entry]
    assert hub.list_repo_refs("strangers/a-b").branches[0].name == "main"
    assert len(hub.list_repo_refs("strangers/a-b").branches) == 1  # incoming-1 is gone


def test_hub_with_a_wrong_token(
    servers: Start, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    use(servers("hub"), monkeypatch)
    monkeypatch.setenv("HF_TOKEN", PASSWORD)
    with pytest.raises(RegistryError, match=r"hf://team: publishing.*401") as caught:
        publish(open_registry("hf://team"), Entry("a", "b", "1"), bundle)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", ["hf://", "hf://owner/name"])
def test_a_hub_url_is_an_owner(url: str) -> None:
    with pytest.raises(RegistryError, match="expected hf://OWNER"):
        open_registry(url)

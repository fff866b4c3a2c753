"""The units for systemd: what they say, and that systemd takes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.gateway.files import (
    systemd,
)
from tests.deployments import (
    LONE,
    SHOP,
    units,
)
from tests.deployments import written as put


def test_units_of_systemd(tmp_path: Path) -> None:
    found = units(tmp_path)
    assert set(found) == {
        "quantgate.target",
        "quantgate-bundles.service",
        "quantgate-gateway.service",
        "quantgate-chat-bot-edge.service",
        "quantgate-chat-bot-cloud.service",
    }
    edge, cloud = (
        found["quantgate-chat-bot-edge.service"],
        found["quantgate-chat-bot-cloud.service"],
    )
    for line in (
        "KillMode=mixed",
        f"MemoryMax={2 << 30}",
        "CPUQuota=400%",
        "ProtectSystem=strict",
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "RestartPreventExitStatus=1 3",
        "IPAddressDeny=any",
    ):
        assert line in edge.splitlines(), line
    key_file = "server-key.chat-bot-edge"
    assert f"LoadCredential={key_file}:/etc/quantgate/keys/{key_file}" in edge
    assert f"--api-key-file %d/{key_file}" in edge
    assert "PrivateDevices" in edge
    assert "PrivateDevices" not in cloud  # or it would not see its GPU
    assert "redis-server.service" in found["quantgate-gateway.service"]
    wanted_by = found["quantgate.target"].split("Wants=")[1].splitlines()[0].split()
    assert set(wanted_by) == set(found) - {"quantgate.target"}


def test_a_low_port_and_a_folder_of_this_machine(tmp_path: Path) -> None:
    found = units(tmp_path, LONE + "listen: {port: 80}\n")
    assert "quantgate-bundles.service" not in found
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in found["quantgate-gateway.service"]
    edge = found["quantgate-tiny-edge.service"]
    assert 'BindReadOnlyPaths="/home/me/a $model"' in edge
    assert 'serve "/home/me/a $$model"' in edge


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Without a word: what it does not know it says, and ignores."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    for number, deployment in enumerate((SHOP, LONE)):
        found = units(tmp_path, deployment)
        out = put(
            {name: said.replace(systemd.PROGRAM, "/bin/true") for name, said in found.items()},
            tmp_path / str(number),
        )
        files = sorted(map(str, out.iterdir()))
        verify = ["systemd-analyze", "verify", "--man=no"]
        done = subprocess.run([*verify, *files], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        edge = next(path for path in out.iterdir() if path.name.endswith("-edge.service"))
        loose = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(edge)]
        done = subprocess.run(loose, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-300:]  # its exposure: 2 of 10 at most
        edge.write_text(edge.read_text().replace("MemoryMax", "MemoryMost"))
        done = subprocess.run([*verify, *files], capture_output=True, text=True, check=False)
        assert "MemoryMost" in done.stderr


def test_words_of_a_unit_are_quoted() -> None:
    assert systemd._argument("a b") == '"a b"'
    assert systemd._argument("50%$x") == "50%%$$x"
    assert systemd._argument('say "it\\"') == '"say \\"it\\\\\\""'
    assert systemd._argument("%d/key") == "%d/key"

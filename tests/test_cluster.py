"""docs/cluster: what `quantgate spread` is started with on Slurm and on Kubernetes. No cluster of
either is here: the script runs with commands that note how they are called, and Ray's own command
says whether it would take that."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipeline.runtime import environments
from pipeline.spread import node
from tests.conftest import ROOT, parsed
from tests.deployments import checked, loaded

FOLDER = ROOT / "docs" / "cluster"
SCRIPT, RAYJOB, DOCKERFILE = (
    (FOLDER / name).read_text() for name in ("slurm.sbatch", "rayjob.yaml", "Dockerfile")
)
KUBERNETES = ("1.29", "1.37")
# Of https://slurm.schedmd.com/sbatch.html: what each takes.
SBATCH = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "exclusive": "",
    "time": r"\d+:\d\d:\d\d",
    "output": r"[\w%.-]+",
    "gpus-per-node": r"\d+",
}
SECRET = "hidden-word"
NOTES = """#!/bin/bash
printf '%s\\n' "$@" END >> "$NOTES"
if [ "$1" = get-auth-token ]; then echo hidden-word; fi
"""
# What Ray's own parser makes of the words of each call; it ends with what it refuses.
ASK_RAY = """
import json, sys
from ray.scripts import symmetric_run
from ray.scripts.scripts import cli
for name, *words in json.loads(sys.argv[1]):
    if name == "symmetric-run":
        words = words[:words.index("--")]
        cli.commands[name].make_context(name, [*words, "--", "command"])
        name, words = "start", symmetric_run.curate_and_validate_ray_start_args(words)
    cli.commands[name].make_context(name, words)
"""


def ask_ray(*calls: list[str]) -> subprocess.CompletedProcess[str]:
    if not environments.is_complete("ray"):
        pytest.skip("environment ray is not installed (quantgate setup ray)")
    return subprocess.run(
        [str(environments.python("ray")), "-c", ASK_RAY, json.dumps(calls)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def calls(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Runs the script as Slurm does, over two nodes; how it calls Ray."""
    commands = {
        ".venv/bin/python": f"#!/bin/sh\necho {tmp_path}/ray",
        "ray/ray": NOTES,
        "slurm/scontrol": "#!/bin/sh\necho one; echo two",
        "slurm/srun": '#!/bin/sh\nexec "$@"',
    }

    def run(*words: str, **variables: str) -> list[list[str]]:
        for name, text in commands.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(
            ["bash", str(FOLDER / "slurm.sbatch"), *words],
            env={
                "PATH": f"{tmp_path}/slurm{os.pathsep}{os.environ['PATH']}",
                "NOTES": str(tmp_path / "notes"),
                "SLURM_SUBMIT_DIR": str(tmp_path),
                "SLURM_JOB_NODELIST": "[one,two]",
                "SLURM_JOB_NUM_NODES": "2",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert SECRET not in done.stdout + done.stderr
        if done.returncode:
            raise ValueError(done.stderr)
        noted = (tmp_path / "notes").read_text().split("END\n")[:-1]
        return [call.splitlines() for call in noted]

    return run


def test_the_script_is_bash() -> None:
    done = subprocess.run(
        ["bash", "-n", str(FOLDER / "slurm.sbatch")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_slurm_reads_every_line_that_is_for_it() -> None:
    """It stops at the first command."""
    before = re.split(r"^[^#\n]", SCRIPT, maxsplit=1, flags=re.MULTILINE)[0]
    asked = re.findall(r"^#SBATCH (.*)$", SCRIPT, re.MULTILINE)
    assert asked == re.findall(r"^#SBATCH (.*)$", before, re.MULTILINE) != []
    for line in [*asked, *re.findall(r"`sbatch (--\S+)`", SCRIPT)]:
        option = re.fullmatch(r"--([a-z-]+)(?:=(.*))?", line)
        assert option and re.fullmatch(SBATCH[option[1]], option[2] or ""), line


def test_the_script_starts_what_ray_and_quantgate_take(
    calls: Callable[..., list[list[str]]],
) -> None:
    token, started = calls("tiny", QUANTGATE_STORE="/shared/store")
    assert token == ["get-auth-token", "--generate"]
    split = started.index("--")
    options = dict(zip(started[1:split:2], started[2:split:2], strict=True))
    assert started[0] == "symmetric-run"
    assert options["--address"] == "one:6379" and options["--min-nodes"] == "2"
    assert json.loads(options["--resources"]) == {"openvino": 1}
    quantgate, *words = started[split + 1 :]
    assert quantgate == "quantgate" and parsed(*words)["ray"] == "auto"
    done = ask_ray(token, started)
    assert done.returncode == 0, done.stderr
    started[started.index("--resources")] = "--resource-names"
    assert "--resource-names" in ask_ray(started).stderr


def test_a_node_with_a_gpu_is_for_cuda_too(
    calls: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "slurm" / "nvidia-smi").chmod(0o755)
    for device, able in (("cuda", {"openvino": 1, "cuda": 1}), ("cpu", {"openvino": 1})):
        *_, started = calls("tiny", QUANTGATE_STORE="/shared/store", QUANTGATE_DEVICE=device)
        assert json.loads(started[started.index("--resources") + 1]) == able


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        ([], {"QUANTGATE_STORE": "/shared"}, "expected the name of a recipe"),
        (["tiny"], {}, "expected a folder that all nodes share"),
    ],
)
def test_the_script_says_what_it_lacks(
    calls: Callable[..., list[list[str]]], words: list[str], variables: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        calls(*words, **variables)


@pytest.fixture
def rayjob() -> Any:
    (job,) = loaded(RAYJOB)
    return job


def groups(rayjob: Any) -> Iterator[Any]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def test_kuberay_s_schema_takes_the_job(rayjob: Any) -> None:
    schema = json.loads((ROOT / "tests" / "rayjob_schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in check.iter_errors(rayjob)] == []
    group = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    del group["maxReplicas"]
    group["resource"] = {}
    said = sorted(error.message for error in check.iter_errors(rayjob))
    assert len(said) == 2 and "'maxReplicas' is a required" in said[0] and "'resource'" in said[1]


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_its_pods(version: str, rayjob: Any, tmp_path: Path) -> None:
    def taken() -> subprocess.CompletedProcess[str]:
        files = []
        for number, group in enumerate(groups(rayjob)):
            of = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
            files.append(tmp_path / f"{number}.yaml")
            with files[-1].open("w") as file:
                YAML().dump({**of, "template": group["template"]}, file)
        return checked("kubernetes_validate", "--strict", "-k", version, *map(str, files))

    done = taken()
    assert done.returncode == 0, done.stdout + done.stderr
    pod(rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0])["affinities"] = {}
    assert taken().returncode


def pod(group: Any) -> Any:
    return group["template"]["spec"]


def test_the_job_runs_what_quantgate_and_ray_take(rayjob: Any) -> None:
    env, change, folder, quantgate, *words = shlex.split(rayjob["spec"]["entrypoint"])
    assert (env, change, quantgate) == ("env", "-C", "quantgate")
    assert f"WORKDIR {folder}\n" in DOCKERFILE
    assert parsed(*words)["ray"] == "auto"
    pinned = re.findall(r"^ray==(.*)$", (ROOT / "environments" / "ray.txt").read_text(), re.M)
    assert [rayjob["spec"]["rayClusterSpec"]["rayVersion"]] == pinned
    started = [
        ["start", *(f"--{name}={value}" for name, value in group["rayStartParams"].items())]
        for group in groups(rayjob)
    ]
    done = ask_ray(*started)
    assert done.returncode == 0, done.stderr


def test_only_what_has_the_token_and_the_keys_gets_in(rayjob: Any) -> None:
    """And the file holds neither."""
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for group in groups(rayjob):
        (container,) = pod(group)["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "quantgate-store"}}]
        assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"} & {
            variable["name"] for variable in container["env"]
        }
        assert pod(group)["securityContext"]["runAsNonRoot"]
        assert not pod(group)["automountServiceAccountToken"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert "secret generic quantgate-store --from-env-file=" in RAYJOB


def test_groups_are_for_what_jobs_ask_for(rayjob: Any) -> None:
    head, cpu, gpu = groups(rayjob)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert set(cpu["resources"]) == {"openvino"} and set(gpu["resources"]) == {"openvino", "cuda"}
    assert "nvidia.com/gpu" in pod(gpu)["containers"][0]["resources"]["limits"]
    for group in (cpu, gpu):
        asked = pod(group)["containers"][0]["resources"]
        assert asked["requests"] == asked["limits"]
        ((alone,),) = pod(group)["affinity"]["podAntiAffinity"].values()
        assert alone["labelSelector"]["matchLabels"] == group["template"]["metadata"]["labels"]


def test_the_image_is_the_pods_(rayjob: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user, and where jobs have their working copies."""
    root = re.findall(r"QUANTGATE_ENVIRONMENTS=(\S+)", DOCKERFILE)
    monkeypatch.setenv("QUANTGATE_ENVIRONMENTS", *root)
    _, *workers = groups(rayjob)
    for group in workers:
        (mount,) = pod(group)["containers"][0]["volumeMounts"]
        assert mount["mountPath"] == str(node.folder())
        assert f"USER {pod(group)['securityContext']['runAsUser']}:" in DOCKERFILE
    for line in re.findall(r"quantgate (setup \w+)", DOCKERFILE + SCRIPT):
        assert environments.pins_file(parsed(*line.split())["names"][0])

"""The Dockerfile: the command alone for the gateway, and an image more for each engine that is
needed."""

from __future__ import annotations

from pipeline import __version__
from pipeline.gateway.files.plan import Plan, Server
from pipeline.gateway.files.settings import FOLDER, MODELS, USAGE

USER = 10001
ANYWHERE = "0.0.0.0"  # noqa: S104 (in a container, which other containers reach)
PORT, GATEWAY_PORT = 8000, 8080  # in a container of its own
HOME = "/var/cache/quantgate"  # what engines compile, and temporary files
DEFAULT = f"quantgate:{__version__}"
GATEWAY = "gateway"
EXTRAS = {
    "s3": "s3",
    "oci": "oci",
    "oci+http": "oci",
    "mlflow+http": "mlflow",
    "mlflow+https": "mlflow",
}
COMMAND = """\
# The wheel goes into dist/ first: pip wheel --no-deps --wheel-dir dist PROJECT
FROM python:3.11-slim AS gateway
ARG PIP_EXTRA_INDEX_URL
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
ENV QUANTGATE_ENVIRONMENTS=/opt/quantgate
COPY dist/quantgate-*.whl /tmp/dist/
# What it needs, in the versions that the wheel pins.
RUN python -m zipfile -e /tmp/dist/quantgate-*.whl /tmp/wheel \\
 && pip install -c /tmp/wheel/environments/control.txt "$(ls /tmp/dist/quantgate-*.whl){extras}" \\
 && rm -r /tmp/wheel
RUN useradd --uid {user} --user-group --no-create-home --home-dir {home} quantgate \\
 && install -d -o {user} -g {user} {home} {models} {usage} \\
 && install -d {folder}
ENV HOME={home} TMPDIR={home}
WORKDIR {home}
USER {user}:{user}
ENTRYPOINT ["quantgate"]
"""
ENGINE = """
FROM gateway AS {target}
# CPU builds of torch may need PyTorch's own index: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
USER root
{before}RUN quantgate setup {environment}
USER {user}:{user}
"""
# vLLM compiles for the processor or GPU when it loads a model.
COMPILER = """\
RUN apt-get update && apt-get install -y --no-install-recommends g++ libnuma1 \\
 && rm -rf /var/lib/apt/lists/*
"""
CUDA = "ENV QUANTGATE_DEVICE=cuda\n"


def target(server: Server) -> str:
    """The image of its engine."""
    engine = server.bundle.engine
    return f"{engine}-cuda" if has_gpu(server) else engine


def has_gpu(server: Server) -> bool:
    return server.bundle.device == "cuda"


def name(plan: Plan, of: str) -> str:
    """The gateway's tag is the one that was named; the others have the engine behind it."""
    return plan.image if of == GATEWAY else f"{plan.image}-{of}"


def targets(plan: Plan) -> list[str]:
    return [GATEWAY, *dict.fromkeys(target(server) for server in plan.ours)]


def dockerfile(plan: Plan) -> str:
    parts = [COMMAND.format(extras=_extras(plan), **_places())]
    for one in targets(plan)[1:]:
        environment = one.removesuffix("-cuda")
        before = (COMPILER if environment == "vllm" else "") + (CUDA if one != environment else "")
        parts.append(ENGINE.format(target=one, environment=environment, before=before, user=USER))
    return "".join(parts)


def builds(plan: Plan) -> list[str]:
    """The commands that make them."""
    return [f"docker build --target {one} --tag {name(plan, one)} ." for one in targets(plan)]


def _places() -> dict[str, str | int]:
    return {"user": USER, "home": HOME, "models": MODELS, "usage": USAGE, "folder": FOLDER}


def _extras(plan: Plan) -> str:
    """Of the package, for the registries that bundles are fetched from."""
    schemes = {one.bundle.source.split("://")[0] for one in plan.servers}
    found = sorted({EXTRAS[scheme] for scheme in schemes if scheme in EXTRAS})
    return f"[{','.join(found)}]" if found else ""

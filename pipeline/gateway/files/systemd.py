"""systemd: a unit for each server, one for the gateway, one that fetches the bundles, and a target
that starts and stops them together. Redis is the machine's own."""

from __future__ import annotations

from shlex import quote

from pipeline.gateway.files import commands, image, settings, size, text
from pipeline.gateway.files.image import GATEWAY
from pipeline.gateway.files.plan import Bundle, Plan, Secret, Server
from pipeline.gateway.files.settings import FOLDER, Place
from pipeline.gateway.files.text import Lines

HOME = "/opt/quantgate"  # the command's virtual environment, and the engines' below it
PROGRAM = f"{HOME}/bin/quantgate"
FIRST_PORT = 8001  # of the servers, on the loopback interface
UNITS = "etc/systemd/system"
REGISTRY = "registry.env"  # what the registry asks for
KEYS = f"{FOLDER}/keys"  # read by systemd alone, which hands each service its own
TARGET, BUNDLES = "quantgate.target", "quantgate-bundles.service"
HEADER = "Written by quantgate deploy-files; docs/deploy.md says where limits come from."
NOT_APPROVED, TAMPERED = 1, 3  # exit codes that no new start changes
HARDENED: Lines = [
    # One dynamic user for all: servers read the bundles that another unit fetched.
    ("DynamicUser", True),
    ("User", "quantgate"),
    ("StateDirectory", "quantgate quantgate/usage"),
    ("StateDirectoryMode", "0700"),
    ("ProtectSystem", "strict"),
    ("ProtectHome", True),
    ("PrivateTmp", True),
    ("NoNewPrivileges", True),
    ("ProtectClock", True),
    ("ProtectControlGroups", True),
    ("ProtectHostname", True),
    ("ProtectKernelLogs", True),
    ("ProtectKernelModules", True),
    ("ProtectKernelTunables", True),
    ("ProtectProc", "invisible"),
    ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
    ("RestrictNamespaces", True),
    ("RestrictRealtime", True),
    ("RestrictSUIDSGID", True),
    ("LockPersonality", True),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("UMask", "0077"),
]
LOCAL_ONLY: Lines = [("IPAddressDeny", "any"), ("IPAddressAllow", "localhost")]
REGISTRY_ENVIRONMENT: Lines = [("EnvironmentFile", f"-{FOLDER}/{REGISTRY}")]
_AFTER_BUNDLES: Lines = [("Requires", BUNDLES), ("After", BUNDLES)]
ENVIRONMENT: Lines = [
    ("Environment", f"QUANTGATE_ENVIRONMENTS={HOME}/environments PYTHONUNBUFFERED=1")
]


def files(plan: Plan) -> dict[str, str]:
    """By their path below /."""
    given = settings.files(plan, _place(plan))
    units = {
        _unit(GATEWAY): _gateway(plan),
        **{_unit(one.label): _server(one, _port(plan, one)) for one in plan.ours},
        **({BUNDLES: _bundles(plan)} if plan.fetched else {}),
    }
    units[TARGET] = _target(list(units))
    return {
        **{f"{UNITS}/{name}": content for name, content in units.items()},
        **{f"{FOLDER[1:]}/{name}": content for name, content in given.items()},
    }


def steps(plan: Plan) -> list[str]:
    engines = list(dict.fromkeys(one.bundle.engine for one in plan.ours))
    gpu = "QUANTGATE_DEVICE=cuda " if any(image.has_gpu(one) for one in plan.ours) else ""
    setup = f"QUANTGATE_ENVIRONMENTS={HOME}/environments {gpu}{PROGRAM} setup {' '.join(engines)}"
    redis = f"maxmemory {plan.deploy.cache.most_mib}mb" if plan.deploy.cache else ""
    return [
        "pip wheel --no-deps --wheel-dir dist PROJECT  # PROJECT: quantgate's folder",
        f"sudo python3.11 -m venv {HOME}",
        f"sudo {HOME}/bin/pip install -c PROJECT/environments/control.txt dist/quantgate-*.whl",
        *([f"sudo env {setup}"] if engines else []),
        "sudo cp -r etc/. /etc/",
        f"sudo mkdir -p -m 700 {KEYS}",
        *(_made(secret) for secret in plan.secrets),
        *(
            [f"sudo apt-get install redis-server  # and {redis} in /etc/redis/redis.conf"]
            if plan.has_redis
            else []
        ),
        f"sudo systemctl daemon-reload && sudo systemctl enable --now {TARGET}",
    ]


def _made(secret: Secret) -> str:
    if secret.given:
        return f"sudo install -m 600 {quote(str(secret.given.absolute()))} {KEYS}/{secret.name}"
    return f"openssl rand -hex 32 | sudo install -m 600 /dev/stdin {KEYS}/{secret.name}"


def _unit(label: str) -> str:
    return f"quantgate-{label}.service"


def _port(plan: Plan, server: Server) -> int:
    """The gateway's own is left out."""
    ports = [FIRST_PORT + number for number in range(len(plan.ours) + 1)]
    free = [port for port in ports if port != plan.deploy.listen.port]
    return free[plan.ours.index(server)]


def _place(plan: Plan) -> Place:
    return Place(
        secret=lambda name: _credential(GATEWAY, name),
        bundle=lambda one: one.bundle.source if one.bundle.is_folder else settings.on_disk(one),
        url=lambda server: f"http://127.0.0.1:{_port(plan, server)}/v1",
    )


def _credential(label: str, secret: str) -> str:
    return f"/run/credentials/{_unit(label)}/{secret}"


def _folder(bundle: Bundle) -> str:
    return bundle.source if bundle.is_folder else settings.fetched(bundle)


def _target(units: list[str]) -> str:
    return text.unit(
        {
            "Unit": [
                ("Description", "quantgate: the gateway and its servers"),
                ("Wants", " ".join(units)),
            ],
            "Install": [("WantedBy", "multi-user.target")],
        },
        HEADER,
    )


def _bundles(plan: Plan) -> str:
    """Only it reaches the registry."""
    scripts = [commands.fetch(bundle, PROGRAM) for bundle in plan.fetched]
    return _service(
        "fetches the bundles that are not there",
        [
            ("Type", "oneshot"),
            ("RemainAfterExit", True),
            *(("ExecStart", f"/bin/sh -c {_argument(script)}") for script in scripts),
            *REGISTRY_ENVIRONMENT,
            ("PrivateDevices", True),
            ("CapabilityBoundingSet", ""),
            ("TimeoutStartSec", "infinity"),
            ("Restart", "on-failure"),
            ("RestartSec", "30"),
            ("RestartPreventExitStatus", f"{NOT_APPROVED} {TAMPERED}"),
        ],
        unit=[("Wants", "network-online.target"), ("After", "network-online.target")],
    )


def _server(one: Server, port: int) -> str:
    bundle, key = one.bundle, one.key
    assert key
    words = commands.serve(_folder(bundle), "127.0.0.1", port, f"%d/{key}")
    gpu = image.has_gpu(one)
    more: Lines = [("Environment", "QUANTGATE_DEVICE=cuda")] if gpu else [("PrivateDevices", True)]
    if bundle.memory_bytes:
        more.append(("MemoryMax", bundle.memory_bytes))
    if bundle.cores:
        more.append(("CPUQuota", f"{100 * bundle.cores}%"))
    return _service(
        f"{one.bundle.entry} for the model {one.model}, tier {one.name}",
        [
            *_running(one.label, words, commands.STOP_S),
            ("LoadCredential", f"{key}:{KEYS}/{key}"),
            *more,
            ("CapabilityBoundingSet", ""),
            *LOCAL_ONLY,
            *_shown([bundle]),
        ],
        unit=[] if bundle.is_folder else _AFTER_BUNDLES,
    )


def _gateway(plan: Plan) -> str:
    deploy = plan.deploy
    mib = deploy.cache.most_mib if deploy.cache and deploy.cache.url == "memory" else 0
    low_port = "CAP_NET_BIND_SERVICE" if deploy.listen.port < 1024 else ""
    redis: Lines = [("Wants", "redis-server.service"), ("After", "redis-server.service")]
    stop_s = round(deploy.drain_s) + 10
    return _service(
        "the gateway",
        [
            *_running(GATEWAY, commands.gateway(), stop_s),
            *(("LoadCredential", f"{one.name}:{KEYS}/{one.name}") for one in plan.secrets),
            ("PrivateDevices", True),
            ("MemoryMax", size.gateway_bytes(mib)),
            ("CPUQuota", "100%"),
            ("CapabilityBoundingSet", low_port),
            *([("AmbientCapabilities", low_port)] if low_port else []),
            *_shown(plan.folders),
            *(REGISTRY_ENVIRONMENT if settings.asks_registry(plan) else []),
        ],
        unit=[*(_AFTER_BUNDLES if plan.fetched else []), *(redis if plan.has_redis else [])],
    )


def _running(label: str, words: list[str], stop_s: int) -> Lines:
    """KillMode=mixed: a server is told to end, and tells its engine itself."""
    return [
        ("Type", "exec"),
        ("ExecStart", " ".join([PROGRAM, *map(_argument, words)])),
        ("CacheDirectory", f"quantgate-{label}"),
        ("Environment", f"HOME=%C/quantgate-{label} TMPDIR=%C/quantgate-{label}"),
        ("KillMode", "mixed"),
        ("TimeoutStopSec", stop_s),
        ("Restart", "on-failure"),
        ("RestartSec", "5"),
        ("RestartPreventExitStatus", f"{NOT_APPROVED} {TAMPERED}"),
    ]


def _shown(bundles: list[Bundle]) -> Lines:
    """A folder of this machine is shown to the service wherever it lies, below /home too."""
    return [("BindReadOnlyPaths", _quoted(one.source)) for one in bundles if one.is_folder]


def _service(what: str, lines: Lines, unit: Lines) -> str:
    return text.unit(
        {
            "Unit": [("Description", f"quantgate: {what}"), ("PartOf", TARGET), *unit],
            "Service": [*lines, *ENVIRONMENT, *HARDENED],
        },
        HEADER,
    )


def _argument(word: str) -> str:
    """On a unit's command line, where $ begins a variable; %d stays the folder of credentials."""
    return word if word.startswith("%d/") else _quoted(word.replace("$", "$$"))


def _quoted(word: str) -> str:
    word = word.replace("%", "%%")
    if not word or set(word) & set(" \t\"'\\;|"):
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return word

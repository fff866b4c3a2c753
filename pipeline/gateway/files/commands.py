"""What the files start: the words after `quantgate`, and scripts for sh."""

from __future__ import annotations

from shlex import join, quote

from pipeline.gateway.files.plan import Bundle, Plan
from pipeline.gateway.files.settings import DEPLOY, FOLDER, POLICY, fetched

RULES = f"{FOLDER}/{POLICY}"
HEALTH = "/health"  # of servers and gateway: requests are taken
LIVE = "/live"  # of the gateway: it answers at all
START_S = 1800  # until a server must be healthy: large models are compiled when they are loaded
STOP_S = 40  # a server gives what runs 20 s, then its engine ends
REDIS_STARTS = """exec {command} - <<END
requirepass "$(cat {secret})"
END"""


def gateway() -> list[str]:
    return ["gateway", f"{FOLDER}/{DEPLOY}"]


def serve(bundle: str, host: str, port: int, key_file: str) -> list[str]:
    where = ["--host", host, "--port", str(port)]
    return ["serve", bundle, "--policy", RULES, *where, "--api-key-file", key_file]


def fetch(bundle: Bundle, program: str = "quantgate") -> str:
    """Fetches a bundle unless it is there. A half-fetched one never stands in its place."""
    target = fetched(bundle)
    words = [program, "fetch", bundle.source, "--to", target, "--policy", RULES]
    return f"test -d {quote(target)} || exec {join(words)}"


def redis(plan: Plan, secret: str | None) -> str:
    """A cache alone: bounded, nothing on disk. The password goes to Redis by its standard input,
    since a list of processes shows command lines."""
    assert plan.deploy.cache
    options = ["--maxmemory", f"{plan.deploy.cache.most_mib}mb"]
    options += ["--maxmemory-policy", "allkeys-lru", "--save", "", "--appendonly", "no"]
    command = join(["redis-server", *options])
    if secret is None:
        return f"exec {command} --protected-mode no"
    return REDIS_STARTS.format(command=command, secret=quote(secret))


def probe(port: int) -> list[str]:
    """Ends with 0 if what listens there is healthy; an image of Python has no curl."""
    url = f"http://127.0.0.1:{port}{HEALTH}"
    return ["python", "-c", f"from urllib.request import urlopen; urlopen('{url}', timeout=4)"]

"""oras-py's client of an OCI registry (OCI distribution specification 1.1), mended where it would
hang, forget or fail late.

Needs the package oras, so only pipeline/release/registries/oci.py imports it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oras.container
import oras.provider
import requests

from pipeline.errors import RegistryError
from pipeline.release.registries import shared

PART = 16 << 20  # bytes of one request of an upload, held in memory
WAIT_S = (shared.REACH_S, 300.0)  # to connect, and between two pieces of an answer
PAGE = 1000
# A part of an upload (PATCH) is not sent again: the registry may have it already.
AGAIN = requests.adapters.Retry(
    4,
    backoff_factor=1,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=("GET", "HEAD", "PUT"),
    raise_on_status=False,
)


class _Patient(requests.adapters.HTTPAdapter):  # type: ignore[misc]
    """requests waits forever unless it is told otherwise, and oras does not tell it."""

    def send(self, request: Any, **settings: Any) -> Any:
        return super().send(request, **{**settings, "timeout": settings.get("timeout") or WAIT_S})


class Client(oras.provider.Registry):  # type: ignore[misc]
    """One host. `user` is "name:password" or empty: then the Docker configuration is asked, as
    `docker login` left it.

    Raises RegistryError if nothing there speaks the protocol, or wants a password that nobody gave.
    """

    def __init__(self, host: str, plain: bool, user: str) -> None:
        challenge = _challenge(host, plain)
        basic = challenge.lower().startswith("basic")
        super().__init__(hostname=host, insecure=plain, auth_backend="basic" if basic else "token")
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Patient(max_retries=AGAIN))
        self._log_in(host, user)
        if basic:
            if not getattr(self.auth, "_basic_auth", None):
                raise RegistryError(
                    f"{host}: the registry wants a user and a password. Run: docker login {host}"
                )
            # Otherwise every part of a file would be sent twice, the first time only to be refused.
            self.session.headers.update(self.auth.get_auth_header())

    def _log_in(self, host: str, user: str) -> None:
        if user:
            self.auth.set_basic_auth(*(user.split(":", 1) if ":" in user else (user, "")))
            return
        moved = os.environ.get("DOCKER_CONFIG")  # oras looks in the home folder alone
        self.auth.load_configs(
            self.repository(host, ""), configs=[str(Path(moved) / "config.json")] if moved else None
        )

    def do_request(self, url: str, *arguments: Any, **settings: Any) -> Any:
        """Without oras' own repetition, which for two minutes asks again for what was refused
        (_Patient repeats what is worth it), and with a new token where the first one is too old by
        now, or only for reading."""
        ask = functools.partial(
            oras.provider.Registry.do_request.__wrapped__, self, url, *arguments, **settings
        )
        try:
            answer = ask()
            if answer.status_code == 401 and getattr(self.auth, "token", None):
                self.auth.token = None
                answer = ask()
        except ValueError as error:
            raise RegistryError(
                f"{self.hostname}: the registry wants a login and took none ({error}). Run: docker"
                f" login {self.hostname}"
            ) from error
        return answer

    @staticmethod
    def repository(host: str, name: str) -> Any:
        """oras' own object. Made by hand: its parser takes a host without a dot, or a folder with
        one, for the other."""
        made = oras.container.Container("x")
        made.registry, made.tag, made.digest = host, None, None
        made.namespace, _, made.repository = name.rpartition("/")
        return made

    def pages(self, path: str) -> Iterator[dict[str, Any]]:
        """The answers to a listing, page after page; none where there is no such thing (404)."""
        base = f"{self.prefix}://{self.hostname}"
        url = f"{base}{path}?n={PAGE}"
        while url:
            answer = self.do_request(url, "GET")
            if answer.status_code == 404:
                return
            require(answer, f"listing {path}")
            yield answer.json()
            link = answer.links.get("next", {}).get("url")
            url = requests.compat.urljoin(base, link) if link else ""


def require(answer: Any, question: str) -> None:
    """Raises RegistryError unless the answer is a success."""
    if answer.status_code not in (200, 201, 202):
        message = " ".join(answer.text[: shared.LONGEST].split())
        raise RegistryError(
            f"{shared.clean(answer.url)}: {question}: the registry answered {answer.status_code}"
            f" {answer.reason}: {shared.clean(message)}. Check the name and that you may do this"
            " (docker login)."
        )


def _challenge(host: str, plain: bool) -> str:
    """How the registry wants to be logged in to: its Www-Authenticate header, empty if it wants no
    login. One quick request: oras itself tries five times over two minutes before it says that
    nobody is there."""
    answer = requests.get(f"{'http' if plain else 'https'}://{host}/v2/", timeout=shared.REACH_S)
    if answer.status_code not in (200, 401, 403):
        raise RegistryError(
            f"{host}: GET /v2/ answered {answer.status_code} {answer.reason}, expected an OCI"
            " registry."
        )
    return str(answer.headers.get("Www-Authenticate", ""))


def with_digest(client: Client, opened: Any, repository: Any, digest: str) -> str:
    """Where an opened upload is finished in one request (the specification's "POST then PUT")."""
    url = client._get_location(opened, repository)
    return f"{url}{'&' if '?' in url else '?'}digest={digest}"

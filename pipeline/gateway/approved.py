"""What a tier serves: a bundle that is whole and approved, and stays so only as long as the policy
and the log say."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.engines import ENGINES
from pipeline.engines.host import lacks
from pipeline.engines.server import Served
from pipeline.errors import QuantgateError, RecipeError, SetupError
from pipeline.gateway import deploy_file, promise
from pipeline.gateway.promise import Promise
from pipeline.records import Benchmark, artifact, read
from pipeline.release import fetch
from pipeline.release.bundle import check, layout, serve_settings
from pipeline.release.bundle.check import Checked
from pipeline.release.signoff import policy
from pipeline.release.signoff.standing import Standing
from pipeline.runtime import crash, environments


@dataclass
class Approved:
    """`digest`: of the artifact's files; `until`: when the approval ends; `promise`: None where
    nothing was measured; `again` reads policy and log as they are now, and raises QuantgateError
    where they do not approve; `whole` reads all files too."""

    name: str
    digest: str
    served: Served
    promise: Promise | None
    until: datetime.datetime | None
    again: Callable[[datetime.datetime], Standing]
    whole: Callable[[datetime.datetime], Checked]

    @property
    def capacity(self) -> int:
        """Requests that run at once."""
        return self.served.serve.max_num_seqs

    def withdrawn(self, now: datetime.datetime) -> str | None:
        """Why it may not be served any more; None if it may. What cannot be read, or does not
        hold, approves nothing."""
        return _refused(lambda: self._hear(now))

    def damage(self) -> str | None:
        """Why a server of its files may not be started; None if they are what was signed, and
        approved. Somebody else may have written to the folder since it was opened."""
        return _refused(lambda: self.whole(datetime.datetime.now(datetime.UTC)))

    def _hear(self, now: datetime.datetime) -> None:
        self.until = self.again(now).until


class Opener:
    """Opens each bundle once, however many tiers have it; for as long as `kept` is open."""

    def __init__(self, kept: ExitStack, rules: Path) -> None:
        self._kept, self._rules = kept, rules
        self._bundles: dict[tuple[str, bool], tuple[Path, Checked]] = {}

    def opened(self, tier: deploy_file.Tier) -> Approved:
        """Raises Tampered, Rejected, RegistryError; SetupError for what this machine cannot run."""
        here, rules = tier.url is None, self._rules
        folder, checked = self._bundle(tier.bundle, here)
        settings = serve_settings.read(folder / layout.SERVE)
        records, entry = checked.records, checked.signed.entry
        name, digest = f"{entry.recipe}-{entry.variant}", artifact.digest(records.manifest.files)
        if here:
            environments.python(ENGINES[settings.engine].environment)
            if lacking := lacks(records.variant, settings.serve):
                raise SetupError(f"{name}: {lacking}.")
        approved = Approved(
            name,
            digest,
            Served(settings.engine, folder, settings.serve, name, digest),
            promise.of(_measured(tier, checked), records.recipe.benchmark.prompt_tokens),
            checked.standing.until,
            lambda now: check.again(folder, checked, policy.load(rules), now),
            lambda now: check.check(folder, policy.load(rules), now, model=here),
        )
        if approved.promise is None:
            print(
                f"{name}: no speed was measured, so it promises none: a request with a latency"
                " target goes there last",
                file=sys.stderr,
            )
        return approved

    def _bundle(self, what: str, here: bool) -> tuple[Path, Checked]:
        """Of a server that runs elsewhere only what speaks for its model."""
        if (what, here) not in self._bundles:
            opening = fetch.opened(what, policy.load(self._rules), model=here)
            folder, checked = self._kept.enter_context(opening)
            print(f"{what}: {checked.standing.words}", file=sys.stderr, flush=True)
            self._bundles[what, here] = folder, checked
        return self._bundles[what, here]


def _refused(look: Callable[[], object]) -> str | None:
    try:
        look()
    except QuantgateError as error:
        return str(error)
    except Exception as error:  # whatever it is, nothing was approved
        return f"cannot be checked: {crash.place(error)}"
    return None


def _measured(tier: deploy_file.Tier, checked: Checked) -> Benchmark:
    """Raises RecipeError for a benchmark of another artifact."""
    if tier.benchmark is None:
        return checked.records.benchmark
    record = read(Path(tier.benchmark), Benchmark)
    digest = artifact.digest(checked.records.manifest.files)
    if record.artifact_sha256 != digest:
        raise RecipeError(
            f"{tier.benchmark}: artifact_sha256: found {record.artifact_sha256}, expected that of"
            f" {tier.bundle}: {digest}. Measure a server that lists it in /v1/models, as `quantgate"
            " serve` does: quantgate benchmark RECIPE --http VARIANT --url URL"
        )
    return record

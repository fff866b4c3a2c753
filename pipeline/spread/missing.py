"""Which stages the store lacks, and which of them can run: those whose inputs are all known."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.records import File, Result
from pipeline.store import inputs
from pipeline.store.graph import Stage
from pipeline.store.inputs import Listing
from pipeline.store.results import Store

WEIGHTS = ("artifacts/models/", "artifacts/logprobs/")  # large, and no records


class Missing:
    """What an earlier stage makes need not lie here: its record in the store has the hashes."""

    def __init__(self, stages: Iterable[Stage], store: Store, on_disk: Listing) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._store, self._on_disk = store, on_disk
        self._before = {
            name: [other.name for other in self._stages.values() if _feeds(other, stage)]
            for name, stage in self._stages.items()
        }
        self.done: dict[str, Result] = {}

    @property
    def left(self) -> list[str]:
        """The stages whose results are not known, in the order of dvc.yaml."""
        return [name for name in self._stages if name not in self.done]

    def ready(self, begun: Iterable[str]) -> dict[str, str]:
        """The stages that can run, with their keys, without those that have begun or failed. What
        the store has already is done, and may make others ready. Raises Tampered and RegistryError
        as the store does."""
        out, found = set(begun), True
        while found:
            found, keys = False, {}
            for name in self.left:
                if name in out or any(before not in self.done for before in self._before[name]):
                    continue
                key = inputs.key(self._stages[name], self.listing)
                result = self._store.find(key) if key else None
                if result is not None:
                    self.done[name], found = result, True
                elif key:
                    keys[name] = key
        return keys

    def finish(self, name: str, key: str) -> bool:
        """Takes note of a result that a job has put into the store; whether it is there."""
        result = self._store.find(key)
        if result is not None:
            self.done[name] = result
        return result is not None

    def listing(self, path: str) -> list[File]:
        """The files at or below a path: as stages of this recipe made them, else as they lie
        here."""
        if not any(_overlap(out.path, path) for of in self._stages.values() for out in of.outs):
            return self._on_disk(path)
        made = [file for result in self.done.values() for file in result.files]
        return [file for file in made if _below(file.path, path)]

    def files(self, name: str, whole: bool) -> list[File]:
        """What a stage gets: all that it depends on, and what the stages before it made, since it
        may read their records. Of those the weights too where it is to get the `whole`."""
        listed = [file for path in self._stages[name].deps for file in self.listing(path)]
        for before in self._all_before(name):
            listed += [
                file
                for file in self.done[before].files
                if whole or not file.path.startswith(WEIGHTS)
            ]
        return list({file.path: file for file in listed}.values())

    def _all_before(self, name: str) -> set[str]:
        direct = self._before[name]
        return set(direct).union(*(self._all_before(before) for before in direct))


def _feeds(first: Stage, then: Stage) -> bool:
    return first is not then and any(
        _overlap(out.path, dep) for out in first.outs for dep in then.deps
    )


def _overlap(one: str, other: str) -> bool:
    return _below(one, other) or _below(other, one)


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")

"""MLflow's model registry: mlflow+http://HOST:PORT or mlflow+https://HOST. Registered model
RECIPE--VARIANT, and a run for each bundle, whose artifacts are the files
(https://mlflow.org/docs/latest/ml/model-registry/).

A model version with our tags makes a bundle published; it is made last, in one request. The alias
`approved` follows it in a second one, so a process killed between the two leaves it on the version
before. MLflow numbers versions itself and has no way to make one only if ours is new: of two who
publish the same version at the same instant the first one counts."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import paths
from pipeline.errors import RegistryError
from pipeline.records import File
from pipeline.records.artifact import digest
from pipeline.release.registries import NAME, Entry, Progress, shared
from pipeline.runtime import environments

EXPERIMENT = "quantgate"
ALIAS = "approved"
TAGS = ("quantgate.recipe", "quantgate.variant", "quantgate.version")
BUNDLE = "quantgate.bundle"  # the bundle's hash, pipeline/records/artifact.digest
# Before mlflow is imported: we show our own progress, and a private registry's client should not
# report its use elsewhere.
QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", **environments.UNTRACKED}


class Registry:
    def __init__(self, url: str) -> None:
        """Raises RegistryError without the package mlflow-skinny."""
        self.url = url
        self.address = url.removeprefix("mlflow+").rstrip("/")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self.library = shared.needed("mlflow", "mlflow")
        self.web = shared.needed("requests", "mlflow")
        self.client = self.library.MlflowClient(
            tracking_uri=self.address, registry_uri=self.address
        )

    def list(self) -> list[Entry]:
        with self._asking("listing it"):
            return sorted({entry for version in self._pages(self.client.search_model_versions)
                           if (entry := _entry(version)) is not None})  # fmt: skip

    def resolve(self, entry: Entry) -> bytes:
        with (
            self._asking(f"reading the signature of {entry}"),
            tempfile.TemporaryDirectory() as folder,
        ):
            return self._download(
                self._published(entry), paths.SIGNATURE, Path(folder)
            ).read_bytes()

    def publish(
        self, entry: Entry, bundle: Path, files: Sequence[File], progress: Progress
    ) -> None:
        sent = shared.ordered(files)
        with self._asking(f"publishing {entry}"):
            self._refuse_published(entry)
            run = self._run(entry, digest(sent))
            sizes = dict(self._sizes(run.info.run_id))
            there = [file for file in sent if sizes.get(file.path) == file.size_bytes]
            with shared.scratch(self.url, bundle) as scratch:
                held = set()
                for file in there:
                    if self._read_back(run.info.run_id, file, scratch):
                        held.add(file.path)
                        progress(file.size_bytes)
                left = [file for file in sent if file.path not in held]
                for file in left:
                    folder = str(PurePosixPath(file.path).parent)
                    self.client.log_artifact(
                        run.info.run_id, str(bundle / file.path), None if folder == "." else folder
                    )
                for file in left:
                    if not self._read_back(run.info.run_id, file, scratch, progress):
                        raise shared.altered(self.url, file)
            self.client.update_run(run.info.run_id, status="FINISHED")
            self._commit(entry, run)

    def fetch(self, entry: Entry, names: Sequence[str], target: Path, progress: Progress) -> None:
        with self._asking(f"fetching {entry}"):
            run = self._published(entry)
            for name in names:
                progress(self._download(run, name, target).stat().st_size)

    @contextlib.contextmanager
    def _asking(self, question: str) -> Iterator[None]:
        """One quick request first: mlflow itself tries eight times over minutes before it says that
        nobody is there."""
        with shared.asking(
            self.url, question, Exception
        ):  # its artifact side raises requests' errors and bare Exception
            answer = self.web.get(f"{self.address}/health", timeout=shared.REACH_S)
            if answer.status_code >= 500 or answer.status_code == 404:
                raise RegistryError(
                    f"{shared.clean(self.url)}: GET /health: {answer.status_code}, expected an"
                    " MLflow server."
                )
            yield

    def _pages(self, search: Any, *arguments: Any, **settings: Any) -> Iterator[Any]:
        token = None
        while True:
            page = search(*arguments, **settings, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _version(self, entry: Entry) -> Any:
        versions = self._pages(self.client.search_model_versions, f"name = '{_name(entry)}'")
        ours = [version for version in versions if _entry(version) == entry]
        return min(ours, key=lambda version: int(version.version), default=None)

    def _published(self, entry: Entry) -> str:
        """The run of a published version."""
        version = self._version(entry)
        if version is None:
            raise shared.not_published(self.url, entry)
        return str(version.run_id)

    def _refuse_published(self, entry: Entry) -> None:
        if self._version(entry) is not None:
            raise shared.published(self.url, entry)

    def _experiment(self) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return str(self.client.create_experiment(EXPERIMENT))
            except self.library.MlflowException:  # another process was first
                experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise RegistryError(
                f"{shared.clean(self.url)}: experiment {EXPERIMENT!r} is deleted or refused."
                " Restore it in MLflow."
            )
        return str(experiment.experiment_id)

    def _run(self, entry: Entry, hashed: str) -> Any:
        """The run of an earlier try with the same bundle, or a new one."""
        experiment, tags = self._experiment(), {**_tags(entry), BUNDLE: hashed}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self.client.search_runs([experiment], wanted, max_results=1)
        return (
            runs[0] if runs else self.client.create_run(experiment, tags=tags, run_name=str(entry))
        )

    def _sizes(self, run: str, folder: str | None = None) -> Iterator[tuple[str, int]]:
        for info in self.client.list_artifacts(run, folder):
            if info.is_dir:
                yield from self._sizes(run, info.path)
            else:
                yield info.path, info.file_size

    def _read_back(
        self, run: str, file: File, scratch: Path, progress: Progress | None = None
    ) -> bool:
        """Downloads one file for as long as it is compared."""
        path = self._download(run, file.path, scratch)
        try:
            return shared.holds(file, shared.read(path), progress)
        finally:
            path.unlink()

    def _download(self, run: str, name: str, target: Path) -> Path:
        folder = (target / shared.inside(name)).parent  # mlflow leaves the folders of the name away
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run, name, str(folder)))

    def _commit(self, entry: Entry, run: Any) -> None:
        name = _name(entry)
        try:
            self.client.create_registered_model(name)
        except self.library.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self._refuse_published(entry)
        made = self.client.create_model_version(
            name,
            source=run.info.artifact_uri,
            run_id=run.info.run_id,
            tags=_tags(entry),
            await_creation_for=0,
        )
        self.client.set_registered_model_alias(name, ALIAS, made.version)


def _name(entry: Entry) -> str:
    return f"{entry.recipe}--{entry.variant}"


def _tags(entry: Entry) -> dict[str, str]:
    return dict(zip(TAGS, (entry.recipe, entry.variant, entry.version), strict=True))


def _entry(version: Any) -> Entry | None:
    """What a model version was published as, None for one of somebody else's."""
    parts = [str(version.tags.get(tag, "")) for tag in TAGS]
    if not all(NAME.fullmatch(part) for part in parts) or not version.run_id:
        return None
    entry = Entry(*parts)
    return entry if version.name == _name(entry) else None

"""The Hugging Face Hub: hf://OWNER, one repository OWNER/RECIPE-VARIANT, private when it is made
here, the version is a tag.

Files go to a branch incoming-VERSION as Git LFS or Xet objects, whichever the Hub takes
(https://huggingface.co/docs/hub/storage-backends); objects it has are not sent again. The tag on
the checked commit makes a version published; the Hub refuses to put one twice. The commit's title
tells which recipe and variant a repository holds: its name alone does not, as both may hold a
hyphen. Endpoint and token as the library has them: HF_ENDPOINT, HF_TOKEN, `hf auth login`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from pipeline import paths
from pipeline.errors import RegistryError
from pipeline.records import File
from pipeline.release.registries import NAME, Entry, Progress, shared

OWN = ".gitattributes"  # the Hub's own file in every repository


class Registry:
    def __init__(self, url: str) -> None:
        """Raises RegistryError if the URL is no owner's name alone."""
        self.url = url
        self.owner = url.removeprefix("hf://").strip("/")
        if not self.owner or "/" in self.owner or "@" in self.owner:
            raise RegistryError(
                f"{shared.clean(url)}: expected hf://OWNER, a user or an organization. Leave the"
                " rest away."
            )
        self.hub = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)

    def list(self) -> list[Entry]:
        with self._asking("listing it"):
            return sorted(
                entry
                for model in self.hub.list_models(author=self.owner)
                for tag, commit in self._tags(model.id).items()
                if (entry := self._held(model.id, commit)) is not None
                and entry.version == tag
                and self._repository(entry) == model.id
            )

    def resolve(self, entry: Entry) -> bytes:
        with (
            self._asking(f"reading the signature of {entry}"),
            tempfile.TemporaryDirectory() as folder,
        ):
            return self._download(
                entry, self._published(entry), paths.SIGNATURE, Path(folder)
            ).read_bytes()

    def publish(
        self, entry: Entry, bundle: Path, files: Sequence[File], progress: Progress
    ) -> None:
        sent, repository, branch = (
            shared.ordered(files),
            self._repository(entry),
            f"incoming-{entry.version}",
        )
        with self._asking(f"publishing {entry}"):
            self.hub.create_repo(repository, private=True, exist_ok=True)
            self._refuse_published(entry)
            self.hub.create_branch(repository, branch=branch, exist_ok=True)
            commit = self._send(entry, branch, bundle, sent)
            with shared.scratch(self.url, bundle) as folder:
                for file in sent:
                    path = self._download(entry, commit, file.path, folder)
                    if not shared.holds(file, shared.read(path), progress):
                        raise shared.altered(self.url, file)
                    path.unlink()
            try:
                self.hub.create_tag(repository, tag=entry.version, revision=commit)
            except HfHubHTTPError:
                self._refuse_published(entry)  # another process was first
                raise
            self.hub.delete_branch(repository, branch=branch)

    def fetch(self, entry: Entry, names: Sequence[str], target: Path, progress: Progress) -> None:
        with self._asking(f"fetching {entry}"):
            commit = self._published(entry)
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                path = target / shared.inside(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                # The library writes files of its own beside what it downloads.
                with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target) as folder:
                    self._download(entry, commit, name, Path(folder)).replace(path)
                progress(path.stat().st_size)

    @contextlib.contextmanager
    def _asking(self, question: str) -> Iterator[None]:
        """The library's own progress bars are off meanwhile: the caller has one."""
        shown = not are_progress_bars_disabled()
        if shown:
            disable_progress_bars()
        try:
            with shared.asking(
                self.url, question, Exception
            ):  # it lets httpx's errors, ValueError and RuntimeError through
                yield
        finally:
            if shown:
                enable_progress_bars()

    def _repository(self, entry: Entry) -> str:
        return f"{self.owner}/{entry.recipe}-{entry.variant}"

    def _tags(self, repository: str) -> dict[str, str]:
        """The commit of each tag; none for a repository that is not there."""
        try:
            return {tag.name: tag.target_commit for tag in self.hub.list_repo_refs(repository).tags}
        except RepositoryNotFoundError:
            return {}

    def _held(self, repository: str, commit: str) -> Entry | None:
        """What a commit was published as, None for one of somebody else's."""
        parts = self.hub.list_repo_commits(repository, revision=commit)[0].title.split("/")
        return (
            Entry(*parts)
            if len(parts) == 3 and all(NAME.fullmatch(part) for part in parts)
            else None
        )

    def _published(self, entry: Entry) -> str:
        """The commit of a published version."""
        commit = self._tags(self._repository(entry)).get(entry.version)
        if commit is None or self._held(self._repository(entry), commit) != entry:
            raise shared.not_published(self.url, entry)
        return commit

    def _refuse_published(self, entry: Entry) -> None:
        repository = self._repository(entry)
        commit = self._tags(repository).get(entry.version)
        if commit is None:
            return
        if (held := self._held(repository, commit)) != entry:
            raise RegistryError(
                f"{shared.clean(self.url)}: {repository} has a tag {entry.version} of"
                f" {held or 'another'}, so it cannot hold {entry}. Rename the recipe or the"
                " variant, or give a new version."
            )
        raise shared.published(self.url, entry)

    def _send(self, entry: Entry, branch: str, bundle: Path, files: Sequence[File]) -> str:
        """One commit of exactly these files; what an earlier try of another bundle left there
        goes."""
        repository, wanted = self._repository(entry), {file.path for file in files} | {OWN}
        there = [
            info.path
            for info in self.hub.list_repo_tree(repository, recursive=True, revision=branch)
            if isinstance(info, RepoFile)
        ]
        changes: list[Any] = [
            huggingface_hub.CommitOperationDelete(path) for path in there if path not in wanted
        ]
        for file in files:
            change = huggingface_hub.CommitOperationAdd(file.path, str(bundle / file.path))
            change.upload_info.sha256 = bytes.fromhex(
                file.sha256
            )  # known already: saves reading all once more
            changes.append(change)
        commit = self.hub.create_commit(
            repository, changes, commit_message=str(entry), revision=branch
        )
        return str(commit.oid)

    def _download(self, entry: Entry, commit: str, name: str, folder: Path) -> Path:
        """`force_download` and a cache folder of its own: nothing may come from this machine's
        cache."""
        return Path(
            self.hub.hf_hub_download(
                self._repository(entry),
                name,
                revision=commit,
                local_dir=folder,
                cache_dir=folder / ".cache",
                force_download=True,
            )
        )

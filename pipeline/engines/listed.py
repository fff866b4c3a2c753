"""Which models a server lists under /v1/models: is one of them the artifact?"""

from __future__ import annotations

from pydantic import BaseModel


class Model(BaseModel):
    """Of a server's list, as far as it is read. `digest` is what quantgate's own server adds."""

    id: str
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.id[:80]} {(self.digest or '')[:80]}".strip()


class Models(BaseModel):
    data: list[Model]

    def pinned(self, sha256: str) -> str | None:
        """The name by which the server knows the artifact of this digest, and no other: it ends in
        the digest. None where neither `digest` nor a name shows it."""
        digest = f"sha256:{sha256}"
        for model in self.data:
            name = model.id.removesuffix(f"@{digest}")
            if model.digest == digest or name != model.id:
                return f"{name}@{digest}"
        return None

    def __str__(self) -> str:
        return ", ".join(map(str, self.data)) or "none"

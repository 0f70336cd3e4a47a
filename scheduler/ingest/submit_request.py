"""What a user submits, and the digest by which its batch is found again."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

from jobs.batches.status import is_number
from jobs.errors import UsageError
from jobs.manifest import ManifestFile
from jobs.manifest.seeds import seed_of_name
from jobs.manifest.values import printable
from jobs.policy.batch_policy import BatchPolicy
from scheduler.ingest.rules_from_catalogue import Reading

FOLDER, MODEL = "pictures_from", "default_model"


@dataclass(frozen=True)
class SubmitRequest:
    """What a user submits: a manifest, how to read it, and the batch's policy."""

    manifest: ManifestFile
    reading: Reading
    policy: BatchPolicy
    output: str
    default_model: str
    name: str | None = None

    @property
    def wanted_name(self) -> str:
        """The batch's name, unless another batch has it and none was given."""
        return self.name or slug(self.manifest.stem)

    @property
    def batch_seed(self) -> int:
        """The batch seed: the given one, or that of the wanted name, so that a manifest that has grown keeps it."""
        return (
            seed_of_name(self.wanted_name) if "batch_seed" in self.policy.chosen() else self.policy.batch_seed
        )

    def with_defaults_given(self) -> Self:
        """Return the order in which what ingest would choose is given: as versions before seeds by id took it."""
        given = {key: getattr(self.policy, key) for key in self.policy.chosen()}
        return replace(self, policy=self.policy.model_copy(update=given))

    @property
    def circumstances(self) -> dict[str, str]:
        """Options that affect pixels only if rows depend on them, which is known once they have been read."""
        return {FOLDER: printable(self.manifest.folder, 4_000), MODEL: self.default_model}

    def digest(self, *depends: str) -> str:
        """Return the SHA-256 that identifies the batch: of the manifest and of the options that affect its images.

        `depends` names the circumstances to include: those in which otherwise equal batches differ.
        """
        policy = self.policy.identity() | dict.fromkeys(self.policy.chosen())
        identity = {
            "manifest": self.manifest.sha256,
            "format": self.manifest.format,
            "columns": dict(self.reading.columns),
            "renames": dict(self.reading.renames),
            "drop": sorted(self.reading.drop),
            "unique_ids": self.reading.unique_ids,
            "delimiter": self.manifest.delimiter,
            "policy": policy,
            "output": _without_slash(self.output),
            "name": self.name,
        }
        return _sha256({**identity, **{key: self.circumstances[key] for key in depends}})

    def older_digests(self) -> Iterator[str]:
        """Yield the digests that earlier versions computed, from all options that they included."""
        if self.reading.drop or self.reading.unique_ids or self.manifest.delimiter:
            return  # earlier versions had none of these
        output = _without_slash(self.output)
        for strict, end, folder in product((False, True), ("", "/"), ("", self.manifest.folder)):
            identity = {
                "manifest": self.manifest.sha256,
                "format": self.manifest.format,
                "reading": {
                    "columns": dict(self.reading.columns),
                    "renames": dict(self.reading.renames),
                    "strict": strict,
                },
                "policy": self.policy.identity(),
                "output": output + end,
                "default_model": self.default_model,
                "name": self.name,
            }
            yield _sha256({**identity, **({"folder": folder} if folder else {})})


def _without_slash(output: str) -> str:
    return output.rstrip("/") or "/"


def _sha256(identity: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def slug(text: str) -> str:
    """Make a batch name from a file name: lower-case ASCII letters, digits, dots, dashes; never a number."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:90] or "batch"
    return f"batch-{name}" if is_number(name) else name


def checked_name(name: str, given_as: str = "--name ") -> str:
    """Return the name if it is valid for a batch, its folder and its keys; else raise UsageError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", name):
        raise UsageError(
            f"{given_as}{name!r} can't name a batch: use lower-case letters, digits, '.', '_' and '-', "
            f"starting with a letter or digit, at most 100, such as {slug(name)!r}"
        )
    if is_number(name):
        raise UsageError(
            f"{given_as}{name!r} can't name a batch: commands take a number for the number of a batch; "
            f"use a name such as {slug(name)!r}"
        )
    return name

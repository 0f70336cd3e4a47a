"""An export's folder while it is checked: the names in it, and what of it can't be read."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from jobs.errors import ObjectStoreError
from jobs.storage.base import ObjectStore, note_unreadable


@dataclass(frozen=True)
class ListedFolder:
    """A folder in a store; `prefix` is empty or ends in a slash. All names are relative to it."""

    store: ObjectStore
    prefix: str
    names: frozenset[str]
    """Of all files and links."""
    unreadable: dict[str, str]
    """Why, by the names of files and folders; grows as the folder is read."""

    @classmethod
    def of(cls, store: ObjectStore, prefix: str, unreadable: dict[str, str]) -> "ListedFolder":
        """List the folder. Raises ObjectStoreError if it can't be read itself."""

        def note(path: str, error: ObjectStoreError) -> None:
            with note_unreadable(unreadable, path.removeprefix(prefix)):
                raise error

        names = store.names(prefix.rstrip("/"), note)
        return cls(store, prefix, frozenset(name.removeprefix(prefix) for name in names), unreadable)

    @property
    def uri(self) -> str:
        """Where the folder is, without a slash at the end."""
        return f"{self.store.uri}/{self.prefix}".rstrip("/")

    def get(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return self.store.get(self.prefix + name)

    def reading(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which errors of the file are noted."""
        return note_unreadable(self.unreadable, name)

"""Delete the contact sheet of a batch that shows images which are no longer part of it."""

from jobs.storage.base import ObjectStore
from jobs.storage.key_layout import CONTACT_SHEET


def delete_contact_sheet(store: ObjectStore, folder: str) -> None:
    """Delete the sheet in a batch's folder, if there is one; the next `nightmill run` draws it anew."""
    store.delete(f"{folder}/{CONTACT_SHEET}")

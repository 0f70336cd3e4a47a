"""Claim a batch's output folder while its manifest is ingested."""

from contextlib import suppress

from console.session import Session, s3_options
from console.terminal.output import note
from jobs.errors import ForeignOutputError, ObjectStoreError, OutputGoneError
from jobs.outputs.mount_marker import open_output
from jobs.outputs.ownership import Owner, claim, disown
from jobs.storage.base import ObjectStore
from jobs.storage.key_layout import is_batch_folder
from jobs.storage.open import lacks_folder, remove_empty_folders
from scheduler.ingest.ingest import Ingested


class BatchFolder:
    """The output folder of a batch that is being ingested; refuses a folder that belongs to another installation."""

    def __init__(self, open_session: Session, output: str) -> None:
        self.session = open_session
        self.output = output
        self._new: tuple[ObjectStore, str, Owner] | None = None
        self._makes_folder = False

    def claim(self, batch: Ingested) -> None:
        """Claim the folder; if the store can't be reached from here, a worker does it before the first image."""
        engine, options = self.session.engine, s3_options(self.session.settings)
        try:
            store = open_output(engine, self.output, options)
            makes_folder = lacks_folder(store, batch.folder)
            owner = claim(engine, store, batch.id, batch.folder)
        except (ForeignOutputError, OutputGoneError):
            raise
        except ObjectStoreError as error:
            note(f"the batch's folder isn't claimed yet, workers will do it: {error}")
            return
        if batch.is_new:
            self._new = (store, batch.folder, owner)
            self._makes_folder = makes_folder

    def give_back(self) -> None:
        """Release the claim of a batch that was not ingested, and remove the folder if the claim has made it."""
        if self._new is None:
            return
        store, folder, owner = self._new
        with suppress(ObjectStoreError):
            disown(store, folder, owner)
            if self._makes_folder:
                remove_empty_folders(store, folder, is_batch_folder)

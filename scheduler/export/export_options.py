"""The options of an export: what its files contain. They are stored with it, so that every shard is written alike."""

from pydantic import BaseModel, ConfigDict


class ExportOptions(BaseModel):
    """Options that decide the bytes of an export's files; a default never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

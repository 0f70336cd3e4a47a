"""The options that `plan`, `submit` and `run` share."""

from dataclasses import dataclass

from console import command_options as options


@dataclass(frozen=True, kw_only=True)
class ManifestOptions:
    """The options of a manifest and of the batch made of it, as typed."""

    manifest: options.Manifest
    out: options.Out = None
    model: options.Model = None
    name: options.Name = None
    set_: options.Set = None
    map_: options.Map = None
    strict: options.Strict = False
    input_format: options.Format = None
    delimiter: options.Delimiter = None
    drop: options.Drop = None
    unique_ids: options.UniqueIds = False
    onto: options.Onto = None
    keep_dropped: options.KeepDropped = False

    @property
    def policy_keys(self) -> dict[str, object]:
        """The policy keys that are options of their own, where they are given."""
        return {}


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(ManifestOptions):
    """These, and how the batch is worked at."""

    priority: options.Priority = None
    window: options.Window = None
    not_before: options.NotBefore = None
    deadline: options.Deadline = None
    canary: options.Canary = None
    reuse: options.Reuse = None
    on_end: options.OnEnd = None
    yes: options.Yes = False
    format: options.ExportFormats = None

    @property
    def policy_keys(self) -> dict[str, object]:
        """The policy keys that are options of their own, where they are given."""
        keys = "priority", "window", "not_before", "deadline", "canary", "reuse", "on_end"
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

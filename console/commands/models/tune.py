"""`nightmill models tune`: measure the best batch size of a model on this machine."""

import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.command_options import Json
from console.terminal.output import note, print_json, print_line, print_table
from jobs.errors import UsageError
from jobs.settings import Settings, load_settings
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.optional_packages import require
from models.runtime.batch_size_profile import MOST, Capacity, Profile, Site, find
from models.store.resolve_checkpoint import resolve

if TYPE_CHECKING:
    from models.runtime.device import Device
    from models.runtime.memory_options import MemoryOptions

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def tune(
    model: Annotated[str, typer.Argument(help="id or alias")],
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="pixels; default: the model's own size")
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=256, help="no more images at once than this")] = MOST,
    forget: Annotated[
        bool, typer.Option("--forget", help="drop what was found for the model instead")
    ] = False,
    as_json: Json = False,
) -> None:
    """Try how many images the model draws at once at the best speed, and keep that for the workers here."""
    settings = load_settings()
    catalogue = Catalogue.load(settings.models_path)
    card = catalogue.get(model)
    profile = Profile(catalogue.models_dir)
    if forget:
        _forget(profile, card, as_json)
        return
    if card.family not in ("text2image", "upscaler"):
        raise UsageError(f"{card.id} draws nothing: it is of the family {card.family}")
    width, height = _sides(card, size)
    require("worker")
    site, found = _measured(settings, card, (width, height), most, profile)
    profile.put(site, found)
    if settings.batch_size is not None:
        note(f"NIGHTMILL_BATCH_SIZE={settings.batch_size} stands above what was found")
    if as_json:
        print_json({"device": site.device, "site": str(site), **found.report()})
        return
    print_table(
        ("images at once", "images' steps/s"), [(n, f"{speed:,.1f}") for n, speed in found.tried.items()]
    )
    print_line(f"{site}: {found.rows} at once from now on ({site.device})")


def capacities(profile: Profile, card: Card) -> list[dict[str, Any]]:
    """Return the stored batch sizes of a model on all devices."""
    return [
        {"device": device, "site": name, **found.report()}
        for device, sites in profile.all().items()
        for name, found in sites.items()
        if name.split()[0] == card.id
    ]


def _forget(profile: Profile, card: Card, as_json: bool) -> None:
    count = profile.forget(card.id)
    if as_json:
        print_json({"id": card.id, "forgotten": count})
    else:
        print_line(f"{card.id}: {count} found before, forgotten")


def _sides(card: Card, size: str | None) -> tuple[int, int]:
    if size is None:
        return card.width or card.min_size, card.height or card.min_size
    match = _SIZE.fullmatch(size)
    if match is None:
        raise UsageError(f"--size {size}: write it as 512x512")
    sides = int(match[1]), int(match[2])
    if any(not card.min_size <= side <= card.max_size or side % card.size_multiple for side in sides):
        raise UsageError(
            f"--size {size}: {card.id} takes {card.min_size} to {card.max_size} pixels a side, "
            f"in multiples of {card.size_multiple}"
        )
    return sides


def _measured(
    settings: Settings, card: Card, sides: tuple[int, int], most: int, profile: Profile
) -> tuple[Site, Capacity]:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as workers do: spinning threads slow others down
    from models.runtime.device import pick_device  # noqa: PLC0415 - torch takes a second to import
    from models.runtime.memory_options import MemoryOptions  # noqa: PLC0415

    device = pick_device(settings.device, precision=card.precision)
    memory_options = MemoryOptions.choose(settings.weights, settings.low_memory, device)
    loaded = _loaded(card, settings, device, memory_options)
    site = Site.on(device, card.id, *sides, memory_options.weights)

    def speed(rows: int) -> float:
        note(f"{rows} at once …")
        found: float = loaded.measure_throughput(*sides, rows)
        return found

    with profile.measuring():
        return site, find(speed, most)


def _loaded(card: Card, settings: Settings, device: "Device", memory_options: "MemoryOptions") -> Any:
    from models.families.registry import family_of  # noqa: PLC0415 - imports torch

    note(f"loading {card.id} …")
    checkpoint = resolve(card, settings.models_path)
    return family_of(checkpoint).load(checkpoint, device, memory_options=memory_options)

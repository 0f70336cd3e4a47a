"""Rules and shortcuts for the tests of manifests."""

from collections.abc import Mapping
from pathlib import Path

from jobs.manifest import LoraRules, ModelRules, Reject, Row, RowRules, open_source, read_rows

PAINTER = ModelRules(
    id="painter",
    width=512,
    height=512,
    steps=50,
    guidance_scale=7.5,
    sampler="ddim",
    samplers=frozenset({"ddim", "euler", "euler_ancestral", "pndm"}),
    modes=frozenset({"text2image", "image2image"}),
    upscales=frozenset({4}),
)
SKETCHER = ModelRules("sketcher", 64, 64, 4, 1.0, "euler", frozenset({"euler"}), max_size=128)
FILLER = ModelRules(
    "filler", 512, 512, 50, 7.5, "ddim", frozenset({"ddim"}), modes=frozenset({"text2image", "inpaint"})
)
MODELS = {"painter": PAINTER, "sd15": PAINTER, "sketcher": SKETCHER, "filler": FILLER}
LORAS = {
    "cat": LoraRules("cat", "painter", frozenset({"painter", "filler"})),
    "fog": LoraRules("fog", "painter", frozenset({"painter"})),
}


def rules(
    overrides: Mapping[str, str] | None = None,
    renames: Mapping[str, str] | None = None,
    model: str = "painter",
) -> RowRules:
    return RowRules(MODELS, model, overrides or {}, renames or {}, loras=LORAS)


def read(path: Path, given: RowRules | None = None, format: str | None = None) -> list[Row | Reject]:
    with open_source(str(path), format=format) as manifest:
        return list(read_rows(manifest, given or rules()))


def read_bytes(folder: Path, name: str, data: bytes, given: RowRules | None = None) -> list[Row | Reject]:
    path = folder / name
    path.write_bytes(data)
    return read(path, given)


def only_row(items: list[Row | Reject]) -> Row:
    (item,) = items
    assert isinstance(item, Row), item
    return item


def only_reject(items: list[Row | Reject]) -> Reject:
    (item,) = items
    assert isinstance(item, Reject), item
    return item

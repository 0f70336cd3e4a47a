"""The catalogue: one card, a TOML file, for every model that can be named in a manifest."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from models.cardfile import read_fields
from models.errors import ModelError, UnknownModelError
from models.samplers import SAMPLERS

Family = Literal["text2image", "upscaler", "safety-checker"]
PredictionType = Literal["epsilon", "v_prediction"]
Precision = Literal["float32", "bfloat16", "float16"]

_PACKAGE_CARDS = Path(__file__).parent / "cards"
_SAMPLED = (
    "width",
    "height",
    "size_multiple",
    "min_size",
    "max_size",
    "vae_factor",
    "steps",
    "samplers",
    "modes",
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What nightmill knows of a model. Sizes are pixels; `gflop_per_step` is one UNet row at native size.

    `source` is the checkpoint's folder name under the models folder. `builder` "random" has it built on first
    use, None says that it must be there. `upscaler` and `safety_checker` are ids of other cards.
    A safety checker has no sizes, steps or samplers.
    """

    id: str
    title: str
    family: Family
    summary: str
    license: str
    limits: str
    source: str
    aliases: tuple[str, ...] = ()
    builder: Literal["random"] | None = None
    width: int = 0
    height: int = 0
    size_multiple: int = 0
    min_size: int = 0
    max_size: int = 0
    vae_factor: int = 0
    prediction_type: PredictionType = "epsilon"
    sampler: str = ""
    samplers: tuple[str, ...] = ()
    steps: int = 0
    guidance_scale: float = 0.0
    modes: tuple[str, ...] = ()
    precision: Precision = "float32"
    upscaler: str | None = None
    safety_checker: str | None = None
    gflop_per_step: float = 0.0


@dataclass(frozen=True)
class Catalogue:
    """All cards; `names` maps every id and alias, in lower case, to its card."""

    names: dict[str, Card]
    models_dir: Path

    @classmethod
    def load(cls, models_dir: Path) -> Self:
        """Reads the package's cards, then the user's `models_dir`/cards/*.toml.

        Raises ModelError naming the file when a card is wrong, uses a taken name or points to no card.
        """
        names: dict[str, Card] = {}
        origin: dict[str, Path] = {}
        for path in (*_card_files(_PACKAGE_CARDS), *_card_files(models_dir / "cards")):
            card = read_card(path)
            for name in (card.id, *card.aliases):
                if name.casefold() in names:
                    raise ModelError(f"{path}: the name {name!r} is taken by {origin[name.casefold()]}")
                names[name.casefold()], origin[name.casefold()] = card, path
        for card in names.values():
            _check_links(card, names, origin[card.id.casefold()])
        return cls(names, models_dir)

    def get(self, id_or_alias: str) -> Card:
        """The card with this id or alias, whatever its case. Raises UnknownModelError with a suggestion."""
        name = id_or_alias.strip().casefold()
        if name in self.names:
            return self.names[name]
        close = difflib.get_close_matches(name, self.names, n=1)
        hint = (
            f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(c.id for c in self.cards())}."
        )
        own = self.models_dir / "cards"
        raise UnknownModelError(
            f"no model is called {id_or_alias!r}. {hint} A card of your own goes into {own}."
        )

    def cards(self) -> list[Card]:
        """Every card once, the package's first."""
        return list(dict.fromkeys(self.names.values()))

    def ids_and_aliases(self) -> dict[str, Card]:
        """Every lower-case id and alias with its card."""
        return dict(self.names)


def read_card(path: Path) -> Card:
    """Reads one card. Raises ModelError saying which file and field is wrong."""
    card = Card(**read_fields(path, Card))
    problem = _problem(card)
    if problem:
        raise ModelError(f"{path}: {problem}")
    return card


def _card_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"), key=lambda path: path.stem)


def _problem(card: Card) -> str | None:
    if card.source in {"", ".", ".."} or any(sign in card.source for sign in "/\\\0"):
        return f"source must be the name of a folder under the models folder, not {card.source!r}"
    if card.family == "safety-checker":
        return None
    missing = [name for name in (*_SAMPLED, "sampler") if not getattr(card, name)]
    if missing:
        return f"a model of the family {card.family} needs {', '.join(missing)}"
    unknown = [name for name in card.samplers if name not in SAMPLERS]
    if unknown:
        return f"unknown sampler {unknown[0]!r}; there are {', '.join(SAMPLERS)}"
    if card.sampler not in card.samplers:
        return f"sampler {card.sampler!r} is not one of its samplers"
    return _size_problem(card)


def _size_problem(card: Card) -> str | None:
    if card.size_multiple % card.vae_factor:
        return f"size_multiple {card.size_multiple} must be a multiple of vae_factor {card.vae_factor}"
    for name in ("width", "height"):
        size = getattr(card, name)
        if size % card.size_multiple or not card.min_size <= size <= card.max_size:
            allowed = f"a multiple of {card.size_multiple} in {card.min_size}..{card.max_size}"
            return f"{name} {size} must be {allowed}"
    return None


def _check_links(card: Card, names: dict[str, Card], path: Path) -> None:
    for field, family in (("upscaler", "upscaler"), ("safety_checker", "safety-checker")):
        target = getattr(card, field)
        if target is not None and (
            target.casefold() not in names or names[target.casefold()].family != family
        ):
            raise ModelError(f"{path}: {field} {target!r} is not the id of a card of the family {family}")

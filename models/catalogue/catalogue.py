"""The model catalogue: one card, a TOML file, for every model that a manifest can name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models.catalogue.card import Card
from models.catalogue.nearest_name import nearest
from models.catalogue.read_card import read_card
from models.errors import ModelError, UnknownModelError

_PACKAGE_CARDS = Path(__file__).parents[1] / "cards"
_LINKS = {
    "upscaler": "upscaler",
    "safety_checker": "safety-checker",
    "clip": "clip",
    "decoder": "decoder",
    "base": "text2image",
}


@dataclass(frozen=True)
class Catalogue:
    """All cards; `names` maps every id and alias, in lower case, to its card."""

    names: dict[str, Card]
    models_dir: Path

    @classmethod
    def load(cls, models_dir: Path) -> Self:
        """Read the package's cards, then the user's `models_dir`/cards/*.toml.

        Raises ModelError naming the file when a card is invalid, uses a taken name or refers to a missing card.
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
            amiss = _link_problem(card, names)
            if amiss:
                raise ModelError(f"{origin[card.id.casefold()]}: {amiss}")
        return cls(names, models_dir)

    def get(self, id_or_alias: str) -> Card:
        """Return the card with this id or alias, ignoring case. Raises UnknownModelError with a suggestion."""
        name = id_or_alias.strip().casefold()
        if name in self.names:
            return self.names[name]
        close = nearest(name, self.names)
        hint = f"Did you mean {close!r}?" if close else f"There are {', '.join(c.id for c in self.cards())}."
        own = self.models_dir / "cards"
        raise UnknownModelError(
            f"no model is called {id_or_alias!r}. {hint} A card of your own goes into {own}."
        )

    def cards(self) -> list[Card]:
        """Return every card once, the package's first."""
        return list(dict.fromkeys(self.names.values()))

    def ids_and_aliases(self) -> dict[str, Card]:
        """Return every lower-case id and alias with its card."""
        return dict(self.names)


def _link_problem(card: Card, names: Mapping[str, Card]) -> str | None:
    """Return the problem if the card refers to a missing card or a wrong family, or None. Keys are lower case."""
    for field, family in _LINKS.items():
        target = getattr(card, field)
        if target is not None and (
            target.casefold() not in names or names[target.casefold()].family != family
        ):
            return f"{field} {target!r} is not the id of a card of the family {family}"
    return None


def _card_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"), key=lambda path: path.stem)

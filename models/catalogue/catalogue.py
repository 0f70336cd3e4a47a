"""The catalogue: one card, a TOML file, for every model that can be named in a manifest."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from models.catalogue.toml_fields import read_fields
from models.catalogue.validate import link_problem, problem
from models.errors import ModelError, UnknownModelError

Family = Literal["text2image", "upscaler", "safety-checker", "clip", "decoder", "lora"]
PredictionType = Literal["epsilon", "v_prediction"]
Precision = Literal["float32", "bfloat16", "float16"]

_PACKAGE_CARDS = Path(__file__).parents[1] / "cards"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What nightmill knows of a model. Sizes are pixels; `gflop_per_step` is one UNet row at native size.

    Its files: `path`, an absolute folder or .safetensors file of the user's, or else the folder `source` under
    the models folder. `builder` "random" has that folder built on first use; "package" finds it in nightmill
    itself, under models/shapes/weights; None says that it is pulled or put there. `sources` are where it is
    pulled from, in that order, as "repository" or "repository@commit"; `withdrawn` are never asked again.
    `parts` are the folders of a repository that this model is, laid together; `variant` is the one to take of
    its weights where there are no others in safetensors.

    `upscaler`, `safety_checker`, `clip`, `decoder` and `base` are ids of other cards; a single file and a LoRA take
    from `base` what they don't hold themselves. A `decoder` makes pictures of the same latents, quicker. Only the
    families text2image and upscaler have sizes, steps and samplers. `strength` is how far a picture goes from the
    given one; noise levels are of upscalers.
    """

    id: str
    title: str
    family: Family
    summary: str
    license: str
    limits: str
    source: str = ""
    path: str | None = None
    builder: Literal["random", "package"] | None = None
    sources: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    variant: Literal["fp16"] | None = None
    base: str | None = None
    aliases: tuple[str, ...] = ()
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
    strength: float = 0.8
    noise_level: int = 20
    max_noise_level: int = 350
    modes: tuple[str, ...] = ()
    precision: Precision = "float32"
    upscaler: str | None = None
    safety_checker: str | None = None
    clip: str | None = None
    decoder: str | None = None
    gflop_per_step: float = 0.0
    license_url: str = ""
    use_restrictions: str = ""
    training_data: str = ""
    hardware: str = ""
    hardware_hours: int = 0
    co2_kg: float = 0.0


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
            amiss = link_problem(card, names)
            if amiss:
                raise ModelError(f"{origin[card.id.casefold()]}: {amiss}")
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
    amiss = problem(card)
    if amiss:
        raise ModelError(f"{path}: {amiss}")
    return card


def _card_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"), key=lambda path: path.stem)

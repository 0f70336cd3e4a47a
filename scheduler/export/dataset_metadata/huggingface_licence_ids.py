"""Licences of models as the Hugging Face hub names them."""

from collections.abc import Collection

from models.catalogue.card import Card

_HUB = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CreativeML OpenRAIL-M": "creativeml-openrail-m",
    "CreativeML OpenRAIL++-M": "openrail++",
}


def hub_licence(cards: Collection[Card]) -> str:
    """Return the licence of what these models made: theirs, if they have one that the hub knows, else `other`."""
    found = {_HUB.get(card.license, "other") for card in cards}
    return found.pop() if len(found) == 1 else "other"


def licence_url(cards: Collection[Card]) -> str:
    """Return where the first licence is that has an address, else the SPDX list."""
    addresses = [card.license_url for card in cards if card.license_url]
    return addresses[0] if addresses else "https://spdx.org/licenses/Apache-2.0.html"

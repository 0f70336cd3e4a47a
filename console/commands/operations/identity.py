"""`nightmill identity`: the key and certificates that image files are signed with (C2PA)."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from console.command_options import DontAsk, Json
from console.signing_identity.describe_identity import described, token_of
from console.signing_identity.identity_folder import IdentityFolder
from console.terminal.confirm import ask
from console.terminal.output import note, plural, print_json, print_table
from jobs.errors import UsageError
from jobs.settings import Settings, load_settings
from jobs.signing_identity.find_identity_file import read_if_there, read_limited
from models.errors import SigningIdentityError
from models.optional_packages import require
from models.provenance.pkcs11_uri import SCHEME

identity = typer.Typer(
    help="The key and certificates that image files are signed with.",
    no_args_is_help=True,
    add_completion=False,
)

AUTHORITY_DAYS = 7300
DAYS = 3650
_LONGEST_NAME = 60
_UNTIL_RESTART = (
    "workers that start from then on don't sign; those that are up sign on by what they have read, until "
    "`nightmill up --restart` or their end"
)

Days = Annotated[
    int, typer.Option(min=1, max=AUTHORITY_DAYS, metavar="N", help="how long the certificate is valid")
]


@identity.command()
def create(
    organization: Annotated[
        str, typer.Option(metavar="NAME", help="who signs, as readers of the files see it")
    ] = "nightmill",
    days: Days = DAYS,
    as_json: Json = False,
) -> None:
    """Make a certificate authority and a key with a certificate by it; files are signed from then on."""
    from models.provenance.signing_identity import Authority  # noqa: PLC0415 - needs the worker's packages

    settings, folder = _opened()
    if not organization.isprintable() or not 1 <= len(organization.strip()) <= _LONGEST_NAME:
        raise UsageError(f"--organization must have 1 to {_LONGEST_NAME} printable characters")
    if folder.identity.exists():
        raise UsageError(f"{folder.identity} is there: `nightmill identity rotate` makes a new key")
    folder.make()
    authority = Authority.create(organization.strip(), AUTHORITY_DAYS)
    made = authority.issue(days)
    folder.trust(authority.certificate)
    folder.write(folder.authority_key, authority.key, 0o600)
    folder.write(folder.identity, made.pem, 0o600)
    _tell_made(settings, folder, as_json)


@identity.command()
def show(as_json: Json = False) -> None:
    """What files are signed with, and until when; exit 1 if there is nothing, or it can't be used."""
    require("worker", instead="files are signed where workers are installed")
    told = described(load_settings())
    if as_json:
        print_json(told)
    elif told["place"] is None:
        note("there is no signing identity: `nightmill identity create` makes one")
    else:
        print_table(("", ""), [(name.replace("_", " "), value) for name, value in told.items()])
    if not told["is_usable"]:
        raise typer.Exit(1)


@identity.command()
def rotate(
    days: Days = DAYS,
    new_authority: Annotated[
        bool, typer.Option("--new-authority", help="make a new authority, too; the former stays trusted")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a new key with a certificate by the same authority; workers take it over within an hour."""
    from models.provenance.signing_identity import Authority, organization_of  # noqa: PLC0415 - the same

    settings, folder = _opened()
    if not folder.identity.exists():
        raise UsageError(f"{folder.identity} isn't there: `nightmill identity create` makes it")
    place = str(folder.identity)
    former = _parsed(read_limited(folder.identity, place), place, is_to_sign=False)
    if former.token is not None:
        raise UsageError(
            f"{place}: its key is in a token ({former.token.place}), where nightmill makes none: make a key and have a "
            "certificate issued for it there, and take both over by `nightmill identity import --replace`"
        )
    if new_authority:
        authority = Authority.create(organization_of(former.leaf), AUTHORITY_DAYS)
        folder.trust(authority.certificate)
        folder.write(folder.authority_key, authority.key, 0o600)
    else:
        authority = _authority_of(former, folder)
    folder.write(folder.identity, authority.issue(days).pem, 0o600)
    _tell_made(settings, folder, as_json)


@identity.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="PEM", help="certificates, the signer's and those of its issuers")
    ],
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="PEM|URI",
            help="private key, if it is in a file of its own, or in a token: pkcs11:token=…;object=…?module-path=…",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="in the place of the identity that is there")
    ] = False,
    as_json: Json = False,
) -> None:
    """Use a key and certificates of one's own, as an authority issued them for signing C2PA claims or documents.

    A key in a token (PKCS#11) stays there: its URI is kept, and something is signed to see that it is that of the
    certificates.
    """
    from models.provenance.signing_identity import authority_of  # noqa: PLC0415 - the same

    settings, folder = _opened()
    if folder.identity.exists() and not replace:
        raise UsageError(f"{folder.identity} is there: say --replace to use another one from now on")
    given, place = read_limited(file, str(file)), str(file)
    if key is not None and key.startswith(SCHEME):
        given, place = key.encode() + b"\n" + given, f"{file} with a key in a token"
    elif key is not None:
        given, place = given + b"\n" + read_limited(Path(key), key), f"{file} with {key}"
    found = _parsed(given, place, is_to_sign=True)
    folder.make()
    authority = authority_of(found, given)
    folder.trust(authority)
    folder.write(folder.identity, found.pem, 0o600)
    _tell_made(settings, folder, as_json)
    if not authority and not _trusts_authority_of(found, folder):
        note(
            f"{file} doesn't have the certificate of the authority itself: until `nightmill verify --trust` is given "
            "it, its signatures count as those of a stranger"
        )


@identity.command()
def delete(yes: DontAsk = False, as_json: Json = False) -> None:
    """Delete the keys that `create` or `import` put there; files that were signed stay valid and trusted.

    A key in a token stays there.
    """
    _, folder = _opened()
    if not folder.identity.exists():
        raise UsageError(f"{folder.identity} isn't there")
    if not yes:
        ask(f"deletes the private keys in {folder.path}; {_UNTIL_RESTART}")
    kept = token_of(folder)
    deleted = [str(file) for file in folder.delete_keys()]
    if as_json:
        print_json({"deleted": deleted, "kept": kept})
    else:
        if kept is not None:
            note(f"the key stays in its token: {kept}")
        note(f"{plural(len(deleted), 'file')} deleted; {folder.trusted} stays; {_UNTIL_RESTART}")


def _opened() -> tuple[Settings, IdentityFolder]:
    require("worker", instead="files are signed where workers are installed")
    settings = load_settings()
    return settings, IdentityFolder(settings)


def _parsed(pem: bytes, place: str, *, is_to_sign: bool) -> Any:
    from models.provenance.signing_identity import SigningIdentity  # noqa: PLC0415 - the same

    try:
        if not is_to_sign:
            return SigningIdentity.parse(pem)
        found = SigningIdentity.parse_valid(pem)
        found.check_signs()
        return found
    except SigningIdentityError as error:
        raise UsageError(f"{place}: {error}") from None


def _authority_of(former: Any, folder: IdentityFolder) -> Any:
    """Return the authority that has issued an identity, if it is one of this folder's."""
    from models.provenance.signing_identity import Authority  # noqa: PLC0415 - the same

    key = read_if_there(folder.authority_key, str(folder.authority_key))
    trusted = read_if_there(folder.trusted, str(folder.trusted))
    if key is not None and trusted is not None:
        with suppress(SigningIdentityError):
            return Authority.of(former, trusted, key)
    raise UsageError(
        f"the certificate in {folder.identity} is by an authority whose key isn't in {folder.path}: that one makes the "
        "next certificate, which `nightmill identity import --replace` takes over; or --new-authority makes one here"
    )


def _trusts_authority_of(found: Any, folder: IdentityFolder) -> bool:
    """Return whether the authority that has issued an identity is trusted already, as by an import before."""
    from models.provenance.signing_identity import authority_of  # noqa: PLC0415 - the same

    trusted = read_if_there(folder.trusted, str(folder.trusted))
    with suppress(ValueError):  # no certificates
        return bool(authority_of(found, trusted or b""))
    return False


def _tell_made(settings: Settings, folder: IdentityFolder, as_json: bool) -> None:
    own = settings.model_copy(update={"signing_identity": None})
    told = described(own)
    if as_json:
        print_json(told)
        return
    note(
        f"{folder.identity}: signs as {told['organization']} until {told['expires_at']}; workers that sign take it "
        "over within an hour, others after a restart"
    )
    if folder.trusted.exists():
        note(f"{folder.trusted}: give a copy to whoever is to check your signatures")
    if settings.signing_identity is not None:
        note("NIGHTMILL_SIGNING_IDENTITY names another identity, which is used instead")

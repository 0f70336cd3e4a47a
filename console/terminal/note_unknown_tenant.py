"""Say that nobody is known by the name that `--tenant` gives, as what follows has nothing then."""

from sqlalchemy import Engine

from console.terminal.output import note
from jobs.queue.tenants import tenant_names
from jobs.suggest_names_and_shorten_lists import nearest


def note_unknown_tenant(engine: Engine, tenant: str | None) -> None:
    """Say so if no tenant has this name, and which one may be meant."""
    if tenant is None or tenant in (names := tenant_names(engine)):
        return
    near = nearest(tenant, filter(None, names))
    note(f"no tenant is called {tenant!r}" + (f": did you mean {near!r}?" if near else ""))

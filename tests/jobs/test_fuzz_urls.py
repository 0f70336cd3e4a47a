"""Any URL for the settings: taken, or refused by the setting's name and without what may be a password."""

import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from jobs.db.engine import connect
from jobs.errors import UsageError
from jobs.settings import load_settings
from tests.fuzz import mutants

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SECRET = "hunter2"
DATABASE = f"postgresql://ada:{SECRET}@[::1]:5432/nightmill?sslmode=require&application_name=x".encode()
BROKER = f"rediss://ada:{SECRET}@host:6379/0?ssl_cert_reqs=required".encode()
SOCKET = f"redis+socket://:{SECRET}@/run/redis.sock?virtual_host=1".encode()
ENDPOINT = b"https://host:9000"


def text(valid: bytes) -> st.SearchStrategy[str]:
    """Mutants of a URL as an environment variable has them."""
    return mutants(valid).map(lambda body: body.decode(errors="surrogateescape")) | st.text(max_size=80)


def refused(name: str, value: str) -> str:
    """What is said of a setting's value; empty where it is taken."""
    try:
        found = load_settings(**{name: value})
        if found.database_url is not None:
            connect(found.database).dispose()
    except UsageError as error:
        return str(error)
    return ""


@seed(20_261_128)
@settings(max_examples=700, deadline=None, database=None)
@given(
    st.tuples(st.just("database_url"), text(DATABASE))
    | st.tuples(st.just("broker_url"), text(BROKER) | text(SOCKET))
    | st.tuples(st.just("s3_endpoint_url"), text(ENDPOINT))
)
@example(("database_url", DATABASE.decode()))
@example(("broker_url", SOCKET.decode()))
def test_any_url_is_taken_or_refused_without_its_contents(setting: tuple[str, str]) -> None:
    said = refused(*setting)
    assert SECRET not in said
    assert not said or f"NIGHTMILL_{setting[0].upper()}" in said

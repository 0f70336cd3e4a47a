"""The address on which a process serves its metrics: HOST:PORT."""

import re
from dataclasses import dataclass
from typing import Self

VARIABLE = "NIGHTMILL_METRICS_ADDRESS"
_FORM = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]/@]+)):(?P<port>[0-9]{1,5})")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A host, which may be an IPv6 address, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address; raises ValueError if it isn't one."""
        found = _FORM.fullmatch(text)
        if found is None or not 0 < int(found["port"]) <= _LAST_PORT:
            raise ValueError("must be HOST:PORT, as in 0.0.0.0:9464, 127.0.0.1:9464 or [::1]:9464")
        return cls(found["six"] or found["host"], int(found["port"]))

    def moved(self, ports: int) -> Self:
        """Return the address that many ports further; raises ValueError if there is none."""
        return type(self).parse(str(type(self)(self.host, self.port + ports)))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

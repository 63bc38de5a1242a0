"""Several hosts that train one network together: what the variables of Keras say about them.

The same command is started once on each host. The variables are those that `keras.distribution.initialize` reads.
"""

import os
from dataclasses import dataclass

from tlcli.errors import UsageError

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
NUMBER = "KERAS_DISTRIBUTION_PROCESS_ID"


@dataclass(frozen=True)
class Host:
    """This process among several that train together.

    Attributes:
        address: Where the first process waits for the others, `HOST:PORT`.
        count: Number of processes, at least 2.
        number: Number of this one, from 0.
    """

    address: str
    count: int
    number: int

    @property
    def is_first(self) -> bool:
        """True for the process that writes the run folder."""
        return self.number == 0


def this_host() -> Host | None:
    """This process among several hosts; None if it trains alone.

    Raises:
        UsageError: If the variables contradict each other.
    """
    count = _number(COUNT, 1, least=1)
    if count == 1:
        return None
    number = _number(NUMBER, None, least=0)
    if number >= count:
        raise UsageError(f"must be below {COUNT}={count} (got {number})", where=NUMBER, hint="Hosts count from 0.")
    first, *others = os.environ.get(ADDRESSES, "").split(",")
    if others and len(others) + 1 != count:
        hint = "Name the first host alone, or all of them."
        raise UsageError(f"names {len(others) + 1} addresses for {COUNT}={count}", where=ADDRESSES, hint=hint)
    name, _, port = first.strip().rpartition(":")
    if not (name and port.isdigit()):
        hint = "Give HOST:PORT of the first host, on all of them."
        raise UsageError(f"is no address (got '{first}')", where=ADDRESSES, hint=hint)
    return Host(first.strip(), count, number)


def _number(name: str, default: int | None, *, least: int) -> int:
    text = os.environ.get(name, "" if default is None else str(default)).strip()
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"must be a whole number from {least} (got '{text}')", where=name, hint=f"Unset {COUNT}, too.")
    return int(text)

"""Protocols of evaluations in words, and in what they differ."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

HASH_TEXT = (
    "The protocol hash is a digest of the whole protocol: only figures under the same hash were measured in the same "
    "way, and may be ranked."
)
HASH_DIGITS = 8
"""Of the hash, where it only has to tell a few protocols from each other."""


def fact_text(value: Any) -> str:
    """Return a value of a protocol in full, as `0.1, 1.0` or `none`."""
    if value is None or value in ("", []):
        return "none"
    if isinstance(value, list):
        return ", ".join(map(fact_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differing(protocols: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that not all protocols have with the same value, as their hashes see it."""
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    return [key for key in keys if len({_seen(protocol, key) for protocol in protocols}) > 1]


def _seen(protocol: Mapping[str, Any], key: str) -> str | None:
    # For the hash 1 is not 1.0 and not true, which Python's == takes for one another.
    return json.dumps(protocol[key], sort_keys=True) if key in protocol else None

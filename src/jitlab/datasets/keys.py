"""Keys of samples: what WebDataset tells the members of a tar file apart by."""

import re
from typing import Any

import numpy as np

from jitlab.datasets.shards import LONGEST_KEY

Keys = np.ndarray[Any, np.dtype[np.bytes_]]


def key_of_name(class_name: str, name: str) -> str:
    """Return a key for an image: its file's stem, with the class in front where it does not begin with it.

    WebDataset ends a key at the first dot and takes slashes for folders; whatever is no letter, digit, `-` or `_` of
    ASCII becomes `_`. At most `LONGEST_KEY` characters.
    """
    stem = name.rpartition(".")[0] or name
    whole = stem if not class_name or stem.startswith(class_name) else f"{class_name}_{stem}"
    return re.sub(r"[^A-Za-z0-9_-]", "_", whole)[:LONGEST_KEY]


def told_apart(keys: Keys) -> Keys:
    """Return the keys with a number behind each that has come before: a, a, b, a become a, a-2, b, a-3."""
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    repeated = np.flatnonzero(~first)
    if not len(repeated):
        return keys
    taken, last = set(keys.tolist()), dict[bytes, int]()
    changed = keys.astype(f"S{LONGEST_KEY}")
    for place in repeated:
        key = bytes(keys[place])
        number, new = last.get(key, 1), key
        while new in taken:
            number += 1
            suffix = b"-%d" % number
            new = key[: LONGEST_KEY - len(suffix)] + suffix
        last[key] = number
        taken.add(new)
        changed[place] = new
    return changed

"""Damage: what disks, editors and wires do to bytes."""

import numpy as np

SPLICES = [
    b",",
    b";",
    b"\t",
    b"\n",
    b"\r",
    b'"',
    b"'",
    b":",
    b"@",
    b"?",
    b"nan",
    b"inf",
    b"1e39",
    b"\0",
    b"\xff",
    b"_",
]
SPLICES += [b" ", b".", b"-", b"0", b"9" * 400, b"@data\n", b"{", b"\xef\xbb\xbf", b"\xff\xfe", b"T", b"Z", b"%"]


def pick(generator: np.random.Generator, choices):
    """Return one of the choices."""
    return choices[int(generator.integers(len(choices)))]


def changed_bytes(content: bytes, generator: np.random.Generator) -> bytes:
    """Return content after one to four changes: flipped, deleted, inserted, repeated, cut off, spliced."""
    changed = bytearray(content)
    for _ in range(pick(generator, (1, 1, 1, 2, 4))):
        place = int(generator.integers(max(len(changed), 1)))
        length = int(generator.integers(1, 13))
        kind = pick(generator, ("flip", "delete", "insert", "repeat", "cut", "splice"))
        if kind == "flip" and changed:
            changed[place] ^= 1 << int(generator.integers(8))
        elif kind == "delete":
            del changed[place : place + length]
        elif kind == "insert":
            changed[place:place] = generator.bytes(int(generator.integers(1, 5)))
        elif kind == "repeat":
            changed[place:place] = changed[place : place + length]
        elif kind == "cut":
            del changed[place:]
        else:
            changed[place:place] = pick(generator, SPLICES)
    return bytes(changed)


def changed_text(text: str, generator: np.random.Generator, marks, first=0, longest=2) -> str:
    """Return text with a mark in the place of up to `longest` characters, not before the character `first`."""
    place = int(generator.integers(first, len(text)))
    return text[:place] + pick(generator, marks) + text[place + int(generator.integers(longest + 1)) :]

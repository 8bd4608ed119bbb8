"""Damage as it happens to files, and as an attacker would do it."""

from __future__ import annotations

import random
import struct
import zlib

_LENGTHS = (0, 1, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PNG = b"\x89PNG\r\n\x1a\n"


def damage(content: bytes, chance: random.Random) -> bytes:
    """Damage a file's contents in one to three ways, half of them near its beginning, where its structure is."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        chance.choice(_WAYS)(data, chance)
    if data.startswith(_PNG) and chance.random() < 0.5:
        return _with_checksums(bytes(data))
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(max(1, min(len(data), 256) if chance.random() < 0.5 else len(data)))


def _flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if data:
            data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _repeat_chunk(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    chunk = bytes(data[start : start + chance.randint(1, 200)])
    where = start if chance.random() < 0.5 else _place(data, chance)
    data[where:where] = chunk * chance.choice((1, 2, 50))


def _write_wrong_length(data: bytearray, chance: random.Random) -> None:
    width = chance.choice("BHI")
    value = chance.choice((*_LENGTHS, len(data))) & (256 ** struct.calcsize(width) - 1)
    length = struct.pack(chance.choice("<>") + width, value)
    start = _place(data, chance)
    data[start : start + len(length)] = length


def _write_zeros(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    end = min(len(data), start + chance.choice((1, 4, 16, 100, 1000)))
    data[start:end] = bytes(end - start)


def _swap_parts(data: bytearray, chance: random.Random) -> None:
    first, second, third = sorted(_place(data, chance) for _ in range(3))
    data[first:third] = data[second:third] + data[first:second]


_WAYS = (_flip_bits, _cut, _repeat_chunk, _write_wrong_length, _write_zeros, _swap_parts)


def _with_checksums(content: bytes) -> bytes:
    """Make the checksums of a PNG right again, so that the damage reaches what is behind them."""
    parts, position = [_PNG], len(_PNG)
    while position + 12 <= len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        chunk = content[position + 4 : position + 8 + length]
        parts += [content[position : position + 4], chunk, struct.pack(">I", zlib.crc32(chunk))]
        position += 12 + length
    return b"".join(parts) + content[position:]

"""CRC-32C (Castagnoli; RFC 3720, appendix B.4), vectorised with numpy.

A message is a polynomial over GF(2), its first bit the highest power, and its checksum depends on the remainder alone.
Multiples of the divisor may therefore be added freely. One of them has four terms only, x^6777 + x^484 + x^100 + 1; so
has each of its squares, whose exponents are those times a power of two. With them the front of a long message is folded
into what follows, by three exclusive ors of whole stretches of bytes, until a few thousand bytes are left.

Those are checked in pairs of bytes by a table. Two neighbours are joined by a 32 x 32 bit matrix (what the bytes of the
right one make of the left one's register), then two neighbours of these, and so on.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import UInt8, UInt32

_POLYNOMIAL = 0x82F63B78
"""0x1EDC6F41 with its bits reversed."""
_EXPONENTS = (6777, 484, 100, 0)
"""Of a multiple of the polynomial, found by search. A byte is 8 = 2**3 bits, so they also count bytes."""
_WORD_BYTES = 2
_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of some bytes, 0 to 2**32 - 1."""
    size = len(data)
    rest = _folded(np.frombuffer(data, np.uint8))
    lanes = 1 << max(0, (max(rest.size, 1) - 1) // _WORD_BYTES).bit_length()
    # Zeros in front do not change a register that starts at zero; so the number of pairs can be a power of two.
    padded = np.zeros(lanes * _WORD_BYTES, np.uint8)
    padded[padded.size - rest.size :] = rest
    register = _two_byte_table()[padded.view("<u2")]
    level = 0
    while len(register) > 1:
        register = _apply(_skip_tables(level), register[0::2]) ^ register[1::2]
        level += 1
    return (int(register[0]) ^ _skip(_ONES, size)) ^ _ONES


def _folded(message: UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "m"]:
    """The end of a message to which its front has been added: no longer than 6777 bytes, with the same remainder."""
    highest, *others = _EXPONENTS
    if message.size <= highest:
        return message
    message, start = message.copy(), 0
    scale = 1 << ((message.size - 1) // highest).bit_length() - 1
    while scale:
        while (excess := message.size - start - highest * scale) > 0:
            # Where it is added, nothing of it is left: so a stretch is at most as long as the nearest place is far.
            count = min(excess, (highest - others[0]) * scale)
            for exponent in others:
                place = start + (highest - exponent) * scale
                message[place : place + count] ^= message[start : start + count]
            start += count
        scale //= 2
    return message[start:]


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ONES


def _shifted(register: UInt32[np.ndarray, "n"], steps: int) -> UInt32[np.ndarray, "n"]:
    """The registers after that many zero bits."""
    for _ in range(steps):
        register = (register >> np.uint32(1)) ^ (np.uint32(_POLYNOMIAL) * (register & np.uint32(1)))
    return register


@lru_cache(maxsize=1)
def _two_byte_table() -> UInt32[np.ndarray, "65536"]:
    """The register after 16 zero bits, for each of its lower halves."""
    return _shifted(np.arange(1 << 16, dtype=np.uint32), 16)


@lru_cache(maxsize=64)
def _power(exponent: int) -> UInt32[np.ndarray, "32"]:
    """The matrix for 2**exponent zero bytes: the image of each bit."""
    if exponent == 0:
        return _shifted(np.uint32(1) << np.arange(32, dtype=np.uint32), 8)
    half = _power(exponent - 1)
    return np.array([_product(half, int(column)) for column in half], np.uint32)


def _product(matrix: UInt32[np.ndarray, "32"], register: int) -> int:
    bits = (register >> np.arange(32)) & 1
    return int(np.bitwise_xor.reduce(matrix[bits.astype(bool)], initial=0))


def _skip(register: int, num_bytes: int) -> int:
    """The register after that many zero bytes."""
    exponent = 0
    while num_bytes:
        if num_bytes & 1:
            register = _product(_power(exponent), register)
        num_bytes >>= 1
        exponent += 1
    return register


@lru_cache(maxsize=32)
def _skip_tables(level: int) -> UInt32[np.ndarray, "4 256"]:
    """Tables that apply the matrix for `_WORD_BYTES * 2**level` zero bytes, one for each byte of a register."""
    matrix = _power((_WORD_BYTES << level).bit_length() - 1)
    values = np.arange(256, dtype=np.uint32)
    tables = np.zeros((4, 256), np.uint32)
    for byte in range(4):
        for bit in range(8):
            tables[byte] ^= np.where((values >> np.uint32(bit)) & 1, matrix[8 * byte + bit], np.uint32(0))
    return tables


def _apply(tables: UInt32[np.ndarray, "4 256"], register: UInt32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    result = tables[0][register & 0xFF]
    for byte in range(1, 4):
        result = result ^ tables[byte][(register >> np.uint32(8 * byte)) & 0xFF]
    return result

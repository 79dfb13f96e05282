"""What H.265 needs for two encoders' packets to lie in one track (ISO/IEC 14496-15): parameter sets with numbers of
their own, all announced in the track's header.

Its encoder numbers its sets 0 and cannot be told another number, so they are renumbered here. A number from 15 to 30
takes nine bits where 0 takes one: what follows it moves by a whole byte, and nothing else of a slice has to be
understood.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from . import avc

VPS, SPS, PPS = SETS = 32, 33, 34  # kinds of units
IDR, REFRESHING, SLICES = (19, 20), range(16, 24), range(32)
PROFILES = {1: "main", 2: "main10"}
OURS = (
    15  # of the VPS and the SPS; of the PPS one of these, whose last bit keeps a byte from being 0
)
PPS_NUMBERS = range(30, 15, -2)


@dataclass(frozen=True)
class Header:
    """An HEVCDecoderConfigurationRecord with lengths of four bytes."""

    codec = "h265"
    head: bytes  # what stands before the units
    arrays: tuple[tuple[int, tuple[bytes, ...]], ...]  # a kind and its units, in order
    inside: set[bytes] = field(default_factory=set)  # parameter sets that packets hold

    @classmethod
    def parsed(cls, data: bytes) -> "Header":
        """Raises ValueError for what is none."""
        if len(data) < 23 or data[0] != 1 or data[21] & 3 != 3:
            raise ValueError("its header is not one that can be added to")
        at, found = 23, []
        for _ in range(data[22]):
            which, count, units = data[at] & 0x3F, int.from_bytes(data[at + 1 : at + 3]), []
            at += 3
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2])
                units.append(bytes(data[at + 2 : at + 2 + size]))
                at += 2 + size
            found.append((which, tuple(units)))
        made = cls(bytes(data[:22]), tuple(found))
        if not all(made.sets(which) and all(made.sets(which)) for which in SETS):
            raise ValueError("its header holds no parameter sets")
        return made

    def sets(self, which: int) -> tuple[bytes, ...]:
        return tuple(unit for kind_of, units in self.arrays for unit in units if kind_of == which)

    @property
    def profile(self) -> str | None:
        return PROFILES.get(self.head[1] & 0x1F)

    @property
    def tag(self) -> str:
        """Of MP4's sample entry: hvc1 says that all parameter sets stand in the header, and some players want it."""
        return "hev1" if self.inside else "hvc1"

    def options(self) -> dict[str, str]:
        return {"profile": self.profile, "x265-params": "open-gop=0"}

    def starts(self, packet: bytes) -> bool:
        """Whether a group of pictures begins that looks at nothing before it. Raises ValueError for parameter sets that
        are not the header's.
        """
        found = [unit for unit in avc.units(packet) if unit]
        sets = {unit for unit in found if kind(unit) in SETS}
        if not sets <= {unit for _, units in self.arrays for unit in units}:
            raise ValueError("its parameter sets change on the way")
        self.inside.update(sets)
        return any(kind(unit) in IDR for unit in found)

    def joined(self, extradata: bytes) -> bytes:
        """The track's header with both encoders' parameter sets. Raises ValueError where no number is free."""
        number, theirs = self.number, {kind(unit): unit for unit in avc.units_of_stream(extradata)}
        ours = {
            VPS: _changed(theirs[VPS], (0, OURS, 4)),
            SPS: _changed(theirs[SPS], (0, OURS, 4), (_at_number(theirs[SPS]), OURS, 1)),
            PPS: _changed(theirs[PPS], (0, number, 1), (9, OURS, 1)),
        }
        arrays = [(k, (*u, ours[k])) if k in ours else (k, u) for k, u in self.arrays]
        complete = 0 if self.inside else 0x80
        packed = [_packed(k | (complete if k in SETS else 0), units) for k, units in arrays]
        return _both(self.head, theirs[SPS]) + bytes((len(arrays),)) + b"".join(packed)

    @property
    def number(self) -> int:
        """Of the other encoder's PPS: one that none here has."""
        used = {avc.golomb(unit[2:]) for unit in self.sets(PPS)}
        taken = {_number_of(unit) for unit in self.sets(SPS)} | {u[2] >> 4 for u in self.sets(VPS)}
        free = [n for n in PPS_NUMBERS if n not in used]
        if OURS in taken or not free:
            raise ValueError("no number is free for other parameter sets")
        return free[0]

    def packet(self, data: bytes) -> bytes:
        """A packet of the other encoder, with its slices told the new number."""
        units = [unit for unit in avc.units_of_stream(data) if kind(unit) not in SETS]
        return b"".join(avc.with_length(_told(unit, self.number)) for unit in units)


def kind(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def _told(unit: bytes, number: int) -> bytes:
    """A slice with another PPS: its number, of one bit, is the second or third thing that it says."""
    if kind(unit) not in SLICES:
        return unit
    at, bits = 2 if kind(unit) in REFRESHING else 1, f"{unit[2]:08b}"
    if bits[at] != "1":
        raise ValueError("a slice of a PPS that is not the first")
    return unit[:2] + int(bits[:at] + _code(number) + bits[at + 1 :], 2).to_bytes(2) + unit[3:]


def _code(number: int) -> str:
    return f"{number + 1:09b}"


def _changed(unit: bytes, *places: tuple[int, int, int]) -> bytes:
    """A parameter set with other numbers. places: at which bit of what follows the unit's head one stands, which it
    becomes, and of how many bits it is.
    """
    bits = "".join(f"{byte:08b}" for byte in _plain(unit)[2:])
    for at, number, width in places:
        new = f"{number:0{width}b}" if width > 1 else _code(number)
        bits = bits[:at] + new + bits[at + width :]
    payload = int(bits, 2).to_bytes(len(bits) // 8)
    return unit[:2] + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)


def _plain(unit: bytes) -> bytes:
    """Without the bytes that keep it from looking like a start code."""
    return unit.replace(b"\0\0\3", b"\0\0")


def _at_number(sps: bytes) -> int:
    """At which bit after an SPS's head its own number stands: behind profile and level, also of its sublayers."""
    known = _plain(sps)
    more = known[2] >> 1 & 7
    at = 13 + (2 if more else 0)
    flags = f"{int.from_bytes(known[15:17]):016b}"
    for i in range(more):
        at += 11 * int(flags[2 * i]) + int(flags[2 * i + 1])
    return 8 * at


def _number_of(sps: bytes) -> int:
    return avc.golomb(_plain(sps)[2 + _at_number(sps) // 8 :])


def _both(head: bytes, sps: bytes) -> bytes:
    """The record's own part, true of both encoders' pictures: of flags those that both have, of levels the higher."""
    known, made = _plain(sps), bytearray(head)
    made[1] |= known[3] & 0x20  # the tier
    for i in range(2, 12):  # with which profiles it is compatible, and what it is constrained to
        made[i] &= known[2 + i]
    made[12] = max(made[12], known[14])
    made[13:16] = b"\xf0\0\xfc"  # nothing is said of slices and of decoding in parallel
    return bytes(made)


def _packed(which: int, units: Iterable[bytes]) -> bytes:
    units = tuple(units)
    sized = b"".join(len(unit).to_bytes(2) + unit for unit in units)
    return bytes((which,)) + len(units).to_bytes(2) + sized

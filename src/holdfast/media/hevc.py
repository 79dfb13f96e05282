"""Put the H.265 packets of two encoders into one track (ISO/IEC 14496-15).

The second encoder's parameter sets need ids of their own and are added to the track's header. x265 always uses id 0, so
its parameter sets are renumbered here. An id from 15 to 30 takes nine bits where 0 takes one: the bits after it move by
one whole byte, and nothing else in a slice has to be parsed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from . import avc

VPS, SPS, PPS = SETS = 32, 33, 34  # types of units
IDR, REFRESHING, SLICES = (19, 20), range(16, 24), range(32)
PROFILES = {1: "main", 2: "main10"}
NEW_ID = 15  # of the second encoder's VPS and SPS
PPS_IDS = range(30, 15, -2)  # for its PPS: even ids, whose last bit keeps a byte from being 0


@dataclass(frozen=True)
class HevcHeader:
    """An HEVCDecoderConfigurationRecord with lengths of four bytes."""

    codec = "h265"
    head: bytes  # the bytes before the units
    arrays: tuple[tuple[int, tuple[bytes, ...]], ...]  # a type and its units, in order
    inband_sets: set[bytes] = field(default_factory=set)  # parameter sets that packets hold

    @classmethod
    def parse(cls, data: bytes) -> "HevcHeader":
        """Return the record that a track's extradata holds. Raise ValueError where it cannot be extended."""
        if len(data) < 23 or data[0] != 1 or data[21] & 3 != 3:
            raise ValueError("its header cannot be extended")
        at, arrays = 23, []
        for _ in range(data[22]):
            kind, count, units = data[at] & 0x3F, int.from_bytes(data[at + 1 : at + 3]), []
            at += 3
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2])
                units.append(bytes(data[at + 2 : at + 2 + size]))
                at += 2 + size
            arrays.append((kind, tuple(units)))
        header = cls(bytes(data[:22]), tuple(arrays))
        if not all(header.sets(kind) and all(header.sets(kind)) for kind in SETS):
            raise ValueError("its header holds no parameter sets")
        return header

    def sets(self, kind: int) -> tuple[bytes, ...]:
        """Return the header's parameter sets of one type."""
        return tuple(unit for of, units in self.arrays for unit in units if of == kind)

    @property
    def profile(self) -> str | None:
        """Return the encoder's name of the profile, or None where the encoder does not have it."""
        return PROFILES.get(self.head[1] & 0x1F)

    @property
    def tag(self) -> str:
        """Return the tag of MP4's sample entry.

        hvc1 means that the header holds all parameter sets, which some players need.
        """
        return "hev1" if self.inband_sets else "hvc1"

    def options(self) -> dict[str, str]:
        """Return the second encoder's options: the same profile, and closed groups of pictures."""
        return {"profile": self.profile or "", "x265-params": "open-gop=0"}

    def begins_group(self, packet: bytes) -> bool:
        """Return whether a packet begins a group of pictures that refers to nothing before it.

        Raise ValueError for parameter sets that the header does not hold.
        """
        units = [unit for unit in avc.split_units(packet) if unit]
        sets = {unit for unit in units if unit_type(unit) in SETS}
        if not sets <= {unit for _, group in self.arrays for unit in group}:
            raise ValueError("its parameter sets change on the way")
        self.inband_sets.update(sets)
        return any(unit_type(unit) in IDR for unit in units)

    def merge_extradata(self, extradata: bytes) -> bytes:
        """Return the track's header with the parameter sets of both encoders. Raise ValueError where no id is free."""
        theirs = {unit_type(unit): unit for unit in avc.split_annex_b(extradata)}
        sps_id = (_id_position(theirs[SPS]), NEW_ID, 1)
        added = {
            VPS: _replace_numbers(theirs[VPS], (0, NEW_ID, 4)),
            SPS: _replace_numbers(theirs[SPS], (0, NEW_ID, 4), sps_id),
            PPS: _replace_numbers(theirs[PPS], (0, self.pps_id, 1), (9, NEW_ID, 1)),
        }
        arrays = [(k, (*u, added[k])) if k in added else (k, u) for k, u in self.arrays]
        complete = 0 if self.inband_sets else 0x80
        packed = [_pack_array(k | (complete if k in SETS else 0), units) for k, units in arrays]
        head = _merge_profiles(self.head, theirs[SPS])
        return head + bytes((len(arrays),)) + b"".join(packed)

    @property
    def pps_id(self) -> int:
        """Return an id for the second encoder's PPS that none here has. Raise ValueError where no id is free."""
        used = {avc.read_golomb(unit[2:]) for unit in self.sets(PPS)}
        others = {_read_id(unit) for unit in self.sets(SPS)} | {u[2] >> 4 for u in self.sets(VPS)}
        free = [n for n in PPS_IDS if n not in used]
        if NEW_ID in others or not free:
            raise ValueError("no id is free for other parameter sets")
        return free[0]

    def convert_packet(self, data: bytes) -> bytes:
        """Return a packet of the second encoder in the track's form, with the new PPS id in its slices."""
        units = [unit for unit in avc.split_annex_b(data) if unit_type(unit) not in SETS]
        return b"".join(avc.prefix_length(_set_pps_id(unit, self.pps_id)) for unit in units)


def unit_type(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def _set_pps_id(unit: bytes, number: int) -> bytes:
    """Return a slice with another PPS id. The old one, 0, is one bit: the second or third field of the slice."""
    if unit_type(unit) not in SLICES:
        return unit
    at, bits = 2 if unit_type(unit) in REFRESHING else 1, f"{unit[2]:08b}"
    if bits[at] != "1":
        raise ValueError("a slice refers to a PPS that is not the first")
    changed = bits[:at] + _ue_bits(number) + bits[at + 1 :]
    return unit[:2] + int(changed, 2).to_bytes(2) + unit[3:]


def _ue_bits(number: int) -> str:
    """Return the exponential Golomb code, ue(v), of a number from 15 to 30."""
    return f"{number + 1:09b}"


def _replace_numbers(unit: bytes, *places: tuple[int, int, int]) -> bytes:
    """Return a parameter set with other numbers.

    places: for each number, its first bit after the unit's header, its new value, and how many bits the old one has.
    """
    bits = "".join(f"{byte:08b}" for byte in _remove_emulation(unit)[2:])
    for at, number, width in places:
        new = f"{number:0{width}b}" if width > 1 else _ue_bits(number)
        bits = bits[:at] + new + bits[at + width :]
    payload = int(bits, 2).to_bytes(len(bits) // 8)
    return unit[:2] + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)


def _remove_emulation(unit: bytes) -> bytes:
    """Return a unit without its emulation prevention bytes."""
    return unit.replace(b"\0\0\3", b"\0\0")


def _id_position(sps: bytes) -> int:
    """Return the bit, after an SPS's header, at which its id begins: behind profile and level, also of sublayers."""
    data = _remove_emulation(sps)
    sublayers = data[2] >> 1 & 7
    at = 13 + (2 if sublayers else 0)
    flags = f"{int.from_bytes(data[15:17]):016b}"
    for i in range(sublayers):
        at += 11 * int(flags[2 * i]) + int(flags[2 * i + 1])
    return 8 * at


def _read_id(sps: bytes) -> int:
    return avc.read_golomb(_remove_emulation(sps)[2 + _id_position(sps) // 8 :])


def _merge_profiles(head: bytes, sps: bytes) -> bytes:
    """Return the record's first bytes, true of both encoders' pictures: their common flags and the higher level."""
    theirs, merged = _remove_emulation(sps), bytearray(head)
    merged[1] |= theirs[3] & 0x20  # the tier
    for i in range(2, 12):  # compatible profiles and constraints
        merged[i] &= theirs[2 + i]
    merged[12] = max(merged[12], theirs[14])
    merged[13:16] = b"\xf0\0\xfc"  # no statement on slices and parallel decoding
    return bytes(merged)


def _pack_array(kind: int, units: Iterable[bytes]) -> bytes:
    units = tuple(units)
    sized = b"".join(len(unit).to_bytes(2) + unit for unit in units)
    return bytes((kind,)) + len(units).to_bytes(2) + sized

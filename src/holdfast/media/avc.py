"""Put the H.264 packets of two encoders into one track (ISO/IEC 14496-15).

The second encoder's parameter sets need ids of their own and are added to the track's header. Units in its packets
begin with their length.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

IDR, SPS, PPS = 5, 7, 8  # types of units
PROFILES = {66: "baseline", 77: "main", 100: "high", 110: "high10", 122: "high422", 244: "high444"}


@dataclass(frozen=True)
class AvcHeader:
    """An AVCDecoderConfigurationRecord with lengths of four bytes."""

    codec, tag = "h264", "avc1"
    profile_number: int
    compatible: int  # flags of other profiles that can decode it
    level: int
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    rest: bytes = b""  # chroma and depth, of the high profiles

    @classmethod
    def parse(cls, data: bytes) -> "AvcHeader":
        """Return the record that a track's extradata holds. Raise ValueError where it cannot be extended."""
        if len(data) < 7 or data[0] != 1 or data[4] & 3 != 3:
            raise ValueError("its header cannot be extended")
        at = 5
        groups: list[tuple[bytes, ...]] = []
        for mask in (0x1F, 0xFF):
            sets, count = [], data[at] & mask
            at += 1
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2])
                sets.append(bytes(data[at + 2 : at + 2 + size]))
                at += 2 + size
            groups.append(tuple(sets))
        if not all(groups) or not all(map(all, groups)):
            raise ValueError("its header holds no parameter sets")
        return cls(data[1], data[2], data[3], groups[0], groups[1], bytes(data[at:]))

    @property
    def profile(self) -> str | None:
        """Return the encoder's name of the profile, or None where the encoder does not have it."""
        return PROFILES.get(self.profile_number)

    def options(self) -> dict[str, str]:
        """Return the second encoder's options: the same profile, and a free id for its parameter sets."""
        return {"profile": self.profile or "", "x264-params": f"sps-id={self.free_id()}"}

    def begins_group(self, packet: bytes) -> bool:
        """Return whether a packet begins a group of pictures that refers to nothing before it."""
        return any(unit_type(unit) == IDR for unit in split_units(packet) if unit)

    def merge_extradata(self, extradata: bytes) -> bytes:
        """Return the track's header with the parameter sets of both encoders, so that packets need none."""
        return self.add_sets(split_annex_b(extradata)).to_bytes()

    def convert_packet(self, data: bytes) -> bytes:
        """Return a packet of the second encoder in the track's form."""
        return b"".join(map(prefix_length, split_annex_b(data)))

    def add_sets(self, units: list[bytes]) -> "AvcHeader":
        """Return the header with a second encoder's parameter sets added."""
        sps = tuple(u for u in units if unit_type(u) == SPS)
        pps = tuple(u for u in units if unit_type(u) == PPS)
        return replace(
            self,
            compatible=self.compatible & sps[0][2],
            level=max(self.level, sps[0][3]),
            sps=(*self.sps, *sps),
            pps=(*self.pps, *pps),
        )

    def to_bytes(self) -> bytes:
        """Return the record as bytes."""
        sets = [
            b"".join(len(unit).to_bytes(2) + unit for unit in units)
            for units in (self.sps, self.pps)
        ]
        numbers = (1, self.profile_number, self.compatible, self.level, 0xFF, 0xE0 | len(self.sps))
        return bytes(numbers) + sets[0] + bytes((len(self.pps),)) + sets[1] + self.rest

    def free_id(self) -> int:
        """Return an id that none of the parameter sets has."""
        used = {read_golomb(unit[4:]) for unit in self.sps}
        used |= {read_golomb(unit[1:]) for unit in self.pps}
        return next(n for n in range(1, 32) if n not in used)


def unit_type(unit: bytes) -> int:
    return unit[0] & 0x1F


def split_units(packet: bytes) -> Iterator[bytes]:
    """Yield the units of a packet in which each begins with its length."""
    at = 0
    while at + 4 < len(packet):
        size = int.from_bytes(packet[at : at + 4])
        yield packet[at + 4 : at + 4 + size]
        at += 4 + size


def split_annex_b(data: bytes) -> list[bytes]:
    """Return the units of a byte stream in which a start code precedes each (Annex B)."""
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    return [part for part in parts if part]


def prefix_length(unit: bytes) -> bytes:
    return len(unit).to_bytes(4) + unit


def read_golomb(data: bytes) -> int:
    """Return the first number of a unit's payload (exponential Golomb code, ue(v))."""
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = bits.index("1")
    return int(bits[zeros : 2 * zeros + 1], 2) - 1

"""What H.264 needs for two encoders' packets to lie in one track: parameter sets with ids of their own, all announced
in the track's header (ISO/IEC 14496-15), and packets whose units begin with their length.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

IDR, SPS, PPS = 5, 7, 8  # kinds of units
PROFILES = {66: "baseline", 77: "main", 100: "high", 110: "high10", 122: "high422", 244: "high444"}


@dataclass(frozen=True)
class Header:
    """An AVCDecoderConfigurationRecord with lengths of four bytes."""

    codec, tag = "h264", "avc1"
    number: int  # of the profile
    compatible: int  # flags of what else may play it
    level: int
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    rest: bytes = b""  # chroma and depth, of the high profiles

    @classmethod
    def parsed(cls, data: bytes) -> "Header":
        """Raises ValueError for what is none."""
        if len(data) < 7 or data[0] != 1 or data[4] & 3 != 3:
            raise ValueError("its header is not one that can be added to")
        at, found = 5, []
        for mask in (0x1F, 0xFF):
            sets, count = [], data[at] & mask
            at += 1
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2])
                sets.append(bytes(data[at + 2 : at + 2 + size]))
                at += 2 + size
            found.append(tuple(sets))
        if not all(found) or not all(map(all, found)):
            raise ValueError("its header holds no parameter sets")
        return cls(*data[1:4], *found, bytes(data[at:]))

    @property
    def profile(self) -> str | None:
        return PROFILES.get(self.number)

    def options(self) -> dict[str, str]:
        """Of the other encoder: the same profile, and parameter sets under a number that none here has."""
        return {"profile": self.profile, "x264-params": f"sps-id={self.free_id()}"}

    def starts(self, packet: bytes) -> bool:
        """Whether a group of pictures begins that looks at nothing before it."""
        return any(kind(unit) == IDR for unit in units(packet) if unit)

    def joined(self, extradata: bytes) -> bytes:
        """The track's header with both encoders' parameter sets; nothing of them has to stand in the packets."""
        return self.with_sets(units_of_stream(extradata)).packed()

    def packet(self, data: bytes) -> bytes:
        """A packet of the other encoder as it lies in the track."""
        return b"".join(map(with_length, units_of_stream(data)))

    def with_sets(self, units: list[bytes]) -> "Header":
        """One that announces another encoder's parameter sets too."""
        sps, pps = ([u for u in units if kind(u) == which] for which in (SPS, PPS))
        compatible, level = self.compatible & sps[0][2], max(self.level, sps[0][3])
        sets = {"sps": (*self.sps, *sps), "pps": (*self.pps, *pps)}
        return replace(self, compatible=compatible, level=level, **sets)

    def packed(self) -> bytes:
        sets = [
            b"".join(len(unit).to_bytes(2) + unit for unit in units)
            for units in (self.sps, self.pps)
        ]
        head = bytes((1, self.number, self.compatible, self.level, 0xFF, 0xE0 | len(self.sps)))
        return head + sets[0] + bytes((len(self.pps),)) + sets[1] + self.rest

    def free_id(self) -> int:
        """A number that none of the parameter sets has."""
        used = {golomb(unit[4:]) for unit in self.sps} | {golomb(unit[1:]) for unit in self.pps}
        return next(n for n in range(1, 32) if n not in used)


def kind(unit: bytes) -> int:
    return unit[0] & 0x1F


def units(packet: bytes) -> Iterator[bytes]:
    """Of a packet whose units begin with their length."""
    at = 0
    while at + 4 < len(packet):
        size = int.from_bytes(packet[at : at + 4])
        yield packet[at + 4 : at + 4 + size]
        at += 4 + size


def units_of_stream(data: bytes) -> list[bytes]:
    """Of data in which a start code stands before each (Annex B)."""
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    return [part for part in parts if part]


def with_length(unit: bytes) -> bytes:
    return len(unit).to_bytes(4) + unit


def golomb(data: bytes) -> int:
    """The first number of a unit's payload (ue(v))."""
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = bits.index("1")
    return int(bits[zeros : 2 * zeros + 1], 2) - 1

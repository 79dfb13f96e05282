"""What H.265 needs for two encoders' packets to lie in one track (ISO/IEC 14496-15): its encoder gives its parameter
sets no numbers of their own, so that they stand in the packets wherever the encoder changes.
"""

from dataclasses import dataclass

from . import avc

IDR, VPS, SPS, PPS = (19, 20), 32, 33, 34  # kinds of units
PROFILES = {1: "main", 2: "main10"}


@dataclass(frozen=True)
class Header:
    """An HEVCDecoderConfigurationRecord with lengths of four bytes."""

    codec = "h265"
    data: bytes
    sets: tuple[bytes, ...]  # VPS, SPS, PPS

    @classmethod
    def parsed(cls, data: bytes) -> "Header":
        """Raises ValueError for what is none."""
        if len(data) < 23 or data[0] != 1 or data[21] & 3 != 3:
            raise ValueError("its header is not one that can be added to")
        at, found, known = 23, [], bytearray(data)
        for _ in range(data[22]):
            known[at] &= 0x7F  # there may be others in the packets
            which, count = data[at] & 0x3F, int.from_bytes(data[at + 1 : at + 3])
            at += 3
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2])
                if which in (VPS, SPS, PPS):
                    found.append(bytes(data[at + 2 : at + 2 + size]))
                at += 2 + size
        if {kind(unit) for unit in found if unit} != {VPS, SPS, PPS}:
            raise ValueError("its header holds no parameter sets")
        return cls(bytes(known), tuple(found))

    @property
    def profile(self) -> str | None:
        return PROFILES.get(self.data[1] & 0x1F)

    def options(self) -> dict[str, str]:
        return {"profile": self.profile, "x265-params": "open-gop=0"}

    def starts(self, packet: bytes) -> bool:
        """Whether a group of pictures begins that looks at nothing before it."""
        return any(kind(unit) in IDR for unit in avc.units(packet) if unit)

    def joined(self, extradata: bytes) -> tuple[bytes, bytes, bytes]:
        """The track's header, and what comes before the first packet of the other encoder and of the source again."""
        units = [unit for unit in avc.units_of_stream(extradata) if kind(unit) in (VPS, SPS, PPS)]
        level = max(map(_level, (u for u in (*units, *self.sets) if kind(u) == SPS)))
        header = bytearray(self.data)
        header[12] = max(header[12], level)
        return bytes(header), *(b"".join(map(avc.with_length, sets)) for sets in (units, self.sets))


def kind(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def _level(sps: bytes) -> int:
    return sps.replace(b"\0\0\3", b"\0\0")[14]

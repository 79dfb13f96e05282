"""The manifest of a result, OUTPUT.json: what an edit did, with what, and what it measured."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..base.files import parse_json
from ..base.old_names import rename_fields


class Preservation(BaseModel):
    """What the edit left of the source, measured on the frames before encoding."""

    model_config = ConfigDict(extra="allow")

    psnr: float | str | None = Field(None, description='PSNR to the source in dB, or "inf"')
    psnr_outside: float | str | None = Field(
        None, description='PSNR outside the mask in dB, or "inf"; null without a mask'
    )
    max_abs_outside: float | None = Field(
        None, description="largest difference outside the mask, 0 to 1; null without a mask"
    )
    changed_share: float = Field(description="share of the pixels that changed visibly")


class Manifest(BaseModel):
    """The stable names of a manifest. Releases may add others."""

    model_config = ConfigDict(extra="allow")

    output: str = Field(description="the result")
    task: dict[str, Any] = Field(description="the fields of the EditTask")
    method: str = Field(description="name of the method")
    backbone: str = Field(description="name of the model")
    seed: int = Field(description="seed of the noise")
    settings: dict[str, Any] = Field(description="each setting's value, and where it comes from")
    frames: int = Field(description="number of frames")
    rate: str = Field(description='frames per second, "30000/1001"')
    size: tuple[int, int] = Field(description="width and height in pixels")
    audio_tracks: int = Field(description="number of audio tracks")
    plan: dict[str, Any] = Field(description="automatic choices with their reasons")
    weights: dict[str, Any] = Field(description="identity of each model's files")
    evaluations: int = Field(description="evaluations of the network")
    dense_equivalents: float | None = Field(
        None, description="their cost, in evaluations of the whole latent"
    )
    reused_evaluations: int | None = Field(
        None, description="evaluations of the source that an earlier edit of the clip left"
    )
    seconds: dict[str, float] = Field(description="seconds of each stage")
    peak_memory_mb: float | None = Field(None, description="peak memory in megabytes")
    preservation: Preservation
    delivered: dict[str, Any] | None = Field(None, description="the same, measured on the file")
    notes: list[str] = Field(description="notices of the run")
    versions: dict[str, str] = Field(description="versions of the packages")
    key: str | None = Field(None, description="hash of all that the result depends on")
    stamp: str | None = Field(None, description="hash of the file's name, size and time")


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest with the present names of its task's fields; empty where there is none, or it is damaged."""
    try:
        data = parse_json(path.read_text())
    except (OSError, ValueError):
        return {}
    if not (isinstance(data, dict) and isinstance(data.get("task"), dict)):
        return {}
    return data | {"task": rename_fields(data["task"], notify=False)}

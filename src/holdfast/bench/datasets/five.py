"""FiVE-Bench (Li et al., arXiv:2503.13684): `five:FOLDER`, or `five:FOLDER/1,3` for some of its six types of edit.

Its layout: edit_prompt/edit{1..6}_FiVE.json, videos/NAME.mp4 or images/NAME/, bmasks/NAME/. Square brackets in the
target prompt mark the edited words: they are taken out, and what they held is the local phrase. Masks are JPEG: here
inside is above half (its own code takes above 0, and so compression noise too).
"""

import re
from pathlib import Path

from ...base.errors import UserError
from ...base.files import parse_json
from .base import Case, existing, file_name

TYPES = {
    1: "object, rigid",
    2: "object, non-rigid",
    3: "colour",
    4: "material",
    5: "add",
    6: "remove",
}


def cases(what: str, folder: Path, limit: int | None) -> list[Case]:
    root, types = _root(what)
    found = []
    for number in types:
        for i, record in enumerate(_records(_prompts(root, number))):
            found.append(_case(root, number, i, record))
            if len(found) == limit:  # a part of the clips is enough for a part of the benchmark
                return found
    return found


def _prompts(root: Path, number: int) -> Path:
    return root / "edit_prompt" / f"edit{number}_FiVE.json"


def _root(what: str) -> tuple[Path, list[int]]:
    root = Path(what)
    if root.is_dir():
        present = [number for number in TYPES if _prompts(root, number).is_file()]
        if not present:
            raise UserError(f"{root} is not FiVE-Bench: it has no edit_prompt/edit1_FiVE.json")
        return root, present
    if re.fullmatch(r"[1-6](,[1-6])*", root.name) and root.parent.is_dir():
        return root.parent, [int(n) for n in root.name.split(",")]
    raise UserError(f"there is no folder {what}; give five:FOLDER with the FiVE-Bench data")


def _records(path: Path) -> list[dict]:
    existing(path, "FiVE-Bench")
    try:
        records = parse_json(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(records, list):
        raise UserError(f"{path} is no list of records")
    for i, record in enumerate(records):
        texts = (
            {k for k, v in record.items() if isinstance(v, str)} if type(record) is dict else set()
        )
        absent = {"video_name", "source_prompt", "target_prompt"} - texts
        if absent:
            raise UserError(f"{path}, record {i}: {', '.join(sorted(absent))} is missing")
    return records


def _case(root: Path, number: int, index: int, record: dict) -> Case:
    video = record["video_name"]
    masks = root / "bmasks" / video
    marked = re.findall(r"\[(.*?)\]", record["target_prompt"])
    return Case(
        name=file_name(f"{number}-{index:03d}-{video}"),
        clip=_clip(root, video),
        source=_unmarked(record["source_prompt"]),
        target=_unmarked(record["target_prompt"]),
        kind=TYPES[number],
        group=f"edit{number}",
        mask=str(masks) if masks.is_dir() else None,
        local=" ".join(marked).strip(),
    )


def _clip(root: Path, video: str) -> str:
    """A video file, or else a folder of images."""
    file = root / "videos" / f"{video}.mp4"
    if file.is_file():
        return str(file)
    return existing(root / "images" / video, f"{video} of FiVE-Bench")


def _unmarked(prompt: str) -> str:
    return " ".join(prompt.replace("[", "").replace("]", "").split())

"""FiVE-Bench (Li et al., arXiv:2503.13684): `five:FOLDER`, or `five:FOLDER/1,3` for some of its six types of edit.

Its layout: edit_prompt/edit{1..6}_FiVE.json, videos/NAME.mp4 or images/NAME/, bmasks/NAME/. Square brackets in the
target prompt mark the edited words: they are removed, and their contents are the object's prompt. Masks are JPEG: here
a pixel is inside above one half (FiVE's own code uses above 0, and so includes compression noise).
"""

import re
from pathlib import Path

from ...base.errors import UserError
from ...base.files import parse_json
from .base import Case, file_name, require_path

TYPES = {
    1: "object, rigid",
    2: "object, non-rigid",
    3: "colour",
    4: "material",
    5: "add",
    6: "remove",
}


def cases(selection: str, folder: Path, limit: int | None) -> list[Case]:
    root, types = _parse_selection(selection)
    found: list[Case] = []
    for number in types:
        for i, record in enumerate(_read_records(_prompt_file(root, number))):
            found.append(_make_case(root, number, i, record))
            if len(found) == limit:  # stop before clips that may be missing from a partial copy
                return found
    return found


def _prompt_file(root: Path, number: int) -> Path:
    return root / "edit_prompt" / f"edit{number}_FiVE.json"


def _parse_selection(selection: str) -> tuple[Path, list[int]]:
    """Return the folder and the types of FOLDER or FOLDER/1,3."""
    root = Path(selection)
    if root.is_dir():
        present = [number for number in TYPES if _prompt_file(root, number).is_file()]
        if not present:
            raise UserError(f"{root} is not FiVE-Bench: it has no edit_prompt/edit1_FiVE.json")
        return root, present
    if re.fullmatch(r"[1-6](,[1-6])*", root.name) and root.parent.is_dir():
        return root.parent, [int(n) for n in root.name.split(",")]
    raise UserError(f"there is no folder {selection}", "give five:FOLDER with the FiVE-Bench data")


def _read_records(path: Path) -> list[dict[str, str]]:
    require_path(path, "FiVE-Bench")
    try:
        records = parse_json(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(records, list):
        raise UserError(f"{path} is not a list of records")
    for i, record in enumerate(records):
        present = record if isinstance(record, dict) else {}
        texts = {key for key, value in present.items() if isinstance(value, str)}
        absent = {"video_name", "source_prompt", "target_prompt"} - texts
        if absent:
            raise UserError(f"{path}, record {i}: {', '.join(sorted(absent))} is missing")
    return records


def _make_case(root: Path, number: int, index: int, record: dict[str, str]) -> Case:
    video = record["video_name"]
    masks = root / "bmasks" / video
    edited_words = re.findall(r"\[(.*?)\]", record["target_prompt"])
    return Case(
        name=file_name(f"{number}-{index:03d}-{video}"),
        clip=_find_clip(root, video),
        source_prompt=_strip_brackets(record["source_prompt"]),
        target_prompt=_strip_brackets(record["target_prompt"]),
        kind=TYPES[number],
        group=f"edit{number}",
        mask=str(masks) if masks.is_dir() else None,
        object_prompt=" ".join(edited_words).strip(),
    )


def _find_clip(root: Path, video: str) -> str:
    """Return a video file, or a folder of images if there is none."""
    file = root / "videos" / f"{video}.mp4"
    if file.is_file():
        return str(file)
    return require_path(root / "images" / video, f"{video} of FiVE-Bench")


def _strip_brackets(prompt: str) -> str:
    return " ".join(prompt.replace("[", "").replace("]", "").split())

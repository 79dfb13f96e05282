"""The rows of a batch: what a line may be, where its files are, and that a bad one is told before any work is begun."""

import json
import shutil
from pathlib import Path

import pytest

from holdfast.batch import rows
from holdfast.batch.record import Job

TOLD = {
    "source_prompt": "a plain red ball",
    "target_prompt": "a plain blue ball",
    "backbone": "shapeworld-wan",
}


@pytest.fixture
def read(tmp_path):
    """read(line, ...) writes the rows into a folder `rows` and reads them, with `out` for results."""

    def make(*lines, anywhere: bool = False) -> list[Job]:
        file = tmp_path / "rows" / "jobs.jsonl"
        file.parent.mkdir(exist_ok=True)
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        file.write_text("\n".join(texts), "utf-8", errors="surrogateescape")
        return rows.read_jobs(file, tmp_path / "out", anywhere)

    return make


def row(name: str = "a.mp4", **fields) -> dict:
    return {"input": name, **TOLD, **fields}


def problems(jobs: list[Job]) -> dict[int, str]:
    return {job.line: job.sentence for job in jobs if job.status == "failed"}


def test_empty_lines_and_comments_are_passed_over_and_lines_counted(read):
    found = read("\ufeff# a comment", "", row(), "   ", "  # another", row("b.mp4"))
    assert [(job.line, job.status) for job in found] == [(3, "waiting"), (6, "waiting")]


def test_inputs_are_named_from_the_rows_folder_and_outputs_from_the_batchs(read, tmp_path):
    base, out = tmp_path / "rows", tmp_path / "out"
    (base / "own").mkdir(parents=True)
    (base / "1,2,3,4").touch()
    jobs = read(
        row("../clips/a.mp4", mask="m.png", weights="own", image_model="sd1.5=own"),
        row("/b.mp4", mask="auto", weights="Wan-AI/some", image_model="sd1.5", output="sub/x.webm"),
        row(mask="0,0,8,8", id="named", keyframes=["3=k.png"], first_frame="f.png"),
        row(mask="1,2,3,4", id=7),
        row("c.mp4", output="/elsewhere/c.mkv"),
        anywhere=True,
    )
    assert problems(jobs) == {}
    a, b, c, d, e = (job.task for job in jobs)
    assert a.input == str(base / "../clips/a.mp4")
    assert (a.mask, a.weights, a.image_model) == (
        str(base / "m.png"),
        str(base / "own"),
        f"sd1.5={base / 'own'}",
    )
    assert (b.input, b.mask, b.weights, b.image_model) == ("/b.mp4", "auto", "Wan-AI/some", "sd1.5")
    assert (c.mask, c.keyframes, c.first_frame) == (
        "0,0,8,8",
        (f"3={base / 'k.png'}",),
        str(base / "f.png"),
    )
    assert d.mask == str(base / "1,2,3,4")
    outputs = ["a.mp4", "sub/x.webm", "named.mp4", "7.mp4", "/elsewhere/c.mkv"]
    assert [task.output for task in (a, b, c, d, e)] == [str(out / name) for name in outputs]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{bad", "invalid JSON: Expecting property name"),
        ("[1]", "the row is not a JSON object"),
        ("\udcff", "invalid JSON"),
        ("[" * 100000, "invalid JSON"),
        ({"input": "a.mp4", "targt": "x"}, "unknown field 'targt'"),
        ({"target_prompt": "x"}, "input is missing"),
        ({"input": 3}, "input is 3: use text"),
        (row(output=3), "output is 3: use text"),
        (row(seed="x"), "use a whole number"),
        (row(id="a/b"), "id is 'a/b': use a file name"),
        (row(id=True), "id is True"),
        (row(id=".x"), "id is '.x'"),
        (row(output="http://host/x.mp4"), "looks like an address"),
        (row(keyframes=["x"], mask=" "), "mask is empty"),
    ],
)
def test_a_bad_row_is_told_with_its_line_and_does_not_stop_the_others(read, line, said):
    jobs = read(row("other.mp4"), line, row("third.mp4"))
    assert said in problems(jobs)[2]
    assert [job.status for job in jobs] == ["waiting", "failed", "waiting"]
    assert jobs[1].code == 2


def test_rows_that_would_replace_each_others_files_are_all_refused(read, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    link = str(tmp_path / "link" / "c.mp4")
    jobs = read(
        row(),
        row("x/a.mp4"),
        row("c.mp4"),
        row("d.mp4", output=link),
        row("../out/e.mp4", id="made"),
        row("e.mp4"),
        row("f.mp4", output="batch"),
        row("g.mp4", output=str(tmp_path / "rows" / "jobs.jsonl")),
        row("h.mp4"),
        row("i.mp4", raw="j.mp4"),
        row("j.mp4"),
        row("k.mp4", raw="k.mp4"),
        anywhere=True,
    )
    told = problems(jobs)
    assert set(told) == {1, 2, 3, 4, 5, 7, 8, 10, 11, 12}
    assert "line 11 also writes" in told[10]
    assert "output and raw are both" in told[12]
    assert "line 2 also writes" in told[1]
    assert "line 1 also writes" in told[2]
    assert "line 4 also writes" in told[3]
    assert "it reads the output of line 6" in told[5]
    assert "the batch's own files" in told[7]
    assert "the batch's own files" in told[8]


def test_a_row_does_not_write_outside_the_batchs_folder_unless_that_is_allowed(read, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "way").symlink_to(tmp_path)
    places = (
        "/elsewhere/c.mkv",
        "../c.mkv",
        "way/c.mkv",
        str(tmp_path / "out" / "c.mkv"),
        "sub/c.mkv",
    )
    found = read(*(row(output=place) for place in places))
    assert set(problems(found)) == {1, 2, 3}
    assert "output /elsewhere/c.mkv lies outside" in found[0].sentence
    assert "--outputs-anywhere" in found[0].sentence
    assert problems(read(*(row(output=place) for place in places[:2]), anywhere=True)) == {}


def test_a_file_without_rows_is_refused(read, tmp_path):
    with pytest.raises(ValueError, match="contains no jobs: a job is a line such as"):
        read("# nothing", "")
    with pytest.raises(FileNotFoundError):
        rows.read_jobs(tmp_path / "none.jsonl", tmp_path)


def test_what_can_be_told_without_weights_is_told_before_any_work(read, make_clip, tmp_path):
    clip, out = make_clip(), tmp_path / "out"
    (tmp_path / "no.mp4").write_text("no clip")
    small = {"settings": {"steps": 2}}
    jobs = read(
        row(str(clip), **small),
        row("missing.mp4"),
        row("../no.mp4"),
        row(str(clip), id="b", settings={"stepz": 2}),
        row(str(clip), id="c", method="flowedt"),
        row(str(clip), id="d", backbone="wan2.1-14b", weights=None),
        row(str(clip), id="e", frames="30:40"),
        row(str(clip), id="f", mask="m.png"),
    )
    for job in jobs:
        rows.check(job, is_cluster=False)
    assert set(problems(jobs)) == {2, 5, 6, 8}  # for next to nothing: no clip is read
    for job in jobs:
        if job.status == "waiting" and (outcome := rows.probe(job.task, is_cluster=False)):
            job.finish(outcome)
    told = problems(jobs)
    assert {job.line: job.code for job in jobs if job.code} == {
        2: 2, 3: 2, 4: 2, 5: 2, 6: 3, 7: 2, 8: 2,
    }  # fmt: skip
    assert told[2] == f"there is no file {tmp_path}/rows/missing.mp4"
    assert "no.mp4" in told[3]
    assert "stepz" in told[4]
    assert "did you mean flowedit" in told[5]
    assert "hf download" in told[6]
    assert not out.exists()  # whether a place can be written was tried, and nothing left there
    (far,) = (job for job in read(row(str(clip), backbone="wan2.1-14b")))
    rows.check(far, is_cluster=True)
    assert rows.probe(far.task, is_cluster=True) is None
    assert far.status == "waiting"  # another machine may have its weights


@pytest.mark.filterwarnings("ignore::holdfast.base.notices.Notice")  # no scene of its world
def test_a_job_that_is_done_is_skipped_until_its_row_or_its_clip_changes(
    read, make_clip, tmp_path, shapeworld
):
    from holdfast.pipeline import run

    clip = make_clip()
    (job,) = read(row(str(clip), settings={"steps": 2}))
    run.edit(job.task, shapeworld).save()
    again, other = read(
        row(str(clip), settings={"steps": 2}), row(str(clip), id="b", settings={"steps": 2})
    )
    (changed,) = read(row(str(clip), settings={"steps": 2}, seed=1))
    for one in (again, other, changed):
        rows.check(one, is_cluster=False)
    assert [one.status for one in (again, other, changed)] == ["skipped", "waiting", "waiting"]
    shutil.copy(make_clip("other.mp4", frames=5), clip)
    (again,) = read(row(str(clip), settings={"steps": 2}))
    rows.check(again, is_cluster=False)
    assert again.status == "waiting"
    assert Path(again.output).exists()

"""Which rows are marked as best, whose costs count, and text that other programs would take for something else."""

import csv
import io
import json
import warnings

from holdfast.base.files import write_json
from holdfast.bench import plan, plots, records, tables
from holdfast.bench.datasets.base import Case
from holdfast.bench.results import Results


def made_of(folder, figures, others=None):
    """Results of rows and cases; figures: of each (row, case), None where it failed, none where it is not done.
    others: what else their records hold.
    """
    rows = [plan.Variant(name, "x") for name in dict.fromkeys(row for row, _ in figures)]
    names = dict.fromkeys(case for _, case in figures)
    cases = [Case(name, "c.mp4", "s", "t") for name in names]
    folder.mkdir(exist_ok=True)
    write_json(
        folder / "bench.json",
        {
            **{"dataset": "d", "seed": 0, "weights": None, "dtype": "auto", "commands": ["run"]},
            "rules": {"mask": "m", "not a number": "n"},
            "rows": [vars(row) for row in rows],
            "cases": [vars(case) for case in cases],
        },
    )
    for row in rows:
        for case in cases:
            if (row.method, case.name) not in figures:
                continue
            place = records.cell_folder(folder, row, case)
            place.mkdir(parents=True)
            found = figures[row.method, case.name]
            record = {
                "row": row.label,
                "case": case.name,
                **{"kind": "", "group": "", "left_out": {}},
                "figures": found or {"truth_psnr@all": 99.0},
            }
            record |= {"error": None if found else "why"}
            record |= (others or {}).get((row.method, case.name), {})
            write_json(place / "cell.json", record)
    return Results(folder)


def over_cases(**rows):
    """Figures truth_psnr@all (higher is better) by row, one value a case; None where the row has not that case."""
    return {
        (row, f"c{i}"): {"truth_psnr@all": float(value)}
        for row, values in rows.items()
        for i, value in enumerate(values)
        if value is not None
    }


FIGURE = "truth_psnr@all"


def test_all_rows_that_are_not_significantly_worse_are_marked(tmp_path):
    base = [20, 25, 30, 22, 27, 33, 21, 24]
    near = [value + shift for value, shift in zip(base, (0.1, -0.3, 0.2, -0.1) * 2, strict=True)]
    far = [value - 2 + 0.1 * (i % 2) for i, value in enumerate(base)]
    results = made_of(tmp_path, over_cases(top=base, near=near, far=far))
    assert results.find_best(FIGURE) == {"top on x", "near on x"}
    # Alone the intervals overlap: what tells `far` apart is the difference clip by clip.
    top, far = results.variants[0], results.variants[2]
    assert results.estimate(far, FIGURE).high > results.estimate(top, FIGURE).low
    assert results.difference(top, far, FIGURE).low > 0


def test_rows_are_compared_over_the_clips_that_they_share(tmp_path):
    """`masked` leaves out the clips that are hard for all: its mean is higher, and it is not better."""
    rows = over_cases(
        all=[30, 31, 32, 33, 30, 31, -90, -90],
        masked=[29, 30.1, 31, 32.1, 29, 30.1, None, None],
    )
    results = made_of(tmp_path, rows)
    every, masked = results.variants
    assert results.estimate(masked, FIGURE).mean > results.estimate(every, FIGURE).mean
    assert results.find_best(FIGURE) == {"all on x"}
    assert "(6)" in results.best_note
    assert "**" in tables.format_markdown(results)


def test_a_row_with_few_clips_does_not_leave_the_others_without_any(tmp_path):
    rows = over_cases(good=[30, 31, 32, 33], bad=[20, 21, 22.1, 23], begun=[None, None, None, 50])
    results = made_of(tmp_path, rows)
    assert results.find_best(FIGURE) == {"good on x"}


def test_the_best_is_the_lowest_where_less_is_better_and_one_clip_compares_nothing(tmp_path):
    cells = {
        (row, case): {"lpips@full": value + shift, "edit_success@any_edit": 1.0}
        for row, value in (("a", 0.3), ("b", 0.1))
        for case, shift in (("first", 0), ("second", 0.01), ("third", 0.005))
    }
    results = made_of(tmp_path / "a", cells)
    assert results.find_best("lpips@full") == {"b on x"}
    assert results.find_best("edit_success@any_edit") == {"a on x", "b on x"}
    alone = made_of(tmp_path / "b", {key: cells[key] for key in (("a", "first"), ("b", "first"))})
    assert alone.find_best("lpips@full") == set()


def test_a_rate_is_in_per_cent_and_few_clips_are_said(tmp_path):
    cells = {("a", f"c{i}"): {"edit_success@any_edit": float(i > 0)} for i in range(10)}
    text = tables.format_markdown(made_of(tmp_path, cells))
    assert "90 % [60, 98] (n=10, few)" in text
    assert "With n below 20" in text


def test_costs_of_another_machine_are_left_out_and_said(tmp_path):
    cells = over_cases(a=[1, 2, 3], b=[1, 2, 3])
    here = {"machine": "one", "device": "cuda:0", "seconds": 10.0, "peak_memory_mb": 5.0}
    there = here | {"machine": "two", "seconds": 1.0}
    on_cpu = here | {"device": "cpu", "seconds": 100.0}
    others = dict.fromkeys(cells, here) | {("a", "c0"): there, ("b", "c1"): on_cpu}
    results = made_of(tmp_path, cells, others)
    a, b = results.variants
    assert (results.estimate(a, "seconds").mean, results.estimate(a, "seconds").n) == (10, 2)
    assert results.estimate(b, "seconds").mean == 10
    assert results.difference(a, b, "seconds").n == 1  # the clip that both have done there
    assert results.estimate(a, FIGURE).n == 3  # figures do not depend on the machine
    text = tables.format_markdown(results)
    assert (
        "are over 4 cells that ran on one, cuda:0; those of 1 on two, cuda:0 and 1 on one, cpu"
        in text
    )
    alike = made_of(tmp_path / "alike", cells, dict.fromkeys(cells, here))
    assert alike.costs_note == ""


def of_kinds(folder, **kinds):
    """Results of rows a and b over cases c0, c1, ... of these kinds; b is 1 better for colours, 1 worse otherwise."""
    values = [(f"c{i}", kind) for i, kind in enumerate(kinds.pop("kinds"))]
    cells = {
        (row, case): {
            "truth_psnr@all": 20.0 + i + (row == "b") * (1 if kind == "colour" else -1),
            "x@y": 1.0,
        }
        for i, (case, kind) in enumerate(values)
        for row in "ab"
    }
    made_of(folder, cells)
    info = json.loads((folder / "bench.json").read_text())
    for case, (_, kind) in zip(info["cases"], values, strict=True):
        case["kind"] = kind
    write_json(folder / "bench.json", info)
    return Results(folder)


def test_a_table_has_a_group_of_lines_for_each_kind_of_edit(tmp_path):
    results = of_kinds(tmp_path, kinds=["colour", "shape", "colour", "", "colour"])
    assert results.kinds == ["colour", "shape", ""]
    a, b = results.variants
    colour = results.of_kind("colour")
    assert colour.values(a, FIGURE) == {"c0": 20, "c2": 22, "c4": 24}
    assert colour.difference(b, a, FIGURE).mean == 1
    assert results.of_kind("shape").difference(b, a, FIGURE).mean == -1
    assert results.values(a, FIGURE).keys() == {"c0", "c1", "c2", "c3", "c4"}  # of all kinds still
    lines = tables.format_markdown(results).splitlines()
    start = lines.index("| metric, by kind of edit | a on x | b on x |")
    groups = [line.split("**")[1] for line in lines[start:] if line.startswith("| **")]
    assert groups == ["colour", "shape", "no kind"]
    assert lines[start + 3] == "| clips: done / failed / not done | 3 / 0 / 0 | 3 / 0 / 0 |"
    assert lines[start + 4].startswith("| `truth_psnr@all` ↑ | 22")
    assert not [line for line in lines[start:] if "x@y" in line]  # the main values alone
    found = list(csv.DictReader(io.StringIO(tables.format_kinds_csv(results, a))))
    means = {
        (line["kind"], line["row"]): line["mean"] for line in found if line["figure"] == FIGURE
    }
    assert means["colour", "b on x"] == "23.0"
    assert means["shape", "b on x"] == "20.0"
    assert of_kinds(tmp_path / "one", kinds=["colour", "colour"]).kinds == []


ODD = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\tx", "＝1")


def test_csv_text_that_looks_like_a_formula_is_quoted_and_numbers_stay(tmp_path):
    cells = {("a", f"c{i}"): {"truth_gain_db": -1.5} for i in range(len(ODD))}
    others = {key: {"kind": text, "group": text} for key, text in zip(cells, ODD, strict=True)}
    results = made_of(tmp_path, cells, others)
    lines = list(csv.reader(io.StringIO(tables.format_cells_csv(results), newline="")))
    texts = [cell for line in lines for cell in line]
    assert not [t for t in texts if t.startswith(tables.FORMULA) and t != "-1.5"]
    assert "-1.5" in texts
    assert "'=1+1" in texts


def test_names_of_any_text_leave_markdown_and_plots_whole(tmp_path):
    cells = {
        ("a", f"c{i}"): {
            f"clip_t/a|b`{'c'}": 20.0 + i,
            "truth_psnr@all": 30.0 + i,
            "x@$_{$": 1.0 + i,
        }
        for i in range(4)
    }
    odd = ("$x_{$ cheap", "a|b\nc", "\x1b[0m", "日本 🎈")
    others = {
        key: {"kind": kind, "group": "$", "seconds": 1.0, "frames": 3}
        for key, kind in zip(cells, odd, strict=True)
    }
    results = made_of(tmp_path, cells, others)
    results.info["commands"] = ["run `x` | y"]
    lines = tables.format_markdown(results).splitlines()
    table = [line for line in lines if line.startswith("|")]
    bars = {line.replace("\\|", "").count("|") for line in table}
    assert bars == {3}
    assert "Command: `` run `x` | y ``." in "\n".join(lines)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = plots.make_plots(results, "x@$_{$")
    assert "$x_{$ cheap" in drawn["Quality by kind of edit"]
    assert "\x1b" not in drawn["Quality by kind of edit"]


def test_text_in_markdown_makes_no_markup():
    assert tables.escape_markdown("a*b*\n<i> `c` $x$") == r"a\*b\* \<i\> \`c\` \$x\$"
    assert tables.escape_markdown("![](http://a) x[1]") == r"![]\(http://a) x[1]"
    assert tables.as_code("a") == "`a`"
    assert tables.as_code("a ``b") == "``` a ``b ```"


def test_a_failed_cell_has_no_figures(tmp_path):
    one = {"truth_psnr@all": 30.0}
    cells = {("a", "first"): one, ("a", "second"): None, ("b", "first"): one, ("b", "second"): one}
    results = made_of(tmp_path, cells)
    row = results.variants[0]
    assert results.values(row, "truth_psnr@all") == {"first": 30.0}
    assert results.counts(row) == {"done": 1, "failed": 1, "not done": 0}
    assert results.failures() == [("a on x", "second", "why")]

"""HTML for the tab that keeps an edit made elsewhere: what was found, as a sentence and a table."""

from collections.abc import Mapping
from typing import Any

from .messages import MessageFormatter


def render_report(manifest: Mapping[str, Any], formatter: MessageFormatter) -> str:
    """Return what a finished run found: its sentence, what was verified of its file, a table, and its notes."""
    from ..conform.report import report_lines
    from ..conform.writer import describe_delivery

    manifest = _restore_numbers(dict(manifest))
    sentences = [manifest["report"]["sentence"]]
    if "delivered" in manifest:
        sentences.append(describe_delivery(manifest))
    head = "".join(f"<p>{formatter.to_html(text)}</p>" for text in sentences)
    rows = (line.partition(": ") for line in report_lines(manifest["report"]))
    cells = "".join(
        f"<tr><th>{formatter.to_html(name.capitalize())}</th><td>{formatter.to_html(text)}</td></tr>"
        for name, _, text in rows
    )
    notes = formatter.list_html([f"note: {text}" for text in manifest["notes"]])
    return f'{head}<table class="report">{cells}</table>{notes}'


def _restore_numbers(data: Any) -> Any:
    """Return data with the numbers that JSON cannot hold: a manifest has them as texts."""
    if isinstance(data, dict):
        return {key: _restore_numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_restore_numbers(value) for value in data]
    return float(data) if data in ("inf", "-inf", "nan") else data

"""A prompt as a model reads it. Words are counted and tokens are placed in this text alone, so that both agree."""

import html
import re


def clean_prompt(text: str) -> str:
    """Return a prompt with its encoding repaired (NFC), HTML entities resolved twice, and single spaces.

    As the authors of CLIP and of Wan do before their tokenizers. Apply it once: a text that names an entity three
    times over changes each time.
    """
    import ftfy

    resolved = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", resolved).strip()

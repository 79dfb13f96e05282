"""Words: the tokenizers of the world's vocabulary, and a text encoder that binds each word to its thing.

Left to the denoising loss alone, a small encoder mixes the attributes of two actors up. So it is first taught to tell,
from the state of every word, all attributes of the thing that the word belongs to; the head that reads them is
thrown away.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..scenes import BACKDROPS, COLOURS, DIRECTIONS, MATERIALS, PANS, SHAPES, SPEEDS, Scene
from .loop import Budget, Stage, device, draw_training_scenes

LENGTH = 32  # tokens; three actors and a pan are 30 words with the two marks
ATTRIBUTES = {
    "shape": SHAPES,
    "colour": COLOURS,
    "material": MATERIALS,
    "verb": tuple(SPEEDS),
    "direction": tuple(DIRECTIONS),
    "backdrop": BACKDROPS,
    "pan": tuple(PANS),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
CONNECTIVES = ("a", "and", "over", "while", "the", "camera", "pans", "nothing")
IGNORED = -100  # a label that the loss leaves out


def vocabulary() -> list[str]:
    """Every word that a caption can have."""
    return sorted({w for values in ATTRIBUTES.values() for w in values if w} | set(CONNECTIVES))


def new_t5_tokenizer():
    """A T5 tokenizer of the world's own words, each one piece, and letters for everything else."""
    from transformers import T5TokenizerFast

    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces = [("\u2581" + w, -1.0) for w in vocabulary()] + [("\u2581", -8.0)]
    letters = [(c, -10.0) for c in LETTERS]
    return T5TokenizerFast(vocab=marks + pieces + letters, extra_ids=0, model_max_length=LENGTH)


def merge_pairs(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: join the pair of the lowest rank until none is left."""
    while True:
        pairs = [p for p in pairwise(symbols) if p in ranks]
        if not pairs:
            return symbols
        best, joined, i = min(pairs, key=ranks.__getitem__), [], 0
        while i < len(symbols):
            pair = tuple(symbols[i : i + 2]) == best
            joined.append("".join(symbols[i : i + 2]) if pair else symbols[i])
            i += 2 if pair else 1
        symbols = joined


def new_clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces and merges under which each of the world's words is one piece.

    A merge that comes later never splits an earlier word: of all pairs, encoding joins the lowest rank first.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        pieces = merge_pairs([*word[:-1], word[-1] + "</w>"], ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = merge_pairs([*word[:-1], word[-1] + "</w>"], ranks)
    names = [*LETTERS, *(c + "</w>" for c in LETTERS), *("".join(pair) for pair in ranks)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return {name: i for i, name in enumerate(dict.fromkeys(names))}, list(ranks)


def new_clip_tokenizer():
    from transformers import CLIPTokenizer

    vocabulary, merges = new_clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def phrases(scene: Scene) -> list[tuple[int, dict[str, str]]]:
    """The caption's stretches in order: how many words each has, and the attributes of the thing it is about."""
    found: list[tuple[int, dict[str, str]]] = []
    for actor in scene.actors:
        told = {
            name: getattr(actor, name)
            for name in ("shape", "colour", "material", "verb", "direction")
        }
        found += [(len(actor.caption().split()), told), (1, {})]  # and the "and" or "over" after it
    found += [(2, {"backdrop": scene.backdrop})]
    return found + ([(5, {"pan": scene.pan})] if scene.pan else [])


def attribute_labels(scenes: list[Scene], first: int, causal: bool) -> Tensor:
    """What each token should tell, n LENGTH attributes: the index of a value, or UNTOLD.

    first: the place of the first word's token. causal: a word cannot tell what its phrase names only after it.
    """
    table = torch.full((len(scenes), LENGTH, len(ATTRIBUTES)), IGNORED)
    for row, scene in enumerate(scenes):
        caption, at = scene.caption().split(), 0
        for count, told in phrases(scene):
            for place in range(at, at + count):
                said = caption[at : place + 1] if causal else caption[at : at + count]
                for column, (name, values) in enumerate(ATTRIBUTES.items()):
                    if told.get(name) and told[name] in said:
                        table[row, place + first, column] = values.index(told[name])
            at += count
    return table


class AttributeReader(nn.Module):
    """The head that is thrown away: every attribute's value from one word's state."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, sum(len(v) for v in ATTRIBUTES.values()))

    def forward(self, states: Tensor, told: Tensor) -> Tensor:
        """Mean cross-entropy over all that is to be told. states: n L d; told: n L attributes."""
        total = states.new_zeros((), dtype=torch.float32)
        parts = self.linear(states.float()).split([len(v) for v in ATTRIBUTES.values()], -1)
        for found, true in zip(parts, told.unbind(-1), strict=True):
            rows = found.flatten(0, 1)
            total = total + functional.cross_entropy(
                rows, true.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        return total / (told != IGNORED).sum().clamp(min=1)


def tokenize(tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask at the full length, on the device."""
    found = tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    return found.input_ids.to(device()), found.attention_mask.to(device())


def train_binding(run: Stage, tokenizer, encode, budget: Budget, batch: int = 64) -> None:
    """The first stage. run.model: "text_encoder" and "reader"; encode(text_encoder, ids, mask) gives the states."""
    causal = tokenizer.bos_token_id is not None
    for i in run.steps(budget):
        scenes = draw_training_scenes(batch, f"binding/{i}")
        ids, mask = tokenize(tokenizer, [s.caption() for s in scenes])
        states = encode(run.model["text_encoder"], ids, mask)
        loss = run.model["reader"](states, attribute_labels(scenes, int(causal), causal).to(ids))
        run.descend(loss)
        run.log({"loss": loss.detach()})

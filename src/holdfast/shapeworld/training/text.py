"""Build the tokenizers of the world's vocabulary, and train a text encoder that binds each word to its object.

With the denoising loss alone, a small encoder mixes up the attributes of two actors. It is therefore first trained to
predict, from the state of every word, all attributes of the object that the word belongs to. The head that reads them
is discarded.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..scenes import BACKDROPS, COLOURS, DIRECTIONS, MATERIALS, PANS, SHAPES, SPEEDS, Scene
from .loop import Budget, Stage, device, draw_training_scenes

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerBase

LENGTH = 32  # tokens; three actors and a pan take 30, with the two special tokens
ATTRIBUTES = {
    "shape": SHAPES,
    "colour": COLOURS,
    "material": MATERIALS,
    "verb": tuple(SPEEDS),
    "direction": tuple(DIRECTIONS),
    "backdrop": BACKDROPS,
    "pan": tuple(PANS),
}
ACTOR_ATTRIBUTES = ("shape", "colour", "material", "verb", "direction")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
CONNECTIVES = ("a", "and", "over", "while", "the", "camera", "pans", "nothing")
IGNORED = -100  # a label that the loss ignores


def vocabulary() -> list[str]:
    """Return every word that a caption can have."""
    return sorted({w for values in ATTRIBUTES.values() for w in values if w} | set(CONNECTIVES))


def new_t5_tokenizer() -> "PreTrainedTokenizerBase":
    """Return a T5 tokenizer with one piece for each word of the world, and letters for everything else."""
    # transformers builds this name at run time
    from transformers import T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces = [("\u2581" + w, -1.0) for w in vocabulary()] + [("\u2581", -8.0)]
    letters = [(c, -10.0) for c in LETTERS]
    return T5TokenizerFast(vocab=special + pieces + letters, extra_ids=0, model_max_length=LENGTH)


def merge_pairs(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Encode one word by byte-pair encoding: merge the pair of the lowest rank until no pair has a rank."""
    while True:
        pairs = [p for p in pairwise(symbols) if p in ranks]
        if not pairs:
            return symbols
        best, merged, i = min(pairs, key=ranks.__getitem__), [], 0
        while i < len(symbols):
            is_best = tuple(symbols[i : i + 2]) == best
            merged.append("".join(symbols[i : i + 2]) if is_best else symbols[i])
            i += 2 if is_best else 1
        symbols = merged


def new_clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return pieces and merges under which each word of the world is one piece.

    A later merge never splits an earlier word, because encoding merges the pair of the lowest rank first.
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


def new_clip_tokenizer() -> "CLIPTokenizer":
    """Return a CLIP tokenizer with one piece for each word of the world."""
    from transformers import CLIPTokenizer

    vocabulary, merges = new_clip_vocabulary()
    # transformers types the merges as texts, and takes pairs as well
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # pyright: ignore[reportArgumentType]
        model_max_length=LENGTH,
    )


def phrases(scene: Scene) -> list[tuple[int, dict[str, str]]]:
    """Return the caption's phrases in order: the number of words, and the attributes of the object it describes."""
    parts: list[tuple[int, dict[str, str]]] = []
    for actor in scene.actors:
        attributes = {name: getattr(actor, name) for name in ACTOR_ATTRIBUTES}
        parts += [(len(actor.caption().split()), attributes), (1, {})]  # then "and" or "over"
    parts += [(2, {"backdrop": scene.backdrop})]
    return parts + ([(5, {"pan": scene.pan})] if scene.pan else [])


def attribute_labels(scenes: list[Scene], first: int, causal: bool) -> Tensor:
    """Return the label of each token and attribute, n LENGTH attributes: the index of a value, or IGNORED.

    first: the position of the first word's token. causal: label a word only with values that its phrase has named by
    then.
    """
    table = torch.full((len(scenes), LENGTH, len(ATTRIBUTES)), IGNORED)
    for row, scene in enumerate(scenes):
        caption, start = scene.caption().split(), 0
        for count, attributes in phrases(scene):
            for i in range(start, start + count):
                readable = caption[start : i + 1] if causal else caption[start : start + count]
                for column, (name, values) in enumerate(ATTRIBUTES.items()):
                    if attributes.get(name) and attributes[name] in readable:
                        table[row, i + first, column] = values.index(attributes[name])
            start += count
    return table


class AttributeReader(nn.Module):
    """The discarded head: it predicts every attribute's value from one word's state."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, sum(len(v) for v in ATTRIBUTES.values()))

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy over all labels. states: n L d; labels: n L attributes."""
        total = states.new_zeros((), dtype=torch.float32)
        parts = self.linear(states.float()).split([len(v) for v in ATTRIBUTES.values()], -1)
        for logits, column in zip(parts, labels.unbind(-1), strict=True):
            rows = logits.flatten(0, 1)
            total = total + functional.cross_entropy(
                rows, column.flatten(), ignore_index=IGNORED, reduction="sum"
            )
        return total / (labels != IGNORED).sum().clamp(min=1)


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return ids and mask at the full length, n LENGTH, on the device."""
    batch = tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    return batch.input_ids.to(device()), batch.attention_mask.to(device())


def train_binding(
    stage: "Stage[nn.ModuleDict]",
    tokenizer: "PreTrainedTokenizerBase",
    encode: Callable[[nn.Module, Tensor, Tensor], Tensor],
    budget: Budget,
    batch: int = 64,
) -> None:
    """Train the first stage of a text encoder.

    stage.model holds "text_encoder" and "reader". encode(text_encoder, ids, mask) returns the states, n L d.
    """
    causal = tokenizer.bos_token_id is not None
    for i in stage.steps(budget):
        scenes = draw_training_scenes(batch, f"binding/{i}")
        ids, mask = tokenize(tokenizer, [s.caption() for s in scenes])
        states = encode(stage.model["text_encoder"], ids, mask)
        loss = stage.model["reader"](states, attribute_labels(scenes, int(causal), causal).to(ids))
        stage.descend(loss)
        stage.log({"loss": loss.detach()})

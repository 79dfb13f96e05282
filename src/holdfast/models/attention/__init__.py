"""Attention of a network: hooks on its layers, maps made from it, and two ways to change it."""

from .hooks import (
    Layer,
    LayerFilter,
    LayerHooks,
    NetworkCall,
    Rule,
    any_layer,
    is_cross,
    record,
    use_rule,
)

__all__ = [
    "Layer",
    "LayerFilter",
    "LayerHooks",
    "NetworkCall",
    "Rule",
    "any_layer",
    "is_cross",
    "record",
    "use_rule",
]

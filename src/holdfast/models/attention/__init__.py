"""Attention: the door (sites, rules), maps of it (heat, the automatic mask), and what methods make of it."""

from .hooks import Call, Door, Rule, Site, Where, cross, edit, everywhere, record

__all__ = ["Call", "Door", "Rule", "Site", "Where", "cross", "edit", "everywhere", "record"]

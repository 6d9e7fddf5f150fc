"""Losses: one file each, found by its name; each defines a class ``Loss``."""

"""Fused replacements for the portable step, each tested against it."""

"""Fused replacements of the portable step, each held to it by tests."""

"""Fused replacements for the portable step, printed from the portable formulas.

    tracing.py     a formula, called with symbols, as an expression
    formulas.py    the formulas of a step: of activations, losses, rules, and layers along rows
    operations.py  what a step is made of
    plan.py        which of them, in order: decided once
    barrier.py     where ranks that share a batch sum its gradient
    plan_table.py  a plan as a table to read
    printing.py    an expression as Python for Numba, or as C for CUDA
    cpu, cuda      the loops around the expressions, and what runs them

Each fused step is tested against the portable one.
"""

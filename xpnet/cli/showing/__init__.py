"""What ``xpnet show`` prints: a run, its curves, a folder of runs, the columns of a table."""

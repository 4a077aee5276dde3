"""Models: matrices of tables, fitting block by block, scores, files. Imports scikit-learn only where it is called."""

PART = "part"
"""The column that `split` adds, and by which steps choose the rows to learn from and to evaluate on."""

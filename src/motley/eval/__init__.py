"""Quality and routes, measured: perplexity of a text, divergence from a reference run, and which experts tokens choose.

Drives a Runner through whole texts; knows nothing of nodes or the command line. What each figure means: docs/eval.md.
"""

"""Tool calls and reasoning in the families' own formats: `dialects.py` is the table, `reader.py` reads by it."""

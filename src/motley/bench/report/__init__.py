"""The HTML report: one file, no network. `page` assembles it, `charts` draws, `svg` escapes, `report.*` is its look."""

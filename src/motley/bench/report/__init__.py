"""The HTML report: one file, no network. `page` assembles it, `charts` draws; the look is `motley.page`'s."""

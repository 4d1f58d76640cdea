"""Pages: what the HTML files that Motley writes have in common. `svg` escapes, `look.css` is the look, `template` reads
templates. A page is one file: no network, no script, light and dark."""

"""The page of a running server: the cluster as a picture, the experts as they work, chat, what-if, results.

One page without a build step or anything from elsewhere: `static/` is what the browser gets. `routes.py` has its
addresses, `view.py` says what the pictures are drawn from, `planner.py` answers what-if in a process of its own. The
chart library in `static/uplot` is uPlot 1.6.32 (MIT, its licence beside it), unchanged.
"""

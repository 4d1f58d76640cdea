"""The board's pages and its JSON API, on starlette: `routes(board)` to mount, `application(board)` to serve alone.

Server-rendered: no script is needed and none is allowed. Whatever came from others is escaped by the template engine.
"""

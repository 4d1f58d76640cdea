"""HTTP: the OpenAI API over one loaded model, and what a page needs to watch it.

Read `app.py` first: `build_app(service, ...)`. Owns no tensors: `scheduler.py` drives an `engine.Engine`.
"""

"""The board: anyone asks for a benchmark, gets a prediction at once and a measurement when it has run.

`ask` is what people write, `question` what it means, `forecast` its prediction, `store` what is kept, `board` what may
be done, `runner` works through the queue, `web` shows it all, `export` writes it as a static site.
"""

"""Answers to published rows: each row that can be, predicted by the cost model with catalogue devices."""

from collections.abc import Iterator
from functools import partial
from math import exp
from pathlib import Path

from motley.errors import MotleyError
from motley.lab.hardware import Hardware
from motley.lab.lab import Device
from motley.lab.profile import device, profile, spread
from motley.predict.cost import CostModel
from motley.predict.predict import Z90, price
from motley.predict.published.question import Question, Refused, ask
from motley.predict.published.rows import Answer, Row, read_rows
from motley.predict.workload import Workload


def answers(path: str | Path) -> Iterator[Answer]:
    """One for each row of the file, in its order."""
    return map(answer, read_rows(path))


def answer(row: Row) -> Answer:
    try:
        question = ask(row)
        speed = tokens_per_s(question)
    except Refused as error:
        return Answer(row.row_id, reason=str(error))
    except MotleyError as error:
        return Answer(row.row_id, reason=f"cannot be priced: {error}")
    except (ArithmeticError, ValueError) as error:  # of numbers that no rule foresaw; the other rows are answered
        return Answer(row.row_id, reason=f"cannot be priced: the row's numbers do not fit together ({error})")
    factor = exp(Z90 * sigma(question))
    return Answer(row.row_id, speed / factor, speed, speed * factor, "; ".join(question.doubts))


def tokens_per_s(question: Question) -> float:
    """Of all sequences together. Raises Refused where the model does not fit."""
    return 1e3 * question.tokens / sum(times * step_ms(question, workload) for times, workload in question.steps)


def step_ms(question: Question, workload: Workload) -> float:
    key = question.same, workload
    if key not in _priced:
        _priced[key] = _step_ms(question, workload)
    return _priced[key]


_priced: dict[object, float] = {}  # tables ask the same of many versions


def _step_ms(question: Question, workload: Workload) -> float:
    of_card = question.members[0][1]
    lab, placement = question.lab(_described, reduce_us=profile(of_card, question.engine).reduce_us)
    return price(CostModel(question.stated.shape, lab, workload), placement).ms_per_step


def _described(hardware: Hardware, engine: str, backend: str) -> Device:
    return device(hardware, engine, backend=backend)


def domain(question: Question) -> str:
    """Which spread of measured speeds a question belongs to."""
    if question.prompt is not None:
        return "serving"
    if question.workload.kind == "prefill":
        return "prefill"
    if question.workload.batch > 1:
        return "batch"
    if question.n_devices > 1:
        return "several"
    return "decode moe" if question.stated.shape.n_experts else "decode dense"


def sigma(question: Question) -> float:
    """Of the logarithm: the widest of the members'."""
    of = partial(spread, domain(question), doubted=bool(question.doubts))
    return max(of(hardware) for _, hardware in question.members)

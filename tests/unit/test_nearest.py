"""What others measured, nearest to a question."""

from labs import device, lab

from motley.lab.hardware import hardware
from motley.lab.lab import Lab
from motley.lab.profile import device as catalogued
from motley.predict.published.nearest import described, every_measured, nearest
from motley.predict.workload import Workload
from motley.shape.model import ModelShape


def test_every_measurement_is_of_a_known_model_and_device() -> None:
    found = every_measured()
    assert len(found) > 500
    for m in found:
        assert hardware(m.device).key == m.device
        assert m.tokens_per_s > 0
        assert m.active_gb > 0
        assert m.workload.batch >= 1


def test_the_same_model_on_the_same_device_is_nearest() -> None:
    card = Lab((catalogued(hardware("rtx-4090"), "llama.cpp", "card"),))
    shape = ModelShape.named("gpt-oss-20b", "mxfp4")
    first, *others = nearest(shape, card, ["card"], Workload())
    assert (first.model, first.device) == ("gpt-oss-20b", "rtx-4090")
    assert len({(m.model, m.device) for m in (first, *others)}) == 3
    assert "gpt-oss-20b MXFP4 on rtx-4090" in str(first)


def test_a_probed_lab_has_no_neighbours() -> None:
    assert described(device("a")) is None
    assert nearest(ModelShape.named("gpt-oss-20b"), lab(device("a")), ["a"], Workload()) == []

import pytest

from llmedge.measure.calibration import CalibrationOptions
from llmedge.quantize.probe_text import draw_probe_text


def test_one_language_gives_four_chunks_that_count_alike(tiny_model):
    text, weights = draw_probe_text(tiny_model, CalibrationOptions({"en": 1.0}))
    assert [len(chunk) for chunk in text.chunks] == [64] * 4
    assert text.n_tokens == 256
    assert text.n_skipped == 24
    assert weights == pytest.approx((0.25,) * 4)


def test_several_kinds_share_the_tokens_and_count_as_weighed(tiny_model):
    kinds = {"en": 0.5, "hi": 0.3, "code": 0.2}
    text, weights = draw_probe_text(tiny_model, CalibrationOptions(kinds))
    assert text.n_tokens == 256
    assert sum(weights) == pytest.approx(1)
    assert len(weights) == len(text.chunks) == 4


def test_of_many_kinds_the_heaviest_are_taken(tiny_model):
    kinds = dict.fromkeys(("en", "hi", "ta", "bn", "te", "mr", "gu", "kn", "ml", "pa"), 1.0)
    text, _ = draw_probe_text(tiny_model, CalibrationOptions(kinds))
    assert len(text.chunks) == 8
    assert text.n_tokens == 256


def test_the_seed_draws_other_chunks(tiny_model):
    one, _ = draw_probe_text(tiny_model, CalibrationOptions({"en": 1.0}, seed=1))
    same, _ = draw_probe_text(tiny_model, CalibrationOptions({"en": 1.0}, seed=1))
    other, _ = draw_probe_text(tiny_model, CalibrationOptions({"en": 1.0}, seed=2))
    assert one == same != other

import msgspec

from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve.native_answer import generation_settings, only


def test_settings_are_json_whatever_is_biased():
    sampling = SamplingOptions(seed=0, logit_bias=((5, float("-inf")),))
    settings = msgspec.json.decode(msgspec.json.encode(generation_settings(sampling, n_predict=3)))
    assert (settings["seed"], settings["n_predict"]) == (0, 3)
    assert settings["logit_bias"] == [{"token": 5, "bias": -9999.0}]


def test_a_field_below_another_keeps_its_whole_name():
    answer = {"a": {"b": 1}, "c": None}
    assert only(answer, ["a/b", "c", "a/x", "c2", "x/y"]) == {"a/b": 1, "c": None}

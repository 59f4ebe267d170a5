from llmedge.engine.clerk import Prepared
from llmedge.engine.generation import Generation, TextPrompt
from llmedge.engine.run import Run
from llmedge.engine.sequence import Sequence


class NoSampler:
    def sample(self, index: int) -> int:
        raise AssertionError


def new_run() -> Run:
    sequence = Sequence(1, [1, 2, 3], NoSampler())
    prepared = Prepared(Generation(TextPrompt("x")), [1, 2, 3], (), NoSampler(), None)  # type: ignore[arg-type]
    return Run(sequence, prepared)


def test_progress_is_told_once_for_each_step_forward():
    run = new_run()
    assert run.progress() == []
    run.sequence.started_s = 0.0
    run.sequence.n_computed = 1
    assert [told.n_done for told in run.progress()] == [0, 1]
    assert run.progress() == []
    run.sequence.n_computed = 9
    assert [told.n_done for told in run.progress()] == [3]

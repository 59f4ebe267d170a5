from llmedge.engine.plan import Plan
from tests.engine.fake_backend import FakeBackend, new_sequence


def test_tokens_come_with_their_sequence_and_their_place():
    backend = FakeBackend(n_cells=64, n_batch=8)
    sequence = new_sequence(backend, 7, [1, 2, 3], 4)
    plan = Plan()
    plan.add(sequence, [1, 2], 1)
    (item,) = plan.items
    assert (list(item.tokens), item.position, item.n_outputs) == ([1, 2], 0, 1)
    assert plan.sequences == [sequence]

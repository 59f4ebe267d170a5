import pytest

from llmedge.core.closable import Closable


class Door(Closable):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_block_closes_at_its_end_and_after_an_error():
    door = Door()
    with door as inside:
        assert inside is door
    assert door.closed == 1
    with pytest.raises(KeyError), door:
        raise KeyError
    assert door.closed == 2


def test_whoever_closes_says_how():
    with pytest.raises(NotImplementedError), Closable():
        pass

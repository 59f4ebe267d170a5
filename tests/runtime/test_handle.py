import gc
import threading

import pytest

from llmedge.runtime.handle import ClosedHandleError, Handle


class Freed:
    def __init__(self) -> None:
        self.names: list[str] = []


def test_closing_frees_once_and_twice_is_harmless():
    freed = Freed()
    handle = Handle("pointer", freed.names.append)
    assert handle.pointer == "pointer"
    handle.close()
    handle.close()
    assert freed.names == ["pointer"]
    assert handle.is_closed


def test_use_after_close_is_an_error_that_names_the_handle():
    handle = Handle("pointer", lambda _: None)
    handle.close()
    with pytest.raises(ClosedHandleError, match="Handle is closed"):
        _ = handle.pointer


def test_a_context_manager_closes_even_after_an_error():
    freed = Freed()
    with pytest.raises(KeyError), Handle("pointer", freed.names.append):
        raise KeyError
    assert freed.names == ["pointer"]


def test_what_lives_inside_is_closed_first():
    freed = Freed()
    owner = Handle("owner", freed.names.append)
    inside = Handle("inside", freed.names.append, owner=owner)
    owner.close()
    assert freed.names == ["inside", "owner"]
    assert inside.is_closed


def test_a_forgotten_handle_is_freed():
    freed = Freed()
    handle = Handle("pointer", freed.names.append)
    del handle
    gc.collect()
    assert freed.names == ["pointer"]


def test_an_owner_outlives_what_lives_inside():
    freed = Freed()
    inside = Handle("inside", freed.names.append, owner=Handle("owner", freed.names.append))
    gc.collect()
    assert freed.names == []
    inside.close()


def test_the_order_holds_in_a_cycle_of_garbage():
    freed = Freed()
    owner = Handle("owner", freed.names.append)
    inside = Handle("inside", freed.names.append, owner=owner)
    inside.me = inside  # type: ignore[attr-defined]
    del owner, inside
    gc.collect()
    gc.collect()
    assert freed.names == ["inside", "owner"]


def test_closing_waits_for_a_call_in_another_thread():
    freed = Freed()
    handle = Handle("pointer", freed.names.append)
    inside, go_on = threading.Event(), threading.Event()

    def call() -> None:
        with handle._lock:
            inside.set()
            go_on.wait()
            freed.names.append("call ended")

    caller = threading.Thread(target=call)
    caller.start()
    inside.wait()
    closer = threading.Thread(target=handle.close)
    closer.start()
    go_on.set()
    closer.join()
    caller.join()
    assert freed.names == ["call ended", "pointer"]

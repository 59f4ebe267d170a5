from llmedge.core.progress import SilentProgress


def test_silent_progress_shows_nothing(capsys):
    with SilentProgress().task("work", total=2, unit="runs") as task:
        task.update(1, "half")
    assert capsys.readouterr() == ("", "")

"""The state folder is closed, and its small files are whole."""

import os
from pathlib import Path

import pytest

from native.errors import StackError
from native.state import State, read_json, write_json


def test_it_is_closed_to_others(tmp_path: Path) -> None:
    os.umask(0o022)
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    State(folder).create()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_a_place_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="METABUILDER_STATE"):
        State(tmp_path / "file" / "state").create()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(StackError, match="another user"):
        State(folder).create()


def test_sockets_of_a_deep_folder_are_elsewhere(tmp_path: Path) -> None:
    deep = State(tmp_path / ("x" * 120))
    assert len(str(deep.socket)) <= 107
    assert deep.run != State(tmp_path / ("y" * 120)).run
    assert State(Path("/srv/state")).run == Path("/srv/state/run")


def test_purge_removes_it_with_the_sockets_elsewhere(tmp_path: Path) -> None:
    state = State(tmp_path / ("x" * 120))
    state.create()
    state.purge()
    assert not state.folder.exists()
    assert not state.run.exists()
    state.purge()


def test_written_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert read_json(path) == {}
    write_json(path, {"port": 1})
    write_json(path, {"port": 2})
    assert read_json(path) == {"port": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]

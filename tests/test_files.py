"""Files are whole or absent, and what was altered is never read."""

import json
import os
import signal
import threading
import time

import pytest
import tiny
import torch

from helpers import files

TENSORS = {"a": torch.arange(12.0).view(3, 4), "empty": torch.zeros(0), "flags": torch.tensor([True, False])}


def test_tensors_and_metadata_come_back_bit_for_bit(tmp_path):
    files.save_tensors(tmp_path / "deep" / "t.safetensors", TENSORS, {"who": "me"})
    tensors, metadata = files.load_tensors(tmp_path / "deep" / "t.safetensors")
    assert metadata == {"who": "me"}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_a_changed_value_name_or_note_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    files.save_tensors(path, TENSORS, {"who": "me"})
    whole = path.read_bytes()
    for old, new in ((b'"me"', b'"we"'), (b'"flags"', b'"flugs"'), (whole[-8:], whole[-8:-1] + bytes([whole[-1] ^ 1]))):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(files.CorruptFile, match=r"t\.safetensors"):
            files.load_tensors(path)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "x.json"
    files.save_json(path, {"value": 1})
    with pytest.raises(ValueError), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise ValueError("stopped")
    with pytest.raises(ValueError):
        files.save_json(path, {"value": float("nan")})
    assert files.load_json(path) == {"value": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_damage_is_told_or_changes_nothing(tmp_path):
    path = tmp_path / "t.safetensors"
    files.save_tensors(path, TENSORS, {"who": "me"})
    refused, whole = 0, path.read_bytes()
    for broken in tiny.damaged(whole, 300):
        path.write_bytes(broken)
        try:
            tensors, metadata = files.load_tensors(path)
        except files.CorruptFile as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert files.digest_of(tensors, metadata) == files.digest_of(TENSORS, {"who": "me"})
    assert refused > 270


@pytest.mark.parametrize("read", [files.load_tensors, files.load_json])
def test_code_in_a_file_is_never_executed(tmp_path, read):
    path, target = tmp_path / "file", tmp_path / "executed"
    path.write_bytes(tiny.trap(target))
    with pytest.raises(files.CorruptFile, match="file"):
        read(path)
    assert not target.exists()


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"folder/x\.json could not be written"):
        files.save_json(tmp_path / "folder" / "x.json", {})


def test_json_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "x.json"
    files.save_json(path, {"top1_pct": 92.38, "none": None})
    path.write_text(path.read_text().replace("92.38", "99.38"))
    with pytest.raises(files.CorruptFile, match="digest"):
        files.load_json(path)
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(files.CorruptFile):
        files.load_json(path)


def test_a_lock_keeps_the_second_out_until_the_first_is_done(tmp_path):
    order = []

    def second():
        with files.lock(tmp_path / "l"):
            order.append("second")

    with files.lock(tmp_path / "l"):
        with pytest.raises(files.Busy), files.lock(tmp_path / "l", wait=False):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not order
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def _hold(path, held):
    with files.lock(path):
        held.touch()
        time.sleep(60)


def test_a_dead_process_gives_its_lock_back(tmp_path):
    child = tiny.FORK.Process(target=_hold, args=(tmp_path / "l", tmp_path / "held"))
    child.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(files.Busy, match="another process"), files.lock(tmp_path / "l", wait=False):
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    with files.lock(tmp_path / "l", wait=False):
        pass


def test_where_nothing_can_be_written_the_way_out_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="BUILD_DIR"), files.lock(tmp_path / "file" / "lock"):
        pass

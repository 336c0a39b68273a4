"""What a checkpoint says about OTR, and the warnings of runs that resume it with other settings or without OTR."""

import json

import pytest

from otr_plugin import OTRConfig, __version__
from otr_plugin.hosts.resume import (
    STATE_KEY,
    changed_settings,
    last_checkpoint,
    resumed_without_otr,
    settings_in_checkpoint,
    to_save,
)


def checkpoint(folder, states):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 2, "stateful_callbacks": states}))
    return folder


def test_saved_settings_are_plain_json_and_read_back(tmp_path):
    config = OTRConfig(samples=16, chunk_tokens=64)
    saved = settings_in_checkpoint(checkpoint(tmp_path, {STATE_KEY: to_save(config, 3)}))
    assert saved == {"settings": config.model_dump(), "seed": 3, "version": __version__}
    assert settings_in_checkpoint(str(tmp_path)) == saved


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"stateful_callbacks": []}'], ids=str)
@pytest.mark.parametrize("states", [{"OTR": 1}, {"OTR": {}}, {"OTR": {"attributes": {"settings": 1}}}], ids=str)
def test_a_checkpoint_without_settings_has_none(tmp_path, text, states):
    checkpoint(tmp_path, states)
    assert settings_in_checkpoint(tmp_path) is None
    (tmp_path / "trainer_state.json").unlink()
    if text is not None:
        (tmp_path / "trainer_state.json").write_text(text)
    assert settings_in_checkpoint(tmp_path) is None
    assert resumed_without_otr(tmp_path, None) is None


def test_every_changed_setting_is_named_with_both_values():
    states = json.loads(json.dumps({STATE_KEY: to_save(OTRConfig(samples=16), 3)}))
    assert changed_settings(states, OTRConfig(samples=16), 3) is None
    warning = changed_settings(states, OTRConfig(beta=-0.5, top_k=5), 4)
    for change in (
        "samples was 16 and is 256",
        "beta was -0.1 and is -0.5",
        "top_k was None and is 5",
        "seed was 3 and is 4",
    ):
        assert change in warning
    assert warning.count(" was ") == 4
    assert f"Saved by otr-plugin {__version__}, resumed by {__version__}." in warning


@pytest.mark.parametrize("name", OTRConfig.model_fields)
def test_every_setting_is_compared(name):
    states = {STATE_KEY: to_save(OTRConfig(), 0)}
    states[STATE_KEY]["attributes"]["settings"][name] = "another"
    assert f"{name} was 'another' and is" in changed_settings(states, OTRConfig(), 0)
    del states[STATE_KEY]["attributes"]["settings"][name]  # saved by a version that did not have the setting
    assert changed_settings(states, OTRConfig(), 0) is None


def test_a_checkpoint_without_otr_is_resumed_with_a_warning():
    assert "otr: the checkpoint holds no settings of OTR" in changed_settings({}, OTRConfig(), 0)


def test_a_checkpoint_with_otr_is_resumed_without_it_with_a_warning(tmp_path):
    folder = checkpoint(tmp_path / "checkpoint-2", {STATE_KEY: to_save(OTRConfig(samples=16), 3)})
    warning = resumed_without_otr(folder, None)
    assert f"otr: {folder} was saved by a run with OTR (settings other than the defaults: {{'samples': 16}})" in warning
    assert resumed_without_otr(True, tmp_path) == warning
    for resume_from, output_dir in ((None, tmp_path), (False, tmp_path), (True, tmp_path / "new"), (True, None)):
        assert resumed_without_otr(resume_from, output_dir) is None


def test_the_last_checkpoint_has_the_highest_step(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "missing") is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"

"""A run in one file: saved with its preprocessing, or one of its checkpoints, anywhere."""

import pickle
import shutil

import numpy as np
import pytest

import xpnet
from xpnet import Dense, Trainer
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.run import Run
from xpnet.run.trained_run import load_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on a table with numbers, a category and names of classes; and rows of it."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    lines = ["size,colour,kind"]
    for i in range(60):
        lines.append(f"{rng.normal() + i % 3:.3f},{['red', 'blue'][i % 2]},{'abc'[i % 3]}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    settings = {"epochs": 3, "model.hidden": [6], "threads": 1, "data.label": "kind"}
    source, out = folder / "data.csv", folder / "run"
    return xpnet.train(source, out, recipe="none", settings=settings, report=str), source


def predicted(run, source):
    return run._predicted(run.read(source, labelled=False)).tobytes()


def test_a_saved_run_is_a_run_with_its_preprocessing_and_names(made, tmp_path):
    run, source = made
    path = run.save(tmp_path / "one.safetensors")
    loaded = xpnet.load(path, backend="numpy")
    assert isinstance(loaded, Run)
    assert loaded.config == run.config
    assert loaded.preprocessing.classes == ("a", "b", "c")
    assert predicted(loaded, source) == predicted(run, source)
    assert loaded.evaluate(source)["accuracy"] == run.evaluate(source)["accuracy"]
    assert loaded.folder.history() == []
    assert run.save(tmp_path).name == "model.safetensors"
    assert predicted(xpnet.load(tmp_path), source) == predicted(run, source)


def test_a_checkpoint_of_a_run_is_loaded_without_its_folder(made, tmp_path):
    run, source = made
    shutil.copy(run.checkpoint.path, tmp_path / "copy")
    loaded = xpnet.load(tmp_path / "copy")
    assert predicted(loaded, source) == predicted(run, source)
    assert predicted(xpnet.load(run.folder.path), source) == predicted(run, source)


def test_the_trainer_of_a_run_says_what_to_save_instead(made, tmp_path):
    with pytest.raises(ConfigError, match="call save of the run itself"):
        made[0].trainer.save(tmp_path / "trainer")
    assert not (tmp_path / "trainer").exists()


def test_a_run_and_its_parts_are_copied_and_pickled(made, copied):
    run, source = made
    again = copied(run)
    assert predicted(again, source) == predicted(run, source)
    assert again.config == run.config
    preprocessing = pickle.loads(pickle.dumps(run.preprocessing))
    assert preprocessing.meta() == run.preprocessing.meta()
    assert pickle.loads(pickle.dumps(run.trainer.model)) == run.trainer.model


def test_a_file_of_a_trainer_is_no_run(made, tmp_path):
    trainer = Trainer([Dense(2)], backend="numpy")
    trainer.fit((np.eye(2), np.arange(2)), epochs=1)
    path = trainer.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="saved without a run, so no columns"):
        load_run(path)


def test_a_checkpoint_whose_config_is_damaged_is_refused(made, tmp_path):
    run, _ = made
    path = run.save(tmp_path / "one")
    checkpoint = xpnet.storage.load(path)
    checkpoint.meta["config"]["epochs"] = -1
    xpnet.storage.save(path, checkpoint.tensors, checkpoint.meta)
    with pytest.raises(CheckpointError, match=r"config of .* cannot be used here: epochs must be"):
        xpnet.load(path)
    del checkpoint.meta["preparation"]
    xpnet.storage.save(path, checkpoint.tensors, checkpoint.meta)
    with pytest.raises(CheckpointError, match="neither the config of a run nor"):
        xpnet.load(path)


def test_the_test_part_of_a_file_is_still_found_by_its_data(made, tmp_path):
    run, _ = made
    path = run.save(tmp_path / "one")
    assert len(xpnet.load(path).test_part()) == 12
    source = tmp_path / "moved.csv"
    config = run.config
    assert config.data.source != str(source)
    with pytest.raises((DataError, CheckpointError)):
        xpnet.load(path).evaluate(source)

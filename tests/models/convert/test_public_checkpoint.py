"""Which layout a folder is in, and what the user reads where it is none."""

from pathlib import Path

import pytest
from support.checkpoints import read_checkpoint

from genret_jax.errors import InputError
from genret_jax.models.convert.huggingface import LAYOUT
from genret_jax.models.convert.public_checkpoint import open_checkpoint, save_checkpoint

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "t5_1_1"


def test_both_layouts_hold_the_same(tmp_path):
    config, params = read_checkpoint(GOLDEN)
    for layout in ("huggingface", "t5x"):
        save_checkpoint(tmp_path / layout, params, config, layout, step=3, sentencepiece=b"pieces")
        assert (tmp_path / layout / "spiece.model").read_bytes() == b"pieces"
        checkpoint = open_checkpoint(tmp_path / layout)
        assert checkpoint.config == config
        assert (checkpoint.stored.layout == LAYOUT) == (layout == "huggingface")
        found = checkpoint.load()["decoder"]["logits_dense"]["kernel"]
        assert (found == params["decoder"]["logits_dense"]["kernel"]).all()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": ""}, "no checkpoint here; expected a folder with config.json and model.safetensors"),
        ({"config.json": "{}"}, "no model.safetensors and no model.safetensors.index.json here"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, r"PyTorch's pickled weights.*save_pretrained\(OUT\)"),
        ({"config.json": "{}", "tf_model.h5": ""}, "Keras weights, which this package does not read"),
        ({"model.ckpt-1000000.index": "", "checkpoint": "model_checkpoint_path: 'x'"}, "a TensorFlow checkpoint of"),
    ],
)
def test_other_folders_are_named_for_what_they_are(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")

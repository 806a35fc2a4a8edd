"""Detectors in .onnx files, computed by OpenCV."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import load_model
from models.onnx import OnnxModel
from models.onnx_file import OnnxHeader, read_header
from tests.onnx_files import reshaping_detector
from utils.errors import UserError

NAMES = "{0: 'Käfer'}"


def test_the_header_is_read(tmp_path):
    file = reshaping_detector(tmp_path / "a.onnx", names="['a', 'b']", stride="64", other="x" * 200)
    assert read_header(file) == OnnxHeader((1, 3, 32, 64), {0: "a", 1: "b"}, 64)
    file = reshaping_detector(tmp_path / "b.onnx", shape=("batch", 3, "height", "width"))
    assert read_header(file) == OnnxHeader((None, 3, None, None), {}, None)


def test_predictions_are_those_of_the_network(tmp_path):
    model = OnnxModel(reshaping_detector(tmp_path / "a.onnx", names=NAMES, stride="32"))
    assert (model.names, model.nc, model.stride.tolist()) == ({0: "Käfer"}, 1, [32])
    assert next(model.parameters()).device.type == "cpu" and not model.stride.requires_grad
    first, second = torch.rand(2, 1, 3, 32, 64)
    found = [model.decode(model(images)) for images in (first, second)]
    for images, predictions in zip((first, second), found, strict=True):
        torch.testing.assert_close(predictions, images.reshape(1, -1, 6), rtol=0, atol=0)


def test_without_metadata_classes_are_numbered_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    model = OnnxModel(reshaping_detector(tmp_path / "a.onnx", no=8))
    assert (model.names, model.stride.tolist()) == ({0: "0", 1: "1", 2: "2"}, [32])
    assert "has no class names in its metadata" in caplog.text
    assert "has no stride in its metadata, taking 32" in caplog.text


def test_a_file_of_one_size_names_it(tmp_path):
    model = OnnxModel(reshaping_detector(tmp_path / "a.onnx"))
    model.check_size(32, 64)
    with pytest.raises(UserError, match=r"a\.onnx: takes images of 32 x 64 pixels, not of 64 x 64; give its size"):
        model.check_size(64, 64)
    wide = OnnxModel(reshaping_detector(tmp_path / "b.onnx", shape=(1, 3, 32, "width")))
    wide.check_size(32, 320)
    with pytest.raises(UserError, match=r"takes images of 32 x 320 pixels, not of 64 x 320"):
        wide.check_size(64, 320)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (4, 3, 32, 64)}, r"takes batches of 4 images; export it with batch size 1"),
        ({"input": "x"}, r"expected an input called images of shape \(B, 3, H, W\), found x \(1, 3, 32, 64\)"),
        ({"shape": (1, 3, 2048)}, r"expected an input called images .*, found images \(1, 3, 2048\)"),
        ({"output": "boxes"}, r"expected an output called output0, found boxes"),
        ({"no": 4}, r"output0 has shape \(1, 1536, 4\), expected \(1, P, 5 \+ classes\)"),
        ({"no": 7}, r"OpenCV [\d.]+ cannot compute it"),
        ({"names": "['a', 'b']"}, r"its metadata names 2 classes, but it finds 1"),
        ({"names": "{1: 'a'}"}, r"names or stride in its metadata cannot be read"),
        ({"names": "__import__('os')"}, r"names or stride in its metadata cannot be read"),
        ({"names": "3"}, r"names or stride in its metadata cannot be read"),
        ({"stride": "-"}, r"names or stride in its metadata cannot be read"),
    ],
)
def test_what_is_no_such_detector_is_refused(tmp_path, changes, message):
    file = reshaping_detector(tmp_path / "bad.onnx", **changes)
    with pytest.raises(UserError, match=rf"bad\.onnx: {message}"):
        OnnxModel(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"gone\.onnx: no such file"):
        OnnxModel(tmp_path / "gone.onnx")


@settings(max_examples=60)
@given(st.data())
def test_damage_is_a_message_never_a_traceback(tmp_path_factory, data):
    file = reshaping_detector(tmp_path_factory.getbasetemp() / "damaged.onnx", names=NAMES, stride="32")
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        header = read_header(file)
    except UserError as error:
        assert "damaged.onnx: " in str(error)
    else:
        assert len(header.shape) == 4


@pytest.mark.slow
def test_an_exported_model_finds_the_same(shared, tmp_path):
    pytest.importorskip("onnx", reason="PyTorch needs it to write .onnx files")
    model = load_model(shared / "weights" / "yolov5n_coco.pt")
    file = tmp_path / "n.onnx"
    images = torch.rand(1, 3, 96, 128)

    class Decoded(torch.nn.Module):
        def forward(self, images):
            return model.predict(images)

    names = {"input_names": ["images"], "output_names": ["output0"]}
    torch.onnx.export(Decoded().eval(), (images,), file, opset_version=17, dynamo=False, **names)
    exported = OnnxModel(file)
    torch.testing.assert_close(exported.decode(exported(images)), model.predict(images), rtol=1e-4, atol=2e-3)

import numpy as np
import pytest
from PIL import Image

from egem.core.errors import ConfigError
from egem.evaluation.lmms_eval_model import _until, record_of
from egem.media import decode_image


def test_messages_become_a_record_with_images_in_their_places():
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    content = [
        {"type": "text", "text": "First "},
        {"type": "image", "url": red},
        {"type": "text", "text": " then "},
        {"type": "image", "url": blue},
        {"type": "text", "text": "?"},
    ]
    record = record_of(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}], "t/0"
    )
    assert [message.role for message in record.messages] == ["system", "user", "assistant"]
    assert record.messages[1].content == "First <image> then <image>?"
    colours = [decode_image(image)[0, 0].tolist() for image in record.images]
    assert colours == [[255, 0, 0], [0, 0, 255]]


def test_a_video_becomes_frames(tmp_path):
    import av

    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    message = {
        "role": "user",
        "content": [{"type": "video", "url": str(path)}, {"type": "text", "text": "What?"}],
    }
    record = record_of([message], "t/0", num_frames=4)
    assert len(record.images) == 4
    assert record.messages[0].content == "<image><image><image><image>What?"


def test_what_gem_cannot_see_is_refused():
    with pytest.raises(ConfigError, match="a task with audio cannot be asked"):
        record_of([{"role": "user", "content": [{"type": "audio", "url": "x.wav"}]}], "t/0")


def test_answers_end_at_their_stops():
    assert _until("yes\n\nand more", ["\n\n"]) == "yes"
    assert _until("yes", None) == "yes"

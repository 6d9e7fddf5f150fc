"""The page of transfer demo in a browser: a photo, a broken file, a camera that shows drawn faces, other sites."""

import http.client
import io
import json
import threading

import numpy as np
import pytest
import torch
from browser import chromium, needs_chromium, wait_for
from PIL import Image
from safetensors.torch import save_file
from selenium.webdriver.common.by import By

from transfer.datasets.synthetic.render import render_face
from transfer.models.registry import create_model, input_of
from transfer.params import FaceParams, ModelParams
from transfer.predict.demo import Demo

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def photo():
    """Two drawn faces."""
    pixels = np.full((480, 640, 3), 110, np.uint8)
    for k, left in enumerate((20, 330)):
        pixels[100:390, left : left + 290] = render_face(np.random.default_rng(k), "happiness", 0.8, 290).image
    return Image.fromarray(pixels)


@pytest.fixture
def demo(tmp_path):
    """The page, with two networks that have learnt nothing."""
    params = ModelParams(name="transfer_tiny", img_size=32)
    about = {"model": params.model_dump(mode="json") | input_of(params), "protocol": "last", "epoch": 1}
    about |= {"faces": FaceParams(size=32).model_dump(mode="json"), "hflip_tta": False}
    models = {}
    for seed, name in enumerate(("one", "<two>")):
        torch.manual_seed(seed)
        models[name] = tmp_path / f"{seed}.safetensors"
        network = create_model(params, 3)
        torch.nn.init.normal_(network.get_parameter("head.weight"))
        save_file(network.state_dict(), models[name], {"transfer": json.dumps(about | {"classes": ["a", "b", "c"]})})
    server = Demo(models)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def errors(page):
    return [entry["message"] for entry in page.get_log("browser") if "favicon" not in entry["message"]]


def test_photos(demo, photo, tmp_path):
    needs_chromium()
    photo.save(tmp_path / "two.png")
    (tmp_path / "text.png").write_text("text")
    with chromium() as page:
        page.get(demo.url)
        assert [option.text for option in page.find_elements(By.TAG_NAME, "option")] == ["one", "<two>"]
        page.find_element(By.ID, "attention").click()
        page.find_element(By.ID, "file").send_keys(str(tmp_path / "two.png"))
        said = page.find_element(By.ID, "said")
        wait_for(lambda: said.text == "2 faces", 60)

        def numbers():
            return [bar.text for bar in page.find_elements(By.CSS_SELECTOR, ".face .bar")]

        first, images = numbers(), page.find_elements(By.CSS_SELECTOR, "#picture, .face img")
        wait_for(lambda: all(int(image.get_property("naturalWidth")) > 0 for image in images))
        assert len(first) == 6 and len(images) == 3
        page.find_elements(By.TAG_NAME, "option")[1].click()
        wait_for(lambda: len(numbers()) == 6 and numbers() != first)

        page.find_element(By.ID, "file").send_keys(str(tmp_path / "text.png"))
        wait_for(lambda: said.text.startswith("the photo: not an image that can be decoded"))
        page.find_element(By.ID, "camera").click()
        wait_for(lambda: said.text.startswith("no camera: "))
        assert errors(page) == []


def test_the_camera(demo, photo, tmp_path):
    needs_chromium()
    frame = io.BytesIO()
    photo.save(frame, "JPEG", quality=95)
    (tmp_path / "camera.mjpeg").write_bytes(frame.getvalue() * 5)
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with chromium(flags=[*flags, f"--use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}"]) as page:
        page.get(demo.url)
        camera, said = page.find_element(By.ID, "camera"), page.find_element(By.ID, "said")
        camera.click()
        wait_for(lambda: said.text == "2 faces" and camera.text == "Stop")
        camera.click()
        wait_for(lambda: camera.text == "Camera")
        assert errors(page) == []


def test_other_sites_get_nothing(demo):
    def status(method, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", demo.server_port, timeout=30)
        connection.request(method, "/?model=one", body=b"", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Security-Policy") or ""

    assert demo.server_address[0] == "127.0.0.1"
    assert status("GET")[0] == 200 and "default-src 'none'" in status("GET")[1]
    assert status("GET", Host="example.org")[0] == 403
    assert status("POST", Origin="https://example.org")[0] == 403
    assert status("POST", **{"Content-Length": "999999999999"})[0] == 413

"""The HTTP API by a plain client: what docs/web.md shows."""

import io
import json
import shlex
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdpainter.cli import main
from hdpainter.images import load_image
from hdpainter.jobs.job import JobSettings
from hdpainter.models.identity import identify
from hdpainter.web.recipes import Recipe, as_command


class Client:
    """Three requests make a picture: upload, call, result."""

    def __init__(self, url: str):
        self.base = f"{url}gradio_api"

    def upload(self, path: Path) -> dict:
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(f"{self.base}/upload", body, headers)
        return file(json.load(urllib.request.urlopen(request))[0])

    def start(self, name: str, *data) -> str:
        body = json.dumps({"data": data}).encode()
        request = urllib.request.Request(
            f"{self.base}/call/{name}", body, {"Content-Type": "application/json"}
        )
        return f"{self.base}/call/{name}/{json.load(urllib.request.urlopen(request))['event_id']}"

    def result(self, url: str):
        """(event, data) of the last event of a call."""
        events = urllib.request.urlopen(url).read().decode().strip().split("\n\n")
        event, data = (line.split(": ", 1)[1] for line in events[-1].split("\n"))
        return event, json.loads(data)

    def call(self, name: str, *data):
        return self.result(self.start(name, *data))


def file(path) -> dict:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server.url)


@pytest.fixture
def form(tiny_pipeline):
    """form(**settings) -> the inputs of /inpaint after image and mask."""

    def values(**changes):
        form = {
            "prompt": "a boat",
            "model": str(tiny_pipeline),
            "method": "hd-painter",
            "seed": 5,
            "steps": 2,
            "guidance_scale": None,
            "eta": None,
            "negative_prompt": "",
            "size": None,
            "superres": False,
        }
        return list((form | changes).values())

    return values


def test_a_picture_by_three_requests_is_that_of_the_command_line(
    client, form, picture, mask, painter, tiny_pipeline, tmp_path, monkeypatch
):
    event, data = client.call("inpaint", client.upload(picture), client.upload(mask), *form())
    assert event == "complete", data
    result, record = data
    png = urllib.request.urlopen(result["url"]).read()
    image, before = Image.open(io.BytesIO(png)), np.array(load_image(picture))
    filled = np.array(Image.open(mask)) > 127
    assert (np.array(image) == before)[~filled].all() and not (np.array(image) == before)[filled].all()
    inside = json.loads(image.text["hdpainter"])
    assert inside == record and inside["inputs"]["seed"] == 5
    assert inside["files"] == {"image": picture.name, "mask": "mask.png"}

    monkeypatch.chdir(tmp_path)
    recipe = Recipe(
        str(tiny_pipeline), "a boat", JobSettings(method="hd-painter", seed=5, steps=2, superres=False)
    )
    words = shlex.split(as_command(picture.name, mask.name, [recipe]))
    assert main(words[1:], load=lambda *_: painter, identify=identify) == 0
    made = Path(words[-1])
    assert np.array_equal(Image.open(made), image)
    assert json.loads(made.with_suffix(".json").read_text("utf-8"))["hash"] == record["hash"]


def test_no_method_moves_a_known_pixel_and_none_is_the_models(client, form, picture, mask):
    for wanted, used in (("hd-painter-release", "hd-painter-release"), (None, "hd-painter")):
        event, data = client.call(
            "inpaint", client.upload(picture), client.upload(mask), *form(method=wanted)
        )
        assert event == "complete", data
        result, record = data
        assert record["inputs"]["method"]["name"] == used
        made = np.array(Image.open(io.BytesIO(urllib.request.urlopen(result["url"]).read())))
        known = np.array(Image.open(mask)) == 0
        assert (made == np.array(load_image(picture)))[known].all()


def test_a_client_cannot_name_files_of_the_server(client, form, picture, mask):
    uploaded = client.upload(picture)
    for path in ("/etc/passwd", uploaded["path"] + "/../../../../../../etc/passwd", str(mask)):
        event, _ = client.call("inpaint", uploaded, file(path), *form())
        assert event == "error"
    for path in ("/etc/passwd", str(mask)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{client.base}/file={path}")
        assert caught.value.code in (403, 404)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "a" * 1001}, "the prompt is longer than 1000 characters"),
        ({"model": "/tmp/other.yaml"}, "unknown model 'other.yaml'; known: "),
        ({"model": "sd3", "method": "painta", "superres": False}, "unknown model 'sd3'; known: "),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"seed": -3}, "seed is -3"),
        ({"steps": 0}, "steps is 0: give a number"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"prompt": None}, "prompt must be text, not None"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"seed": "7"}, "seed must be a whole number, not '7'"),
        ({"eta": [1]}, "eta must be a number, not [1]"),
        ({"superres": "no"}, "superres must be true or false, not 'no'"),
        ({"model": None}, "model must be text, not None"),
        ({"method": ["painta"]}, "method must be text, not ['painta']"),
        ({"negative_prompt": 7}, "negative_prompt must be text, not 7"),
        ({"seed": float("inf")}, "seed must be a whole number, not inf"),
    ],
)
def test_mistakes_are_told(client, form, picture, mask, changes, message):
    event, data = client.call("inpaint", client.upload(picture), client.upload(mask), *form(**changes))
    assert event == "error" and message in json.dumps(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stepz": 1}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"known_region": "blended"}, "known_region is always exact here"),
        ([1], "settings must be a JSON object"),
        ({"set": "sampler.steps=900"}, "steps is 900: this server makes up to 200"),
        ({"set": "superres.steps=900"}, "steps is 900: this server makes up to 200"),
        ({"outpaint": "left=8000,top=500"}, "outpaint makes 8090 x 620 pixels"),
    ],
)
def test_mistakes_in_the_settings_of_a_job_are_told(client, picture, mask, tiny_pipeline, settings, message):
    files = client.upload(picture), client.upload(mask)
    event, data = client.call("job", *files, "a boat", str(tiny_pipeline), settings)
    assert event == "error" and message in json.dumps(data)


def test_a_job_has_the_keys_of_a_job_file(client, form, picture, mask, tiny_pipeline):
    files = client.upload(picture), client.upload(mask)
    settings = {"method": "hd-painter", "seed": 5, "steps": 2, "superres": False}
    event, (_, record) = client.call("job", *files, "a boat", str(tiny_pipeline), settings)
    assert event == "complete"
    assert record["hash"] == client.call("inpaint", *files, *form())[1][1]["hash"]


def test_a_job_may_look_at_the_masks_surroundings_alone(client, picture, mask, tiny_pipeline):
    files = client.upload(picture), client.upload(mask)
    settings = {"method": "painta", "steps": 1, "superres": False, "only_masked": 8, "grow": 1}
    event, (_, record) = client.call("job", *files, "a boat", str(tiny_pipeline), settings)
    assert event == "complete" and record["inputs"]["method"]["input"]["only_masked"] == 8
    (hole,) = record["metadata"]["holes"]
    assert hole["prompt"] == "a boat" and hole["window"][0] >= 0


def test_nothing_is_fetched_from_a_url(client, form, picture, mask):
    uploaded = client.upload(mask)
    for url in ("http://127.0.0.1:9/a.png", "https://127.0.0.1:9/a.png"):
        event, data = client.call("inpaint", file(url), uploaded, *form())
        assert event == "error" and "this server fetches none from a URL" in json.dumps(data)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("gradio_api/process_recording", {}, 404),
        ("gradio_api/proxy=http://127.0.0.1/", {}, 404),
        ("gradio_api/file=http://127.0.0.1/", {}, 404),
        ("gradio_api/vibe-edit", {}, 404),
        ("config", {"Host": "evil.example"}, 403),
        ("config", {"Host": "127.0.0.1.evil.example:7860"}, 403),
        ("config", {"Host": "[::1]:7860"}, 200),
        ("config", {"Host": "LocalHost"}, 200),
    ],
)
def test_what_the_page_does_not_need_is_closed(server, path, headers, status):
    body = b"" if "api" in path else None
    try:
        answer = urllib.request.urlopen(urllib.request.Request(f"{server.url}{path}", body, headers)).status
    except urllib.error.HTTPError as error:
        answer = error.code
    assert answer == status


def test_limits_of_size(client, form, mask, tmp_path):
    Image.new("L", (2000, 1500)).save(tmp_path / "large.png")
    large, small = client.upload(tmp_path / "large.png"), client.upload(mask)
    for files in ((large, small), (small, large)):
        event, data = client.call("inpaint", *files, *form())
        assert event == "error" and "large.png is 2000 x 1500 pixels, over" in json.dumps(data)
    (tmp_path / "huge.png").write_bytes(bytes(9 * 2**20))
    with pytest.raises(urllib.error.HTTPError) as caught:
        client.upload(tmp_path / "huge.png")
    assert caught.value.code == 413


def test_the_menu_is_told(client, tiny_pipeline):
    event, (menu,) = client.call("models")
    assert event == "complete" and menu["models"][str(tiny_pipeline)] is True
    assert "hd-painter" in menu["methods"] and menu["limits"]["megapixels"] == 2


def test_twenty_jobs_of_five_users_all_get_their_own_picture(client, form, picture, mask, painter):
    photo, fill = client.upload(picture), client.upload(mask)
    jobs = {
        (user, seed): client.start("inpaint", photo, fill, *form(steps=1, seed=seed, prompt=f"boat {user}"))
        for seed in range(4)
        for user in range(5)
    }
    started = time.monotonic()
    answers = {key: client.result(url) for key, url in jobs.items()}
    print(f"20 jobs in {time.monotonic() - started:.1f} s")
    assert [event for event, _ in answers.values()] == ["complete"] * 20
    for (user, seed), (_, (result, record)) in answers.items():
        assert (record["inputs"]["prompt"], record["inputs"]["seed"]) == (f"boat {user}", seed)
        if user == seed:
            wanted = painter(picture, mask, f"boat {user}", seed=seed, steps=1, superres=False).image
            png = urllib.request.urlopen(result["url"]).read()
            assert np.array_equal(Image.open(io.BytesIO(png)), wanted)

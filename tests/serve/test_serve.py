"""A real server: its answers, limits and page."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Thread

import numpy as np
import pytest
import requests
from chromium import PROGRAM, Chromium
from PIL import Image

pytestmark = pytest.mark.extras
pytest.importorskip("fastapi")


@contextmanager
def running(run: Path, *options: object) -> Iterator[str]:
    """Serves a run on a free port; the context is the URL."""
    program = Path(sys.executable).with_name("tlcli")
    words = [str(program), "serve", str(run), "--port", "0", *map(str, options)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(rf"serving {re.escape(str(run))} on (http://\S+) \(Ctrl-C stops\)\n", line)
            assert found, process.communicate()[1]
            yield found[1]
        finally:
            process.send_signal(2)
            stderr = process.communicate(timeout=20)[1]
            assert process.returncode == 0, stderr
            assert "Traceback" not in stderr


@pytest.fixture(scope="module")
def server(finished: tuple) -> Iterator[str]:
    with running(finished[0]) as url:
        yield url


def post(url: str, body: bytes = b"", **options: object) -> requests.Response:
    return requests.post(f"{url}predict", data=body, timeout=60, **options)  # type: ignore[arg-type]


def error_of(answer: requests.Response) -> str:
    """The message of an error, which has the shape of all errors."""
    error = answer.json()["error"]
    assert set(error) == {"kind", "where", "message", "hint"}
    return f"{answer.status_code} {error['message']}"


def test_the_answers_are_those_of_predict(server: str, finished: tuple, photos: Path, tlcli: Callable) -> None:
    file = photos / "red" / "03.bmp"
    (expected,) = tlcli("predict", finished[0], file, "--top", 3, "--json").document
    answers = [post(server, file.read_bytes()).json()]
    with file.open("rb") as stream:
        form = requests.post(f"{server}predict", files={"picture": ("../../etc/passwd", stream)}, timeout=60)
    answers.append(form.json())
    for answer in answers:
        assert [row["label"] for row in answer["top"]] == [row["label"] for row in expected["top"]]
        found = [row["probability"] for row in answer["top"]]
        assert found == pytest.approx([row["probability"] for row in expected["top"]], abs=1e-5)
        assert (answer["label"], answer["probability"]) == (answer["top"][0]["label"], answer["top"][0]["probability"])
    first = requests.post(f"{server}predict?top=1", data=file.read_bytes(), timeout=60).json()
    assert len(first["top"]) == 1


def test_health_labels_and_openapi(server: str) -> None:
    assert requests.get(f"{server}health", timeout=9).json() == {"status": "ok"}
    assert requests.get(f"{server}labels", timeout=9).json() == {"labels": ["blue", "green", "red"]}
    document = requests.get(f"{server}openapi.json", timeout=9).json()
    assert set(document["paths"]) == {"/health", "/labels", "/predict"}
    operation = document["paths"]["/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert set(operation["responses"]) == {"200", "400", "403", "408", "413", "422", "500", "503", "504"}
    for status, response in operation["responses"].items():
        schema = response["content"]["application/json"]["schema"]["$ref"]
        assert schema.endswith("/Answer" if status == "200" else "/ErrorAnswer")
    assert set(document["components"]["schemas"]["ErrorDetails"]["properties"]) == {"kind", "where", "message", "hint"}


def test_a_classifier_that_fails_is_a_json_answer() -> None:
    """A real server around a classifier whose runtime breaks."""
    import uvicorn

    from tlcli.errors import ModelError
    from tlcli.serve.app import make_app
    from tlcli.serve.predictor import Limits, Predictor

    class Broken:
        classes, size, resize = ("a", "b"), (32, 32), "crop"

        def __init__(self, error: Exception) -> None:
            self.error = error

        def probabilities(self, images: np.ndarray) -> np.ndarray:
            raise self.error

    image = io.BytesIO()
    Image.new("RGB", (40, 40)).save(image, "PNG")
    for error, message in (
        (ValueError("x"), "500 the server failed (ValueError)"),
        (ModelError("is damaged"), "500 is"),
    ):
        app = make_app(Predictor(Broken(error), Limits()), hosts=None)  # type: ignore[arg-type]
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
        thread = Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        answer = post(f"http://127.0.0.1:{port}/", image.getvalue())
        server.should_exit = True
        thread.join(10)
        assert error_of(answer).startswith(message)


def test_hostile_bodies_get_one_clear_error(server: str, photos: Path, tmp_path: Path) -> None:
    good = (photos / "red" / "03.bmp").read_bytes()
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    larger_bomb = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(larger_bomb, "PNG")
    secret = tmp_path / "secret.bmp"
    secret.write_bytes(good)
    for body, message in (
        (b"", "400 the file is empty"),
        (b"GIF89a", "400 "),
        (os.urandom(5000), "400 not a valid JPEG"),
        (good[:-2000], "400 "),
        (str(secret).encode(), "400 not a valid JPEG"),
        (f"file://{secret}".encode(), "400 not a valid JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "400 not a valid"),
        (bomb.getvalue(), "413 has too many pixels"),
        (larger_bomb.getvalue(), "413 has too many pixels"),
        (b"x" * 20_020_000, "413 the body is too large"),
    ):
        assert error_of(post(server, body)).startswith(message)
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (b"--b\r\nContent-Disposition: nothing", b"--b--", b"", b"--b\r\n\r\n" * 500):
        assert error_of(post(server, body, headers=form)).startswith("400 the form")
    assert error_of(post(server, good, headers={"Content-Type": "multipart/form-data"})).startswith("400 the form")
    fields = "".join(f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\nx\r\n' for n in range(99)) + "--b--"
    assert error_of(post(server, fields.encode(), headers=form)).startswith("400 the form")
    assert error_of(requests.post(f"{server}predict?top=none", data=good, timeout=9)).startswith("422 top")
    assert error_of(requests.get(f"{server}..%2f..%2fetc/passwd", timeout=9)).startswith("404")
    assert error_of(requests.get(f"{server}predict", timeout=9)).startswith("405")
    assert error_of(requests.get(f"{server}labels", headers={"Host": "evil.example"}, timeout=9)).startswith("403")
    assert post(server, good).status_code == 200


def test_a_streamed_body_without_length_is_bounded(server: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000_000

    try:
        answer = requests.post(f"{server}predict", data=endless(), timeout=60)
    except requests.ConnectionError:
        return  # closed while the body was still being sent
    assert error_of(answer).startswith("413")


def test_200_parallel_requests_are_answered(server: str, photos: Path) -> None:
    files = sorted(photos.rglob("*.bmp"))
    expected = {file: post(server, file.read_bytes()).json() for file in files}
    seconds: list[float] = []

    def ask(number: int) -> None:
        file = files[number % len(files)]
        began = time.perf_counter()
        answer = post(server, file.read_bytes())
        seconds.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
        found = {row["label"]: row["probability"] for row in answer.json()["top"]}
        assert found == pytest.approx({row["label"]: row["probability"] for row in expected[file]["top"]}, abs=1e-5)

    with ThreadPoolExecutor(200) as threads:
        list(threads.map(ask, range(200)))
    alone = []
    for file in files:
        began = time.perf_counter()
        post(server, file.read_bytes())
        alone.append(time.perf_counter() - began)
    print(f"median {median(alone) * 1000:.1f} ms alone, {median(seconds) * 1000:.0f} ms of 200 in parallel")
    assert median(alone) < 2


def test_slow_and_too_many_requests_are_refused(finished: tuple, photos: Path) -> None:
    good = (photos / "red" / "03.bmp").read_bytes()
    with running(finished[0], "--timeout", 1.5, "--max-waiting", 1) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            time.sleep(0.3)
            refused = post(url, good)
            assert error_of(refused) == "503 too many requests wait"
            assert refused.headers["Retry-After"] == "1"
            slow.settimeout(10)
            assert b" 408 " in slow.recv(4096).splitlines()[0]
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        time.sleep(0.3)
        assert post(url, good).status_code == 200


@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
def test_the_page_classifies_in_a_browser(server: str, photos: Path, tmp_path: Path) -> None:
    file = photos / "red" / "03.bmp"
    expected = post(server, file.read_bytes()).json()
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    with Chromium(tmp_path / "profile") as browser:
        browser.open(server)
        browser.choose_file("#file", file)
        browser.wait_for("document.querySelectorAll('li').length === 3")
        rows = browser.evaluate("[...document.querySelectorAll('li')].map(item => item.innerText.split('\\n'))")
        assert [row[0] for row in rows] == [row["label"] for row in expected["top"]]
        assert rows[0][-1] == f"{100 * expected['probability']:.1f} %"
        width = browser.evaluate("document.querySelector('.track div').style.width")
        assert float(width.rstrip("%")) == pytest.approx(100 * expected["probability"], abs=0.1)
        for name, size, dark in (("light", (900, 700), False), ("dark", (900, 700), True), ("phone", (360, 740), True)):
            browser.screenshot(tmp_path / f"serve-{name}.png", size=size, dark=dark)
            assert not browser.evaluate("document.documentElement.scrollWidth > innerWidth"), name
        assert browser.errors() == []
        browser.choose_file("#file", tmp_path / "broken.jpg")
        message = browser.wait_for("document.querySelector('.error')?.textContent")
        assert message.startswith("Not a valid JPEG")
        browser.evaluate("take({files: [], types: ['text/uri-list']})")
        assert browser.evaluate("message.textContent").startswith("That is no image file")
        browser.evaluate("draw([{label: '<img src=x onerror=\"window.hacked=1\">', probability: 1}])")
        assert browser.evaluate("document.querySelector('li img') === null && window.hacked === undefined")
        addresses = [url for url in browser.requested() if not url.startswith(("blob:", "data:"))]
        assert all(url.startswith(server) for url in addresses), addresses
    pixels = [np.asarray(Image.open(tmp_path / f"serve-{name}.png").convert("L")) for name in ("light", "dark")]
    assert pixels[0].mean() > 150 > 100 > pixels[1].mean()


def test_a_port_in_use_and_a_missing_run_are_one_error(server: str, finished: tuple, tlcli: Callable) -> None:
    port = server.rstrip("/").rpartition(":")[2]
    result = tlcli("serve", finished[0], "--port", port)
    assert result.code == 2
    assert f"127.0.0.1:{port}: cannot be bound (Address already in use)" in result.stderr
    assert "--port 0" in result.stderr
    elsewhere = tlcli("serve", finished[0], "--host", "198.51.100.1")
    assert elsewhere.code == 2
    assert "Give --host an address of this computer" in elsewhere.stderr
    missing = tlcli("serve", "nowhere")
    assert missing.code == 2
    assert "there is no such run" in missing.stderr


def test_labels_are_text_in_json(server: str) -> None:
    answer = requests.get(f"{server}labels", timeout=9)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert json.loads(answer.text)["labels"]

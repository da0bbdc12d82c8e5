"""Who may come in, and what may be asked for."""

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from hdpainter.cli import main
from hdpainter.settings import Method
from hdpainter.web.access import is_loopback, login
from hdpainter.web.limits import Limits
from hdpainter.web.menu import Menu, installed
from hdpainter.web.workspace import Workspace
from ldm.util import UserError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_this_machine_needs_no_password(host):
    assert is_loopback(host) and login(host, None, False) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_others_need_one_or_a_clear_word(host):
    with pytest.raises(UserError, match="give --auth USER:PASSWORD, or --no-auth"):
        login(host, None, False)
    assert login(host, None, True) is None
    assert login(host, "anna:se:cret", False) == ("anna", "se:cret")


@pytest.mark.parametrize("auth", ["anna", "anna:", ":secret", ""])
def test_half_a_password_is_none(auth):
    with pytest.raises(UserError, match="USER:PASSWORD"):
        login("0.0.0.0", auth, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--host", "0.0.0.0"), "lets others in"),
        (("--max-drafts", "0"), "the limit drafts is 0"),
        (("--model", "nothing"), "unknown model 'nothing'"),
        (("--auth", "a:b", "--no-auth"), "not allowed with argument --auth"),
        (("--port", "99999"), "--port is 99999: give a number from 0 to 65535"),
        (("--host", "192.0.2.1", "--no-auth"), "cannot listen on 192.0.2.1"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message, capsys):
    assert main(["web", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_missing_gradio_is_told(monkeypatch, capsys):
    monkeypatch.setattr("hdpainter.web.command.find_spec", lambda name: None)
    assert main(["web"]) == 2
    assert "pip install -e '.[web]'" in capsys.readouterr().err


def test_help_does_not_wait_for_gradio():
    code = (
        "import sys; from hdpainter.cli import main\n"
        "try: main(['web', '--help'])\n"
        "except SystemExit: print('gradio' in sys.modules, 'hdpainter.web.engine' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("False False\n"), done.stderr


def test_the_server_asks_for_the_password_and_leaves_nothing_behind(tiny_pipeline, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio: pip install gradio")
    words = ["web", "--model", tiny_pipeline, "--port", "0", "--auth", "anna:secret"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hdpainter.cli", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        told = process.stdout.readline()
        assert re.match(r"HD-Painter is at http://127\.0\.0\.1:\d+/ ", told)
        url = told.split()[3]
        assert [path.name[:14] for path in tmp_path.glob("hdpainter-*")] == ["hdpainter-web-"]

        def ask(opener):
            body, kind = b'{"data": []}', {"Content-Type": "application/json"}
            return opener.open(urllib.request.Request(f"{url}gradio_api/call/models", body, kind))

        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(urllib.request.build_opener())
        assert refused.value.code == 401
        keeper = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with pytest.raises(urllib.error.HTTPError):
            keeper.open(f"{url}login", b"username=anna&password=wrong")
        keeper.open(f"{url}login", b"username=anna&password=secret")
        assert b"event_id" in ask(keeper).read()
    finally:
        process.terminate()
    assert process.wait(60) == 0
    assert list(tmp_path.glob("hdpainter-*")) == []


def test_what_is_installed(tiny_pipeline):
    models = installed(str(tiny_pipeline))
    assert next(iter(models.items())) == (str(tiny_pipeline), True)


MENU = Menu({"mini": True, "sd15": False}, Limits(steps=60, drafts=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "a" * 1001}, "longer than 1000"),
        ({"model": "../../secrets.yaml"}, "unknown model"),
        ({"method": "/tmp/evil.yaml"}, "unknown method"),
        ({"steps": 61}, "makes up to 60"),
        ({"steps": 0}, "steps is 0"),
        ({"eta": -1}, "eta is -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"size": 4096}, "size is 4096"),
        ({"model": "sd15"}, "the upscaler of sd15 is not installed"),
    ],
)
def test_nothing_that_is_not_on_the_menu(wrong, message):
    right = {"prompt": "a boat", "model": "mini", "method": "painta", "seed": 1}
    assert MENU.recipe(**right).settings.seed == 1
    assert MENU.recipe(**right | {"prompt": " "}).prompt == ""  # as on the command line
    with pytest.raises(UserError, match=message):
        MENU.recipe(**{**right, **wrong})


def test_a_model_comes_with_its_own_method_and_a_chosen_one_stays():
    assert MENU.recipe("a boat", "mini", method=None).settings.method == "hd-painter"
    assert MENU.recipe("a boat", "mini", method="rasg").settings.method == "rasg"
    pytest.importorskip("gradio")
    from hdpainter.web.studio import Studio  # needs gradio

    studio = Studio(MENU, pytest.fail, pytest.fail, Workspace(2**20, 60))
    try:
        for model, method, superres in (("mini", "hd-painter", True), ("sd15", "hd-painter", False)):
            own = Method.load(method).sampler
            method_field, superres_field, guidance_scale, eta, _, about = studio.model_chosen(model)
            assert (method_field, superres_field) == (method, superres)
            assert (guidance_scale, eta) == (own.guidance_scale, own.eta)
            assert "as the authors&#x27; evaluation script runs them" in about
    finally:
        studio.close()


@pytest.mark.parametrize("installed", [True, False])
def test_explaining_is_offered_where_figures_can_be_drawn(monkeypatch, installed):
    pytest.importorskip("gradio")
    from hdpainter.web.studio import Studio  # needs gradio

    if installed:
        pytest.importorskip("matplotlib")
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    studio = Studio(MENU, pytest.fail, pytest.fail, Workspace(2**20, 60))
    try:
        assert studio.can_explain is installed
    finally:
        studio.close()

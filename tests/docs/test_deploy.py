"""``docs/deploy/``: its files, read or run by the programs that they are for."""

from __future__ import annotations

import configparser
import json
import re
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml

from flask_background.core.settings import Settings

from ..helpers import ROOT, until
from .pages import DOCS, FLASK, Program, blocks, save, upload

pytestmark = pytest.mark.server

DEPLOY = DOCS / "deploy"
GRACE = Settings().grace_period
SHOP = next(block for block in blocks(ROOT / "README.md", "python") if block.file_name == "shop.py")


def text_of(page: str, name: str) -> str:
    """The content of a file on a page."""
    (found,) = (block.text for block in blocks(DEPLOY / page) if block.file_name == name)
    return found


def gunicorn_conf(folder: Path) -> None:
    """Save the configuration of gunicorn that all recipes use."""
    (folder / "gunicorn.conf.py").write_text(text_of("index.md", "gunicorn.conf.py"))


def local(text: str, folder: Path) -> str:
    """Replace the paths of a server by those of this machine."""
    flask = folder / "flask"
    flask.write_text(f"#!{sys.executable}\n{FLASK}")
    flask.chmod(0o755)
    gunicorn = folder / "gunicorn"
    gunicorn.write_text(f"#!{sys.executable}\nfrom gunicorn.app.wsgiapp import run\nrun()\n")
    gunicorn.chmod(0o755)
    text = text.replace("/srv/shop/.venv/bin/", f"{folder}/").replace("/srv/shop", str(folder))
    return text.replace("/var/lib/shop", str(folder)).replace("127.0.0.1:8000", "127.0.0.1:0")


class TestNumbers:
    """Each limit is longer than the one inside it."""

    def test_gunicorn(self) -> None:
        """gunicorn waits a second longer than the items may take."""
        values: dict[str, float] = {}
        exec(text_of("index.md", "gunicorn.conf.py"), values)
        assert values["graceful_timeout"] == GRACE + 1

    @pytest.mark.parametrize(
        ("page", "name", "pattern"),
        [
            ("systemd.md", "shop.service", r"TimeoutStopSec=(\d+)"),
            ("systemd.md", "shop-worker.service", r"TimeoutStopSec=(\d+)"),
            ("docker.md", "compose.yaml", r"stop_grace_period: (\d+)s"),
            ("docker.md", "compose.worker.yaml", r"stop_grace_period: (\d+)s"),
            ("kubernetes.md", "deployment.yaml", r"terminationGracePeriodSeconds: (\d+)"),
            ("kubernetes.md", "statefulset.yaml", r"terminationGracePeriodSeconds: (\d+)"),
            ("supervisor.md", "shop.conf", r"stopwaitsecs=(\d+)"),
        ],
    )
    def test_manager(self, page: str, name: str, pattern: str) -> None:
        """The manager waits longer than gunicorn, its own hook included; the table says the same number."""
        text = text_of(page, name)
        for limit in re.findall(pattern, text):
            hook = re.search(r'"sleep", "(\d+)"', text)
            assert float(limit) > GRACE + 1 + float(hook[1] if hook else 0)
            (line,) = (
                line for line in (DEPLOY / "index.md").read_text().splitlines() if f"]({page})" in line
            )
            assert line.endswith(f"| {limit} s |")

    def test_heroku(self) -> None:
        """Heroku's 30 s are enough for gunicorn, and gunicorn's for the items."""
        page = (DEPLOY / "platforms.md").read_text()
        limit = float(re.findall(r"--graceful-timeout (\d+)", page)[0])
        grace = float(re.findall(r"FLASK_BACKGROUND_GRACE_PERIOD=(\d+)", page)[0])
        assert grace + 1 <= limit < 30


class TestSystemd:
    """The unit files."""

    @pytest.mark.parametrize("name", ["shop.service", "shop-worker.service"])
    def test_verified(self, tmp_path: Path, name: str) -> None:
        """systemd finds nothing wrong with the file."""
        unit = tmp_path / name
        unit.write_text(local(text_of("systemd.md", name), tmp_path).replace("User=shop\n", "User=root\n"))
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
        )
        complaints = [line for line in verified.stderr.splitlines() if name in line]
        assert complaints == []

    def test_notifies(self, tmp_path: Path) -> None:
        """gunicorn tells systemd that it is ready, as Type=notify expects."""
        (tmp_path / "shop.py").write_text(SHOP.text)
        gunicorn_conf(tmp_path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(str(tmp_path / "notify"))
            heard.settimeout(60)
            (command,) = re.findall(r"ExecStart=\S+/(gunicorn .+)", text_of("systemd.md", "shop.service"))
            command = command.replace("--bind 127.0.0.1:8000 ", "")  # Program has one
            program = Program(tmp_path, command, NOTIFY_SOCKET=str(tmp_path / "notify"))
            try:
                assert b"READY=1" in heard.recv(1000)
            finally:
                program.end()


class TestSupervisor:
    """The programs' file."""

    def test_stop_waits_for_an_item(self, tmp_path: Path) -> None:
        """supervisord starts both programs; its TERM ends them when their item has ended."""
        (tmp_path / "shop.py").write_text(SHOP.text)
        gunicorn_conf(tmp_path)
        programs = local(text_of("supervisor.md", "shop.conf"), tmp_path).replace("user=shop\n", "")
        log = tmp_path / "out.log"
        programs = programs.replace("stopsignal", f"redirect_stderr=true\nstdout_logfile={log}\nstopsignal")
        programs = programs.replace("environment=", f'environment=PYTHONPATH="{ROOT}",PYTHONUNBUFFERED="1",')
        (tmp_path / "supervisord.conf").write_text(
            f"[supervisord]\nlogfile={tmp_path}/s.log\npidfile={tmp_path}/s.pid\n{programs}"
        )
        supervisor = Program(tmp_path, f"supervisord --nodaemon --configuration {tmp_path}/supervisord.conf")
        try:
            url = until(
                lambda: log.exists() and re.search(r"Listening at: (http://\S+)", log.read_text()), 60
            )
            until(lambda: "started: runs items of" in log.read_text(), 60)
            upload(f"{url[1]}/photos", "photo", b"one")
            supervisor.end(60)
            assert "Stopped: all items done" in log.read_text()
        finally:
            supervisor.kill()

    def test_keys(self) -> None:
        """The file can be read, and both programs have the same limits."""
        parser = configparser.ConfigParser(comment_prefixes=(";",))
        parser.read_string(text_of("supervisor.md", "shop.conf"))
        one, other = (dict(parser[name]) for name in parser.sections())
        assert one.pop("command") != other.pop("command")
        assert one == other


class TestContainers:
    """The files for containers, as far as they can be read without them."""

    def test_kubernetes(self) -> None:
        """Selectors, mounts and volumes go together."""
        for name in ("deployment.yaml", "statefulset.yaml"):
            spec = yaml.safe_load(text_of("kubernetes.md", name))["spec"]
            template = spec["template"]
            assert spec["selector"]["matchLabels"] == template["metadata"]["labels"]
            (container,) = template["spec"]["containers"]
            (mount,) = container["volumeMounts"]
            volumes = [one["name"] for one in template["spec"].get("volumes", [])]
            volumes += [one["metadata"]["name"] for one in spec.get("volumeClaimTemplates", [])]
            assert volumes == [mount["name"]]
            (journal,) = container["env"]
            assert journal["value"].startswith(mount["mountPath"])

    def test_compose(self) -> None:
        """Both services share the volume, which has the journal of the image."""
        web = yaml.safe_load(text_of("docker.md", "compose.yaml"))
        worker = yaml.safe_load(text_of("docker.md", "compose.worker.yaml"))
        assert web["volumes"] == worker["volumes"]
        (volume,) = web["services"]["web"]["volumes"]
        assert worker["services"]["worker"]["volumes"] == [volume]
        mount = volume.partition(":")[2]
        assert f"FLASK_BACKGROUND_JOURNAL={mount}/journal" in text_of("docker.md", "Dockerfile")

    def test_commands(self, tmp_path: Path) -> None:
        """The image's command runs, with the journal where the environment says."""
        dockerfile = text_of("docker.md", "Dockerfile")
        command = json.loads(re.findall(r"^CMD (.+)$", dockerfile, flags=re.M)[0])
        (tmp_path / "shop.py").write_text(
            SHOP.text.replace("background = B", "app.config.from_prefixed_env()\nbackground = B")
        )
        gunicorn_conf(tmp_path)
        words = [word for word in command if word not in ("--bind", "0.0.0.0:8000")]  # Program has one
        journal = tmp_path / "state" / "journal"
        program = Program(tmp_path, " ".join(words), FLASK_BACKGROUND_JOURNAL=str(journal))
        try:
            upload(f"{program.url}/photos", "photo", b"one")
            assert (journal / "journal.sqlite3").exists()
            program.end()
        finally:
            program.kill()


def test_nginx(tmp_path: Path) -> None:
    """A link that an item makes has the scheme and the host that nginx saw."""
    for block in blocks(DEPLOY / "nginx.md", "python"):
        save(tmp_path, block)
    gunicorn_conf(tmp_path)
    app = Program(tmp_path, "gunicorn shop:app")
    front = None
    try:
        port = app.url.rpartition(":")[2]
        front_socket = tmp_path / "front"
        site = text_of("nginx.md", "shop.nginx")
        site = site.replace("listen 127.0.0.1:8080", f"listen unix:{front_socket}").replace(
            ":8000", f":{port}"
        )
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log off;\nclient_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;\n"
            f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
            f"{site} }}"
        )
        front = Program(tmp_path, f"/usr/sbin/nginx -c {tmp_path}/nginx.conf")
        until(front_socket.exists)

        def ask(path: str, host: str = "shop.example") -> str:
            connection = HTTPConnection(host, timeout=30)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(front_socket))
            connection.request("GET", path)
            answer = connection.getresponse().read().decode()
            connection.close()
            return answer

        item = json.loads(ask("/"))["item"]
        assert json.loads(ask(f"/{item}")) == {"link": "http://shop.example/"}
        assert "400 Bad Request" in ask("/", host="made-up.example")
    finally:
        for program in (front, app):
            if program is not None:
                program.end()

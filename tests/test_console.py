"""Commands: one sentence for an error that the user can correct, names that cannot harm a terminal, and exit codes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from genre_jax import console, tag, tagger

EVIL = "a\nb\x1b[31m\x9b\x7f\u202egnp\udcff.wav"
SHOWN = r"a\nb\x1b[31m\x9b\x7f\u202egnp\udcff.wav"


def start(body: str, env: dict[str, str] | None = None, **pipes) -> subprocess.Popen:
    """Start a command whose `main` has this body."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"import errno, os, sys, time\nfrom genre_jax import console\ndef main(argv):\n{indented}\nconsole.run(main)\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **({"stdout": -1, "stderr": -1} | pipes))


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def test_control_characters_are_shown_as_escapes():
    assert console.printable(EVIL) == SHOWN
    assert console.printable("a\nb\t", keep="\n") == "a\nb\\t"
    for harmless in ("Beyoncé – Déjà Vu", "音楽 \U0001f3b5 שלום"):
        assert console.printable(harmless) == harmless


def test_tags_show_names_on_one_line_each():
    tags = tagger.Tags(("a\nb\x1b",), np.zeros(1), 1.0, 1.0, np.ones((1, 1)), np.zeros((1, 1)))
    lines = tag.as_text(EVIL, tags, top=5).splitlines()
    assert len(lines) == 2 and lines[0].startswith(SHOWN + "  (0:01, ") and lines[1].startswith(r"  a\nb\x1b")
    assert json.loads(json.dumps(tag.as_json(EVIL, tags)))["file"] == EVIL


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"PYTHONUTF8": "0", "LC_ALL": "POSIX"}])
def test_any_name_is_printed_on_any_terminal(locale):
    code, out, err = finish(start(f"console.say({'█' + EVIL!a})\nraise console.UserError({EVIL!a})", env=locale))
    assert code == 1
    assert err == f"error: {SHOWN}\n"
    assert out.replace(r"\u2588", "█") == "█" + SHOWN.replace(r"\n", "\n", 1) + "\n"


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR",
                                    "ENAMETOOLONG", "EEXIST", "EMFILE", "EIO", "ESTALE"])  # fmt: skip
def test_an_error_of_the_file_system_is_one_sentence(number):
    sentence = console.cure(OSError(getattr(errno, number), "text", "/data/songs.csv"))
    assert "/data/songs.csv" in sentence and ": " in sentence
    assert console.cure(OSError(errno.ECONNREFUSED, "text")) is None


def test_the_exit_of_a_command_after_an_error():
    assert finish(start("open('/gone/songs.csv')")) == (1, "", "error: /gone/songs.csv does not exist: check the path\n")
    code, _, err = finish(start("raise ZeroDivisionError('text')"))
    assert code == 1 and err.startswith("Traceback") and err.endswith("ZeroDivisionError: text\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_under_the_output_is_one_sentence():
    with open("/dev/full", "wb") as full:
        process = start("console.say('text')", stdout=full)
        _, err = process.communicate(timeout=60)
    sentence = "error: the disk of the output is full: free some space and run the same command again\n"
    assert (process.returncode, err.decode()) == (1, sentence)


def test_sigterm_cleans_up_and_ends_with_143():
    body = (
        "try:\n    console.say('ready')\n    time.sleep(60)\nfinally:\n    os.kill(os.getpid(), 15)\n    console.say('clean')"
    )
    process = start(body)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process) == (143, "clean\n", "terminated\n")


def test_a_closed_pipe_ends_the_command_silently():
    process = start("while True:\n    console.say('line')\n    time.sleep(0.01)")
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    deadline = time.monotonic() + 30
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (process.returncode, process.stderr.read()) == (141, b"")
    process.stderr.close()

"""VERIFY_KEY: only the very bytes that the key's owner signed are served."""

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from serving.batch import __main__ as batch
from serving.engine import deployment
from serving.engine.deployment import load
from serving.inference.model.predictor import ModelError, Predictor
from serving.process.signature import signature_of
from serving.settings import Settings
from tests.support.live import ROOT, environment, photo, running, wait_until
from tests.support.onnx_models import Pair, write_pair

PEM, OPEN = serialization.Encoding.PEM, serialization.NoEncryption()


def write_keys(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """A private and a public key."""
    private = ec.generate_private_key(curve or ec.SECP256R1())
    key, public = folder / f"{name}.pem", folder / f"{name}.pub"
    key.write_bytes(private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, OPEN))
    public.write_bytes(private.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return key, public


def sign(model: Path, key: Path, code: int = 0) -> str:
    """What `make sign` does, and what it says."""
    recipe = [sys.executable, "-m", "model_signing", "sign", "key", model, "--signature", signature_of(model)]
    done = subprocess.run([*recipe, "--allow_symlinks", "--private_key", key], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A model that `key` signed."""
    pair = write_pair(tmp_path / "model")
    sign(pair.model, write_keys(tmp_path, "key")[0])
    return pair


def settings(pair: Pair, key: Path) -> Settings:
    """Of a service that asks for a signature."""
    return Settings.from_env({"MODEL_PATH": str(pair.model), "VERIFY_KEY": str(key)})


def refusal(pair: Pair, key: Path) -> str:
    """Why a model is not served; it must not even be parsed."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ModelError) as error:
        patch.setattr(deployment, "Predictor", lambda *_, **__: pytest.fail("it was parsed"))
        load(settings(pair, key), pair.model, None)
    return str(error.value)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signed_model_is_served_whatever_its_name_and_behind_a_link(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    pair = write_pair(tmp_path)
    stored = pair.model.rename(tmp_path / "17e513842ac95a72")  # as in DVC's cache
    pair.model.symlink_to(stored)
    key, public = write_keys(tmp_path, "key", curve)
    sign(pair.model, key)
    assert load(settings(pair, public), pair.model, None).rule.t_clean == 0.75
    other = pair._replace(model=tmp_path / "other.onnx")
    shutil.copy(stored, other.model)
    shutil.copy(signature_of(pair.model), signature_of(other.model))
    assert load(settings(other, public), other.model, None).certified


def test_a_planted_byte_anywhere_refuses_it(pair: Pair, tmp_path: Path) -> None:
    content = pair.model.read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        pair.model.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "does not show that" in refusal(pair, tmp_path / "key.pub")
    pair.model.write_bytes(content + b"\0")
    assert "Hash mismatch" in refusal(pair, tmp_path / "key.pub")


def test_batch_scoring_holds_it_against_its_signature_too(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "car.jpg").write_bytes(photo())
    monkeypatch.setenv("MODEL_PATH", str(pair.model))
    monkeypatch.setenv("VERIFY_KEY", str(tmp_path / "key.pub"))
    command = [str(tmp_path / "car.jpg"), "--out", str(tmp_path / "out.csv")]
    assert batch.main(command) == 0
    content = bytearray(pair.model.read_bytes())
    content[-1] ^= 1
    pair.model.write_bytes(content)
    assert batch.main([*command, "--resume"]) == 2
    assert "does not show that" in capsys.readouterr().err


def test_another_key_and_what_is_no_key_or_signature_refuse_it(pair: Pair, tmp_path: Path) -> None:
    other = write_keys(tmp_path, "other")[1]
    assert "does not match the provided public key" in refusal(pair, other)
    assert "cannot read" in refusal(pair, tmp_path / "absent.pub")
    other.write_text("no key")
    assert "does not show that" in refusal(pair, other)
    public, bundle = tmp_path / "key.pub", signature_of(pair.model)
    made = bundle.read_text()
    assert '"sig":"' in made
    for text in ("", "[]", "{}", made[:-20], made.replace('"sig":"', '"sig":"AAAA')):
        bundle.write_text(text)
        assert f"{bundle} does not show that" in refusal(pair, public)
    bundle.unlink()
    assert "best.onnx.sig is missing" in refusal(pair, public)


def test_a_signature_that_does_not_name_its_key_is_held_against_it_all_the_same(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the first versions of model-signing wrote it. What it says of that is not taken for the answer."""
    bundle = signature_of(pair.model)
    old = json.loads(bundle.read_text()) | {"verificationMaterial": {"publicKey": {}, "tlogEntries": []}}
    bundle.write_text(json.dumps(old))
    assert load(settings(pair, tmp_path / "key.pub"), pair.model, None).certified
    assert capsys.readouterr().out == ""


def test_a_signature_by_another_key_that_claims_to_be_ours_refuses_it(pair: Pair, tmp_path: Path) -> None:
    """The bundle names its key by a hash that nobody signs."""
    bundle = signature_of(pair.model)
    ours = json.loads(bundle.read_text())["verificationMaterial"]
    sign(pair.model, write_keys(tmp_path, "other")[0])
    theirs = json.loads(bundle.read_text())
    for material in (ours, {"publicKey": {}, "tlogEntries": []}):
        bundle.write_text(json.dumps(theirs | {"verificationMaterial": material}))
        assert "does not show that" in refusal(pair, tmp_path / "key.pub")


def test_a_file_that_changes_after_the_check_is_not_served(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(model: Path, **options: object) -> Predictor:
        write_pair(model.parent, t_clean=0.01)
        return Predictor(model, **options)

    monkeypatch.setattr(deployment, "Predictor", swapped)
    with pytest.raises(ModelError, match="changed after its signature was checked"):
        load(settings(pair, tmp_path / "key.pub"), pair.model, None)


def test_without_the_packages_it_says_what_to_install(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "model_signing":
            raise ModuleNotFoundError(name, name=name)
        return wanted(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install -r serving/requirements-sign.txt" in refusal(pair, tmp_path / "key.pub")


def test_keys_that_cannot_sign_leave_the_signature(pair: Pair, tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    locked = private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"a"))
    numbers = rsa.generate_private_key(65537, 2048)
    foreign = numbers.private_bytes(PEM, serialization.PrivateFormat.PKCS8, OPEN)
    blockchain = ec.generate_private_key(ec.SECP256K1()).private_bytes(PEM, serialization.PrivateFormat.PKCS8, OPEN)
    before = signature_of(pair.model).read_bytes()
    for content in (locked, foreign, blockchain, b"no key"):
        (tmp_path / "key.pem").write_bytes(content)
        assert "failed" in sign(pair.model, tmp_path / "key.pem", 1)
    assert "absent" in sign(pair.model, tmp_path / "absent", 1)
    assert signature_of(pair.model).read_bytes() == before


@pytest.mark.slow
def test_the_server_refuses_to_start_and_to_reload_what_is_not_signed(pair: Pair, tmp_path: Path) -> None:
    """And without VERIFY_KEY it imports nothing of it."""
    public = str(tmp_path / "key.pub")

    def reasons(live: object) -> str:
        return str(requests.get(live.url + "/model", timeout=10).json()["reload_refused"])

    with running(pair, tmp_path, VERIFY_KEY=public) as live:
        version = live.send(photo(255)).json()["model"]
        write_pair(pair.model.parent, t_clean=0.5)  # the signature is of the model before
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: "does not show that" in reasons(live))
        signature_of(pair.model).unlink()
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: f"{pair.model}.sig is missing" in reasons(live))
        assert live.send(photo(255)).json()["model"] == version
        sign(pair.model, tmp_path / "key.pem")
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: live.send(photo(255)).json()["threshold"] == 0.5)
        (tmp_path / "key.pub").unlink()  # a worker that dies comes back: its copy was checked
        os.kill(live.workers()[0], signal.SIGKILL)
        wait_until(lambda: live.status(photo(255)) == "200")
    write_keys(tmp_path, "key")
    command = [sys.executable, "-m", "gunicorn", "-c", "serving/gunicorn.conf.py", "serving.app:create_app()"]
    started = subprocess.run(
        command, cwd=ROOT, env=environment(pair, VERIFY_KEY=public), capture_output=True, text=True, timeout=60
    )
    assert started.returncode != 0 and "dirtycar cannot start" in started.stderr and "best.onnx.sig" in started.stderr
    code = "import sys; from serving.app import create_app; create_app(); print('model_signing' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(pair), capture_output=True, text=True)
    assert said.stdout.strip() == "False", said.stderr

"""Whether a model is the one that was signed: OpenSSF Model Signing, with a key of one's own (no certificates, no log).

The signature of best.onnx is the Sigstore bundle best.onnx.sig beside it: an in-toto statement with the file's sha256,
signed on an elliptic curve (P-256, P-384 or P-521). It speaks of the file's content, not of its name.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from serving.inference.model.onnx_check import MAX_BYTES, ModelError
from serving.inference.verdict.errors import read_at_most

MAX_SIGNATURE_BYTES = 1 << 20


def signature_of(model: Path) -> Path:
    return model.with_name(model.name + ".sig")


def signed_sha256(model: Path, key: Path) -> str:
    """The sha256 of a model, which is signed by the private half of `key`, a PEM file. The model is hashed, not parsed.

    What the caller loads must have that sha256: the file may change after this has read it. Raises ModelError.
    """
    signature = signature_of(model)
    if not signature.is_file():
        raise ModelError(f"{signature} is missing, and VERIFY_KEY is set: `make sign KEY=key.pem` writes it")
    for file, limit in ((model, MAX_BYTES), (signature, MAX_SIGNATURE_BYTES), (key, MAX_SIGNATURE_BYTES)):
        read_at_most(file, limit, ModelError)
    try:
        from model_signing import hashing, manifest, verifying
    except ImportError as error:
        needed = "pip install -r serving/requirements-sign.txt -c constraints.txt"
        raise ModelError(f"VERIFY_KEY needs packages that are not installed ({error.name}): {needed}") from error

    class Hashing(hashing.Config):
        """Keeps what was compared with the signature."""

        def hash(self, *args: Any, **options: Any) -> manifest.Manifest:
            self.manifest = super().hash(*args, **options)
            return self.manifest

    # Not the hashing that the signature names: sha256 of the whole file, which a link of DVC's may lead to.
    hashed = Hashing().set_allow_symlinks(True)
    verifier = verifying.Config().set_hashing_config(hashed)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where it warns of old signatures; stdout is for who called
            verifier.use_elliptic_key_verifier(public_key=key).verify(model, signature)
        (signed,) = hashed.manifest.resource_descriptors()
    except Exception as error:  # of many kinds: whatever keeps it from being proven refuses the model
        reason = str(error) or type(error).__name__
        raise ModelError(f"{signature} does not show that {model} was signed by the key of {key}: {reason}") from error
    return str(signed.digest.digest_hex)

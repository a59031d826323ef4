"""`make sign KEY=key.pem`: artifacts/best.onnx.sig, by which the service with VERIFY_KEY=pub.pem knows the model."""

import sys
import tempfile
from pathlib import Path

from model_signing import hashing, signing

from serving.process.signature import signature_of
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import write_bytes
from stages.common.base.paths import MODEL

KEYS = """a pair of keys is made by
  openssl ecparam -name prime256v1 -genkey -noout -out key.pem
  openssl ec -in key.pem -pubout -out pub.pem"""


def sign(model: Path, key: Path) -> Path:
    """Sign a model with a private key on an elliptic curve, a PEM file that is not encrypted; the signature's place.

    Raises StageError.
    """
    for file in (model, key):
        if not file.is_file():
            raise StageError(f"{str(file)!r} is no file; {KEYS}" if file == key else f"{file} is missing: `make repro`")
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # of many kinds: encrypted, another kind of key, none
        raise StageError(f"{key} cannot be used: {error}; {KEYS}") from error
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "signature"
        signer.set_hashing_config(hashing.Config().set_allow_symlinks(True)).sign(model, made)
        write_bytes(signature_of(model), made.read_bytes())
    return signature_of(model)


def main() -> None:
    if not sys.argv[1]:
        raise StageError(f"say which key: `make sign KEY=key.pem`; {KEYS}")
    print(f"wrote {sign(MODEL, Path(sys.argv[1]))}")


if __name__ == "__main__":
    run_stage("sign", main)

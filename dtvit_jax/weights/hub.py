"""Published weights by name: found in a folder or a cache, else fetched once.

Names: `torchvision/vit_l_16`, `timm/vit_base_patch16_224.augreg2_in21k_ft_in1k`,
`hf/google/vit-base-patch16-224-in21k` (owner and repository on the Hugging Face Hub) and
`google/augreg/FILE.npz` (a path in the bucket vit_models).
"""

import fcntl
import hashlib
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from data_builder.errors import InputError
from data_builder.progress import track

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 5
_MEBIBYTE = 1 << 20

TORCHVISION = {
    "vit_b_16": "vit_b_16-c867db91.pth",
    "vit_b_16_swag_e2e": "vit_b_16_swag-9ac1b537.pth",
    "vit_b_16_swag_linear": "vit_b_16_lc_swag-4e70ced5.pth",
    "vit_b_32": "vit_b_32-d86f8d99.pth",
    "vit_l_16": "vit_l_16-852ce7e3.pth",
    "vit_l_16_swag_e2e": "vit_l_16_swag-4f3808c9.pth",
    "vit_l_16_swag_linear": "vit_l_16_lc_swag-4d563306.pth",
    "vit_l_32": "vit_l_32-c7638314.pth",
    "vit_h_14_swag_e2e": "vit_h_14_swag-80465313.pth",
    "vit_h_14_swag_linear": "vit_h_14_lc_swag-c1eb923e.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet50_v2": "resnet50-11ad3fa6.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",
    "squeezenet1_0": "squeezenet1_0-b66bff10.pth",
    "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
    "densenet121": "densenet121-a639ec97.pth",
    "vgg16": "vgg16-397923af.pth",
}
"""File names in torchvision 0.28's models/*.py; the 8 hex digits begin the file's SHA-256, as
torch.hub.load_state_dict_from_url says of `check_hash`."""


class Published(NamedTuple):
    """A published file: its address, its name in a folder, its SHA-256's first digits if known."""

    url: str
    file: str
    sha256: str | None


def published(name: str) -> Published | None:
    """The file that a name stands for, or None where it is not a name.

    Raises:
        InputError: it begins as a name, but there is none such.
    """
    publisher, _, rest = name.partition("/")
    if publisher == "torchvision":
        if rest not in TORCHVISION:
            raise InputError(
                f"config.init_from={name!r}: torchvision has {', '.join(TORCHVISION)} here"
            )
        file = TORCHVISION[rest]
        return Published(f"https://download.pytorch.org/models/{file}", file, file[-12:-4])
    repository = {"timm": f"timm/{rest}", "hf": rest}.get(publisher, "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        url = f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
        return Published(url, repository.replace("/", "--") + ".safetensors", None)
    if publisher == "google" and re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.npz", rest):
        url = f"https://storage.googleapis.com/vit_models/{rest}"
        return Published(url, "google--" + rest.replace("/", "--"), None)
    return None


def locate(init_from: str) -> Path:
    """The file of weights that a path or a name stands for; a name's is fetched if need be.

    A name's file is looked for in the folder `DTVIT_WEIGHTS`, if that is set (and nothing is then
    fetched), else in the cache `$XDG_CACHE_HOME/dtvit` (by default ~/.cache/dtvit).

    Raises:
        InputError: no such file and no such name, it can't be fetched, or its hash is another.
    """
    path = Path(init_from).expanduser()
    if path.exists():
        return path
    known = published(init_from)
    if known is None:
        raise InputError(
            f"config.init_from={init_from!r}: no such file; give a file, 'scratch', or a name "
            "such as torchvision/vit_l_16, timm/NAME, hf/OWNER/NAME or google/augreg/FILE.npz"
        )
    if folder := os.environ.get("DTVIT_WEIGHTS"):
        path = Path(folder).expanduser() / known.file
        if not path.is_file():
            raise InputError(
                f"{init_from}: {known.file} is not in the folder DTVIT_WEIGHTS; put it there from "
                f"{known.url}, or use --config.init_from=scratch"
            )
        _check(path, known)
        return path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "dtvit"
    path = cache / known.file
    if not path.exists():
        try:
            fetch(known, path)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"{init_from}: could not fetch {known.url} ({_reason(error)}): fetch it on another "
                f"machine, and set DTVIT_WEIGHTS to its folder; or use --config.init_from=scratch"
            ) from error
    return path


def fetch(known: Published, target: Path) -> None:
    """Downloads a file to `target`, which appears whole and checked or not at all.

    What an attempt got is kept beside it as `.part` and resumed, by this call or a later one, if
    the server says that its file is still the same. The SHA-256 is written beside it; where the
    publisher tells none, it is called unverified.

    Raises:
        InputError: the file's SHA-256 is not the published one; it is deleted.
        OSError, HTTPException: the server could not be reached, or broke off too often.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with part.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several processes fetches, the others wait
        if target.exists():
            return
        for attempt in range(ATTEMPTS):
            try:
                _continue(known.url, part)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == ATTEMPTS - 1:
                    raise
            except (OSError, HTTPException):
                if attempt == ATTEMPTS - 1:
                    raise
            time.sleep(0.5 * 2**attempt)
        digest = _check(part, known)
        how = "verified" if known.sha256 else "unverified: its publisher tells no hash"
        line = f"{digest}  {target.name}  ({how})"
        target.with_name(target.name + ".sha256").write_text(line + "\n")
        print(f"SHA-256 {line}", file=sys.stderr)
        part.replace(target)
        _validator(part).unlink(missing_ok=True)


def _validator(part: Path) -> Path:
    """Where the ETag of a half file is kept."""
    return part.with_suffix(".etag")


def _continue(url: str, part: Path) -> None:
    """One request for what `part` still lacks. Raises OSError if it ends before the file does."""
    have = part.stat().st_size if part.exists() else 0
    etag = _validator(part).read_text() if have and _validator(part).exists() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "dtvit-jax"})
    if have and etag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send, or the half file is too long
            part.unlink()
            raise ConnectionError("the half file did not fit the server's") from error
        raise
    with response:
        if response.status != 206:
            have = 0
        length = int(response.headers.get("Content-Length") or -1)
        _validator(part).write_text(response.headers.get("ETag") or "")
        mebibytes = max(1, -(-length // _MEBIBYTE))
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            for piece in track(_pieces(response), mebibytes, f"fetching {part.stem} (MiB)"):
                file.write(piece)
            got = file.tell() - have
    if length >= 0 and got < length:
        raise ConnectionError(f"the server broke off after {have + got} of {have + length} bytes")


def _pieces(response: Any) -> Iterator[bytes]:
    while piece := response.read(_MEBIBYTE):
        yield piece


def _check(path: Path, known: Published) -> str:
    """The file's SHA-256. Raises InputError if it does not begin as published."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if known.sha256 and not digest.startswith(known.sha256):
        if path.suffix == ".part":
            path.unlink()
        raise InputError(
            f"{known.file}: its SHA-256 begins with {digest[:8]}, not with the published "
            f"{known.sha256}: it is damaged or not the file; fetch it again from {known.url}"
        )
    return digest


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return (str(reason) or type(error).__name__).splitlines()[0]

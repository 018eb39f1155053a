"""Locates published weights by name, in a folder or a cache, and downloads them once.

Names: `torchvision/vit_l_16`, `timm/vit_base_patch16_224.augreg2_in21k_ft_in1k`,
`hf/google/vit-base-patch16-224-in21k` (owner and repository on the Hugging Face Hub) and
`google/augreg/FILE.npz` (a path in the bucket vit_models).
"""

import fcntl
import functools
import os
import re
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from data_builder.errors import InputError
from data_builder.files import sha256_of, write_whole
from data_builder.progress import track
from dtvit_jax.weights import files

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
"""File names in torchvision 0.28's models/*.py. The 8 hexadecimal digits are the first of the
file's SHA-256 (`check_hash` of torch.hub.load_state_dict_from_url)."""

LEGACY = (TORCHVISION["densenet121"], TORCHVISION["vgg16"])
"""Files of 2017, in the format before PyTorch 1.6. pytorch/vision's pull requests 3581 and 3620
saved its other files of that time again, under the names above; those of ViTs are of 2022."""


class Published(NamedTuple):
    """A published file.

    Attributes:
        url: its address.
        file: its name in a folder or the cache.
        sha256: the first digits of its SHA-256; None where the publisher states none.
    """

    url: str
    file: str
    sha256: str | None


def published(name: str) -> Published | None:
    """The file of a published name; None where `name` is not one.

    Raises:
        InputError: `name` begins with torchvision/, which has no such file.
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


def is_published(init_from: str) -> bool:
    """Whether `init_from` is a published name; a file or folder of that name takes precedence.

    Raises InputError as `published`.
    """
    return not Path(init_from).expanduser().exists() and published(init_from) is not None


def check(init_from: str) -> None:
    """Checks a path or a published name as far as nothing is downloaded or read for it.

    Raises:
        InputError: there is no such file or name, the folder `DTVIT_WEIGHTS` lacks the file, or it
            needs PyTorch, which is not installed.
    """
    path, publication = _place(init_from)
    if not path.exists():
        needs_torch = publication is not None and publication.file in LEGACY
    else:
        try:
            needs_torch = path.is_file() and files.is_legacy(path)
        except OSError as error:
            raise InputError(f"{path}: can't be read: {_reason(error)}") from error
    if needs_torch:
        files.check_torch(init_from)


def locate(init_from: str) -> Path:
    """The path of the weights of a path or a published name, downloaded if necessary.

    The file of a name is taken from the folder `DTVIT_WEIGHTS` where that variable is set (nothing
    is downloaded then), else from the cache `$XDG_CACHE_HOME/dtvit` (by default ~/.cache/dtvit).

    Raises:
        InputError: what `check` finds, the download fails, or the hash is wrong.
    """
    check(init_from)
    path, publication = _place(init_from)
    if publication is None:
        return path
    if os.environ.get("DTVIT_WEIGHTS"):
        _check(path, publication)
    elif not path.exists():
        try:
            fetch(publication, path)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"{init_from}: could not fetch {publication.url} ({_reason(error)}): fetch it on "
                "another machine, and set DTVIT_WEIGHTS to its folder; or use "
                "--config.init_from=scratch"
            ) from error
    return path


def _place(init_from: str) -> tuple[Path, Published | None]:
    """Where the weights of a path or a name are or will be, and what is published of a name."""
    path = Path(init_from).expanduser()
    if path.exists():
        return path, None
    publication = published(init_from)
    if publication is None:
        raise InputError(
            f"config.init_from={init_from!r}: no such file; give a file, 'scratch', or a name "
            "such as torchvision/vit_l_16, timm/NAME, hf/OWNER/NAME or google/augreg/FILE.npz"
        )
    if folder := os.environ.get("DTVIT_WEIGHTS"):
        path = Path(folder).expanduser() / publication.file
        if not path.is_file():
            raise InputError(
                f"{init_from}: {publication.file} is not in the folder DTVIT_WEIGHTS; put it there "
                f"from {publication.url}, or use --config.init_from=scratch"
            )
        return path, publication
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "dtvit"
    return cache / publication.file, publication


def fetch(publication: Published, target: Path) -> None:
    """Downloads a file to `target`, which appears whole and checked or not at all.

    An incomplete download stays in the same folder as `.part`, and this or a later call resumes it
    if the server's ETag is unchanged. The SHA-256 is written to `.sha256`, marked unverified where
    the publisher states none.

    Raises:
        InputError: the file's SHA-256 is not the published one; the file is deleted.
        OSError, HTTPException: the server can't be reached, or failed in all ATTEMPTS.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with part.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several processes downloads, the others wait
        if target.exists():
            return
        for attempt in range(ATTEMPTS):
            try:
                _resume(publication.url, part)
                break
            except (OSError, HTTPException) as error:
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if refused or attempt == ATTEMPTS - 1:
                    raise
            time.sleep(0.5 * 2**attempt)
        digest = _check(part, publication)
        how = "verified" if publication.sha256 else "unverified: its publisher states no hash"
        line = f"{digest}  {target.name}  ({how})"
        write_whole(target.with_name(target.name + ".sha256"), line + "\n")
        print(f"SHA-256 {line}", file=sys.stderr)
        part.replace(target)
        _validator(part).unlink(missing_ok=True)


def _validator(part: Path) -> Path:
    """The file with the ETag of an incomplete download."""
    return part.with_suffix(".etag")


def _resume(url: str, part: Path) -> None:
    """Requests the bytes that `part` lacks, once. Raises OSError where they end too early."""
    have = part.stat().st_size if part.exists() else 0
    etag = _validator(part).read_text() if have and _validator(part).exists() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "dtvit-jax"})
    if have and etag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # range not satisfiable: `part` is complete already, or too long
            part.unlink()
            raise ConnectionError(
                "the incomplete download does not fit the server's file"
            ) from error
        raise
    with response:
        if response.status != 206:
            have = 0
        length = int(response.headers.get("Content-Length") or -1)
        _validator(part).write_text(response.headers.get("ETag") or "")
        mebibytes = max(1, -(-length // _MEBIBYTE))
        pieces = iter(functools.partial(response.read, _MEBIBYTE), b"")
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            for piece in track(pieces, mebibytes, f"fetching {part.stem} (MiB)"):
                file.write(piece)
            received = file.tell() - have
    if length >= 0 and received < length:
        raise ConnectionError(
            f"the server broke off after {have + received} of {have + length} bytes"
        )


def _check(path: Path, publication: Published) -> str:
    """The file's SHA-256. Raises InputError where it is not the published one."""
    digest = sha256_of(path)
    if publication.sha256 and not digest.startswith(publication.sha256):
        if path.suffix == ".part":
            path.unlink()
        raise InputError(
            f"{publication.file}: its SHA-256 begins with {digest[:8]}, not with the published "
            f"{publication.sha256}: it is damaged or another file; fetch it again from "
            f"{publication.url}"
        )
    return digest


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return (str(reason) or type(error).__name__).splitlines()[0]

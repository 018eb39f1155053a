"""No planted name reaches any output of the whole chain.

Names are planted wherever a person could have typed one, and each command runs on good and on bad
input. All files that it leaves, their names, their compressed parts and all that it prints are
searched; the sources and the key's folder are not.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from pydicom import config as pydicom_config
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from data_builder.__main__ import main as builder
from data_builder.errors import InputError
from dtvit_jax import evaluate, export
from dtvit_jax.train import train
from dtvit_jax.weights.save import save
from tests.helpers import ROOT, tiny
from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu
from tests.helpers.run_folder import save_run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of what is planted

WORDS = ("Quixotinha", "Dulcinéa", "Mancheño", "堂吉诃德")
NUMBER = "8675309417"
NAME = f"{WORDS[0]}^{WORDS[1]} {WORDS[2]}={WORDS[3]}"
TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
# A name in one of these makes the file refused: each gets a file of its own.
DECIDING = (
    "Modality",
    "ImageType",
    "PhotometricInterpretation",
    "BurnedInAnnotation",
    "ConversionType",
    "SpecificCharacterSet",
)


def needles():
    """{bytes: word} of every planted word and its pieces, in each case and encoding."""
    words = {}
    for word in (*WORDS, NUMBER):
        size = 6 if word.isascii() else len(word) if len(word) < 6 else 6
        pieces = {word[k : k + size] for k in range(len(word) - size + 1)}
        for text in {form for p in pieces for form in (p, p.upper(), p.lower(), p.title())}:
            for coding in ("utf-8", "utf-16-le", "utf-16-be", "latin-1", "gb18030"):
                try:
                    words[text.encode(coding)] = word
                except UnicodeEncodeError:
                    continue
            words[ascii(text)[1:-1].encode()] = word  # as json or a log escapes it
    return words


NEEDLES = needles()
PATTERN = re.compile(b"|".join(re.escape(n) for n in sorted(NEEDLES, key=len, reverse=True)))


def planted(ds, but=()):
    """Puts names into every text element there is, sequences and private elements too."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        fine = keyword and tag >> 16 > 2 and keyword not in DECIDING and keyword not in but
        if fine and vr in TEXTS and not (0x50 <= tag >> 24 <= 0x60):
            setattr(ds, keyword, NAME if vr == "PN" else f"{WORDS[0]} {WORDS[1]} {NUMBER}")
    ds.SpecificCharacterSet = "ISO_IR 192"
    inner = Dataset()
    inner.PatientID, inner.RequestedProcedureDescription = f"{WORDS[0]}{NUMBER}", WORDS[2]
    outer = Dataset()
    outer.ScheduledProcedureStepDescription, outer.RequestAttributesSequence = WORDS[3], [inner]
    ds.RequestAttributesSequence = [outer]
    ds.OtherPatientIDsSequence = [inner]
    block = ds.private_block(0x0009, f"{WORDS[0]} PRIVATE", create=True)
    block.add_new(1, "LO", WORDS[1])
    block.add_new(2, "SQ", [outer])
    block.add_new(3, "UN", NAME.encode())
    for keyword in ("PatientBirthDate", "StudyDate", "AcquisitionTime", "PatientAge"):
        setattr(ds, keyword, f"{WORDS[0]}")
    return ds


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twenty people's slices with labels, files that are refused, and files of other sorts."""
    src = tmp_path_factory.mktemp("given") / f"{WORDS[0]} {NUMBER}"
    labels = ["study,subject,slice,keep,hemorrhage,location"]
    reading = pydicom_config.settings.writing_validation_mode
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
    locations = ("", "", "deep", "lobar", "subtentorial")
    for person in range(20):
        folder = f"{WORDS[0]} {WORDS[1]}/{WORDS[2]}{person}"
        uid = generate_uid(entropy_srcs=[folder])
        location = locations[person % 5]
        texture = np.random.default_rng(person).integers(0, 25, (8, 8))
        own = np.kron(texture, np.ones((8, 8), int))  # or they would pass for copies of one person
        labels.append(f"{WORDS[2]}{person},{NAME} {person},,,{int(bool(location))},{location}")
        for k in range(2):
            changes = {"PatientID": f"{NUMBER}{person}", "InstanceNumber": k + 1}
            ds = ct(head_hu() + own + 30 * k, **changes, StudyInstanceUID=uid)
            ds.SOPInstanceUID = f"{uid}.{k}"
            ds = planted(ds, but=("PatientID",)) if k == 0 else ds
            ds.PatientName = NAME
            put(src, f"{folder}/{WORDS[0]}_{k}_{NUMBER}.dcm", encoded(ds))
    labels += [f"{WORDS[0]} gone,,,,0,", f",{WORDS[1]} {NUMBER},,,0,"]
    (src / "labels.csv").write_text("\n".join(labels) + "\n", encoding="utf-8")
    for keyword in DECIDING:
        ds = planted(ct())
        setattr(ds, keyword, WORDS[0].upper())
        put(src, f"{WORDS[0]}/{keyword}.dcm", encoded(ds))
    for keyword in ("Rows", "PixelSpacing", "ImagePositionPatient", "RescaleSlope", "WindowCenter"):
        ds = planted(ct())
        ds.add_new(keyword, "LO", f"{WORDS[0]} {NUMBER}")
        put(src, f"{WORDS[0]}/{keyword} {WORDS[0]}.dcm", encoded(ds))
    whole = encoded(planted(ct(PatientName=NAME)))
    put(src, f"{WORDS[0]}/cut.dcm", whole[:-300])
    put(src, f"{WORDS[0]}/cut early.dcm", whole[: len(whole) // 3])
    put(src, f"{WORDS[0]}/syntax.dcm", whole.replace(b"10008.1.2.1", NUMBER.encode() + b".", 1))
    frames = planted(enhanced(np.stack([head_hu()] * 2), (0.0, 5.0)))
    frames.PerFrameFunctionalGroupsSequence[1].FrameContentSequence = [planted(Dataset())]
    put(src, f"{WORDS[0]}/frames.dcm", encoded(frames))
    put(src, f"{NAME.replace('^', '_')}.txt", NAME.encode())
    put(src, f"{WORDS[0]} {NUMBER}.jpg", b"\xff\xd8\xff" + NAME.encode("latin-1", "replace"))
    pydicom_config.settings.writing_validation_mode = reading
    return src


def opened(path):
    """The bytes of a file and of its compressed parts."""
    data = path.read_bytes()
    yield data
    if ".array_record" in path.name:
        reader = ArrayRecordReader(str(path))
        yield from reader.read_all()
        reader.close()
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        image = Image.open(io.BytesIO(data))
        yield repr(image.info).encode() + image.tobytes()
    for start in (m.start() for m in re.finditer(rb"\x78[\x01\x9c\xda]", data[:2_000_000])):
        try:
            yield zlib.decompressobj().decompress(data[start:], 1_000_000)
        except zlib.error:
            continue


def search(folder, printed=""):
    """[(file, word)] of every leak in a folder's files and file names; the number of files."""
    leaks, files = [], 0
    for path in folder.rglob("*"):
        parts = [str(path.relative_to(folder)).encode("utf-8", "surrogateescape")]
        if path.is_file():
            files += 1
            parts += opened(path)
        leaks += [(path.name, NEEDLES[m.group()]) for p in parts for m in PATTERN.finditer(p)]
    leaks += [("printed", NEEDLES[m.group()]) for m in PATTERN.finditer(printed.encode())]
    return leaks, files


def test_the_search_finds_what_it_should(tmp_path):
    for number, data in enumerate(
        (
            NAME.encode(),
            WORDS[0].upper().encode("utf-16-le"),
            WORDS[1].encode("latin-1"),
            b"x" + zlib.compress(b"quixotinh" * 3),
            gzip.compress(NUMBER[2:].encode()),
        )
    ):
        folder = tmp_path / str(number)
        put(folder, "file", data)
        assert search(folder)[0], number
    put(tmp_path / "named", f"{WORDS[3]}.png", b"")
    assert search(tmp_path / "named")[0] and search(tmp_path / "nothing") == ([], 0)


def test_no_name_is_in_any_output_of_the_whole_chain(source, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "site"))
    shared = tmp_path / "shared"
    cleaned, data = shared / "cleaned", shared / "data"

    def run(*words, status):
        assert builder([str(word) for word in words]) == status

    run("clean", source, "--out", cleaned, status=1)
    run("clean", source, "--out", cleaned, "--mode", "paper", status=2)
    run("clean", source, "--out", shared / "paper", "--mode", "paper", "--format", "jpg", status=1)
    run("clean", source / "nowhere" / NAME, "--out", shared / "none", status=2)
    run("clean", source / "labels.csv", "--out", shared / "none", status=2)
    run("clean", source / WORDS[0], "--out", shared / "none", status=1)
    run("clean", source, WORDS[1], "--out", shared / "none", status=2)
    run("clean", source, "--out", source / "out", status=2)
    bad = source.parent / f"{WORDS[2]} bad"
    put(bad, f"{WORDS[0]}/labels.csv", f"study,hemorrhage,location\n{NAME},7,x\n".encode())
    put(bad, f"{WORDS[0]}/{NUMBER}.dcm", encoded(ct(PatientName=NAME)))
    run("clean", bad, "--out", shared / "none2", status=2)
    (bad / WORDS[0] / "labels.csv").unlink()
    (bad / WORDS[0] / f"{NUMBER}.dcm").write_bytes(NAME.encode())
    run("clean", bad, "--out", shared / "none3", status=2)
    run("lookup", NAME, status=2)

    with (cleaned / "manifest.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len({row["subject"] for row in rows}) >= 20 and len(rows) >= 40

    split = ("--split", "slice", "--size", "36")
    run("build", cleaned, "--data_dir", data, "--size", "36", status=0)
    run("build", cleaned, "--data_dir", data, *split, status=0)
    run("build", source, "--data_dir", shared / "direct", *split, status=1)
    run("build", cleaned, "--data_dir", data, "--folds", "3", "--fold", "7", status=2)
    run("build", source / "nowhere" / NAME, "--data_dir", data, status=2)
    named = source.parent / f"{WORDS[1]} named"
    named.mkdir()
    run("build", named, "--data_dir", data, status=2)
    put(named, "manifest.csv", b"key")
    run("build", named, "--data_dir", data, status=2)
    assert builder(["audit", str(cleaned)]) in (0, 1)

    config = tiny.get_config()
    config.data.source, config.data.dir, config.data.key = str(source), str(data), ""
    config.data.split, config.num_epochs, config.eval_every_epochs = "slice", 1, 1.0
    assert train(config, shared / "run", "a command") == 0
    config.model.image_size = 64  # above the shards' size
    with pytest.raises(InputError) as error:
        train(config, shared / "run2", "a command")
    print(error.value)
    assert evaluate.main(["--workdir", str(shared / "run")]) == 0
    assert evaluate.main(["--workdir", str(shared / "none")]) == 2

    printed = "".join(capfd.readouterr())
    leaks, files = search(shared, printed)
    assert not leaks, sorted(set(leaks))[:20]
    assert files > 150 and printed.count("error:") >= 9
    assert "2 of its lines" not in printed and "labels.csv line 22" in printed
    assert search(tmp_path / "site")[0]  # the lookup table is here, and here alone


def test_no_path_of_its_command_is_in_what_a_run_writes(published, tmp_path, monkeypatch):
    """The config, the source, the key, the data, the weights and the run are in a person's folder.

    Each value is given in both spellings: the second command continues the run of the first.
    """
    place = tmp_path / f"{WORDS[0]} {NUMBER}"
    model = tiny.get_config().model.to_dict()
    place.mkdir()
    save(place / "first.safetensors", model, *save_run(tmp_path / "first", model))
    shutil.copytree(published, place / "source")
    shutil.copy(ROOT / "tests/helpers/tiny.py", place / f"{WORDS[1]}.py")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "site"))
    given = {
        "config": place / f"{WORDS[1]}.py",
        "config.data.source": place / "source",
        "config.data.dir": place / "data",
        "config.data.key": place / "key",
        "config.init_from": place / "first.safetensors",
        "config.eval_every_epochs": 1.0,
        "workdir": place / "run",
    }

    def run(*words):
        command = [sys.executable, "-m", "dtvit_jax.main", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=None)
        assert done.returncode == 0, done.stderr

    run(
        *(word for k, v in given.items() for word in (f"--{k}", str(v))), "--config.num_epochs", "1"
    )
    record = json.loads((place / "run/run.json").read_text())
    command = record["command"]
    assert command == (
        "python -m dtvit_jax.main --config=PATH --config.data.source=PATH --config.data.dir=PATH "
        "--config.data.key=PATH --config.init_from=PATH --config.eval_every_epochs=1.0 "
        "--config.num_epochs=1 --workdir=PATH"
    )
    assert not search(place / "run")[0]
    (place / "run/run.json").unlink()
    run(*(f"-{k}={v}" for k, v in given.items()), "-config.num_epochs=1", "--noconfig.profile")
    again = json.loads((place / "run/run.json").read_text())["command"]
    assert again == command.replace(" --workdir", " --config.profile=False --workdir")

    assert evaluate.main(["--workdir", str(place / "run")]) == 0
    assert export.main(["--workdir", str(place / "run"), "--out", str(place / "exported")]) == 0
    (place / "shared").mkdir()
    for name in ("run", "exported", "data"):
        (place / name).rename(place / "shared" / name)
    leaks, files = search(place / "shared")
    assert not leaks and files > 60, sorted(set(leaks))[:20]
    digest = hashlib.sha256((place / "first.safetensors").read_bytes()).hexdigest()
    card = (place / "shared/run/test/model_card.md").read_text()
    assert f"Initial weights: sha256:{digest}" in card

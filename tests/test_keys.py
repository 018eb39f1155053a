"""Where a key may be, and what the public key is refused on, by the commands that take one."""

import subprocess

import pytest

from data_builder.__main__ import main
from data_builder.errors import InputError
from data_builder.pseudonyms import Lookup, load_key, lookup_path
from dtvit_jax import predict
from dtvit_jax.experiments.run import run as run_experiment
from dtvit_jax.train import train
from tests.helpers import tiny
from tests.helpers.dicom_files import ct
from tests.helpers.experiment import grid, predicted
from tests.helpers.published import write_published
from tests.helpers.source_folder import clean, put_study


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Phantoms' DICOM, what `clean` made of it, and the published layout."""
    place = tmp_path_factory.mktemp("folders")
    put_study(place / "scans")
    (place / "scans/labels.csv").write_text("study,hemorrhage,location\nvisit,0,\n")
    clean(place / "scans", place / "cleaned")
    write_published(place / "published")
    return place


COMMANDS = {
    "clean, --out": "clean {f}/scans --out {t}/out --key {t}/out/key",
    "clean, SRC": "clean {t}/scans --out {t}/out --key {t}/scans/key",
    "build, --data_dir": "build {f}/published --data_dir {t}/data --key {t}/data/key",
    "build, SRC": "build {t}/published --data_dir {t}/data --key {t}/published/a/key",
    "audit, SRC": "audit {f}/cleaned --key {f}/cleaned/key",
    "review, DIR": "review {f}/cleaned --key {f}/cleaned/key",
    "review, --export": "review {f}/cleaned --export {t}/reviewed --key {t}/reviewed/key",
    "predict, --out": "{f}/scans --workdir {t}/run --out {t}/out --key {t}/out/key",
    "predict, PATH 1": "{f}/scans --workdir {t}/run --out {t}/out --key {f}/scans/key",
    "predict, --workdir": "{f}/scans --workdir {t}/run --out {t}/out --key {t}/run/key",
    "predict, --spool": "--listen 0 --spool {t}/s --workdir {t}/run --out {t}/out --key {t}/s/key",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_key_inside_a_folder_that_may_be_shared_is_refused(folders, tmp_path, capsys, name):
    for source in ("scans", "published/a"):
        (tmp_path / source).mkdir(parents=True)
    words = COMMANDS[name].format(f=folders, t=tmp_path).split()
    before = sorted(folders.rglob("*"))
    assert (predict.main(words) if name.startswith("predict") else main(words)) == 2
    error = capsys.readouterr().err
    assert f"the key is inside {name.split(', ')[1]}," in error and error.count("\n") == 1
    assert str(tmp_path) not in error and not list(tmp_path.rglob("key"))
    assert sorted(folders.rglob("*")) == before


def test_the_users_own_key_is_refused_inside_a_folder_too(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/config"))
    assert main(["clean", str(folders / "scans"), "--out", str(tmp_path / "home")]) == 2
    assert "the key is inside --out," in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_a_key_inside_a_run_or_an_experiment_is_refused(folders, tmp_path):
    config = tiny.get_config(tmp_path / "data")
    config.data.source, config.data.key = str(folders / "published"), str(tmp_path / "run/key")
    with pytest.raises(InputError, match="the key is inside --workdir,"):
        train(config, tmp_path / "run", "")
    with pytest.raises(InputError, match="the key is inside --out,"):
        run_experiment(grid(key=str(tmp_path / "run/key")), tmp_path / "run", predicted)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """As `folders`, without the marks of phantoms: DICOM and the published layout."""
    place = tmp_path_factory.mktemp("real")
    put_study(place / "scans", QualityControlSubject=None)
    put_study(place / "mixed")
    put_study(place / "mixed", "another", QualityControlSubject="NO")
    (write_published(place / "published") / "phantom.json").unlink()
    return place


@pytest.mark.parametrize(
    "words",
    [
        "clean {r}/scans --out {t}/out",
        "clean {r}/mixed --out {t}/out",
        "build {r}/scans --data_dir {t}/out",
        "build {r}/published --data_dir {t}/out",
        "audit {r}/published",
    ],
)
def test_the_public_key_is_refused_on_data_without_the_mark_of_a_phantom(
    real, tmp_path, capsys, words
):
    assert main([*words.format(r=real, t=tmp_path).split(), "--key", "public"]) == 2
    error = capsys.readouterr().err
    assert "the key 'public' is for phantoms" in error and error.count("\n") == 1
    assert "without --key" in error and not (tmp_path / "out").exists()


def test_the_recipe_for_phantoms_is_refused_on_other_data(real, tmp_path):
    config = tiny.get_config(tmp_path / "data")  # phantom.py's key
    config.data.source = str(real / "published")
    with pytest.raises(InputError, match=r"'public' is for phantoms.* --config\.data\.key="):
        train(config, tmp_path / "run", "")
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()


def test_ct_of_the_tests_is_marked_and_a_patients_is_not():
    assert ct().QualityControlSubject == "YES"
    assert "QualityControlSubject" not in ct(QualityControlSubject=None)


def test_a_key_on_a_read_only_disk_cleans_and_leads_back(folders, tmp_path, small_disk, capsys):
    """As a mounted secret is: its lookup is in the user's config folder."""
    disk = small_disk(64)
    load_key(str(disk / "key"))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    words = ["--key", str(disk / "key")]
    assert main(["clean", str(folders / "scans"), "--out", str(tmp_path / "out"), *words]) == 0
    pseudonym = next((tmp_path / "out/images").iterdir()).name
    capsys.readouterr()
    assert main(["lookup", pseudonym, *words]) == 0
    assert capsys.readouterr().out.startswith("1.2.826.0.1.3680043.8.498.")
    assert [path.name for path in disk.iterdir()] == ["key"]


def test_a_lookup_that_was_beside_the_key_is_read_where_it_is_read_only_now(small_disk, capsys):
    disk = small_disk(64)
    key = str(disk / "key")
    load_key(key)
    lookup = Lookup(lookup_path(key))
    lookup.add([("sub-before", "17")])
    lookup.close()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    lookup = Lookup(lookup_path(key))
    lookup.add([("sub-after", "18")])
    lookup.close()
    for pseudonym, meaning in (("sub-before", "17"), ("sub-after", "18")):
        assert main(["lookup", pseudonym, "--key", key]) == 0
        assert capsys.readouterr().out == f"{meaning}\n"


def test_a_damaged_lookup_is_one_line(folders, tmp_path, capsys):
    key = tmp_path / "site/key"
    load_key(str(key))
    lookup_path(str(key)).write_text("no database at all, but some text\n" * 99)
    for words in (["clean", folders / "scans", "--out", tmp_path / "out"], ["lookup", "sub-a"]):
        assert main([*map(str, words), "--key", str(key)]) == 2
        error = capsys.readouterr().err
        assert "the lookup of pseudonyms, beside the key, is damaged" in error
        assert error.count("\n") == 1 and str(tmp_path) not in error


def test_a_lookup_on_a_full_disk_is_one_line(small_disk):
    disk = small_disk(64)
    load_key(str(disk / "key"))
    lookup = Lookup(lookup_path(str(disk / "key")))
    with pytest.raises(InputError, match=r"can't be read or written \(.*full\)") as error:
        lookup.add((f"sub-{n}", "x" * 99) for n in range(10_000))
    assert str(disk) not in str(error.value)
    lookup.close()

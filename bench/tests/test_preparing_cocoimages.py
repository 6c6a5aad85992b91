"""COCO images by seed: which ones, resumed, refused for val2017, and what is said without a network."""

import hashlib
import io
import json
import zipfile

import cv2
import numpy as np
import pytest

from bench.errors import InputError, UsageError
from bench.preparing import cocoimages
from bench.preparing.cocoimages import Archive, obtain, require, want
from bench.preparing.download import Policy
from bench.preparing.namelists import choose, read_names
from bench.tests.preparing_servers import Files, serving

QUICK = Policy(timeout_s=5, attempts=2, pause_s=0)
NAMES = [f"{n:012d}.jpg" for n in range(20)]


def jpeg(seed):
    image = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def listing(split="train2017", names=NAMES):
    return {
        "images": [{"file_name": n, "coco_url": f"http://images.cocodataset.org/{split}/{n}", "id": 1} for n in names]
    }


def archive_of(document):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("annotations/captions_train2017.json", json.dumps(document))
    data = packed.getvalue()
    return data, Archive(
        path="annotations/all.zip", size=len(data), md5=hashlib.md5(data, usedforsecurity=False).hexdigest()
    )


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PARITY_COCO_URL", raising=False)


@pytest.fixture
def files():
    return Files({f"/train2017/{n}": jpeg(k) for k, n in enumerate(NAMES)})


@pytest.fixture
def url(files):
    with serving(files.handler()) as address:
        yield address


@pytest.fixture
def names_file(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("# names\r\n" + "\r\n".join(NAMES) + "\r\n")
    return path


def wanting(url, listed=None, **options):
    options = {"count": 5, "seed": 3, "allow_evaluation": False, **options}
    return want("coco-train2017", listed=listed, base_url=url, **options)


def test_the_chosen_images_arrive_and_a_second_call_asks_for_none(url, files, names_file):
    done = obtain(wanting(url, names_file), policy=QUICK)
    assert [files.files[f"/train2017/{n}"] for n in done.names] == [(done.folder / n).read_bytes() for n in done.names]
    assert len(done.names) == 5
    asked = len(files.asked)
    obtain(wanting(url, names_file), policy=QUICK)
    assert len(files.asked) == asked == 5


def test_an_image_that_was_cut_on_the_disk_is_fetched_again(url, files, names_file):
    done = obtain(wanting(url, names_file), policy=QUICK)
    path = done.folder / done.names[2]
    path.write_bytes(path.read_bytes()[:-20])
    assert wanting(url, names_file).missing() == (done.names[2],)
    obtain(wanting(url, names_file), policy=QUICK)
    assert path.read_bytes() == files.files[f"/train2017/{done.names[2]}"]


def test_the_choice_depends_on_seed_and_names_only():
    assert choose(NAMES, 5, 1, where="") == choose(NAMES[::-1], 5, 1, where="")
    assert choose(NAMES, 5, 1, where="") != choose(NAMES, 5, 2, where="")
    assert set(choose(NAMES, 5, 1, where="")) < set(choose(NAMES, 6, 1, where=""))


def test_the_choice_is_the_one_that_was_always_made():
    # sha256("0:NAME") by hand: printf '0:%012d.jpg' N | sha256sum | sort
    ranked = sorted(NAMES, key=lambda n: hashlib.sha256(f"0:{n}".encode()).hexdigest())
    assert choose(NAMES, 2, 0, where="") == tuple(sorted(ranked[:2]))


def test_fewer_names_than_images_is_refused(url, names_file):
    with pytest.raises(InputError, match="holds 20 images, 21 are asked for"):
        wanting(url, names_file, count=21)


def test_without_a_list_the_archive_of_annotations_is_fetched_once(url, files, tmp_path):
    data, archive = archive_of(listing())
    files.files["/annotations/all.zip"] = data
    files.tricks["/annotations/all.zip"].append("cut 50")
    first = wanting(url, archive=archive)
    assert first.names is None
    assert first.list_url == f"{url}/annotations/all.zip"
    done = obtain(first, policy=QUICK)
    assert len(done.names) == 5
    assert not list(done.folder.glob("*.zip*"))
    again = wanting(url, archive=archive, seed=3)
    assert again.names == done.names
    assert sum(path.endswith(".zip") for path, _ in files.asked) == 2  # cut, then continued


def test_an_archive_of_other_content_is_not_read(url, files):
    data, archive = archive_of(listing())
    files.files["/annotations/all.zip"] = data[:-1] + b"x"
    with pytest.raises(InputError, match="MD5 is"):
        obtain(wanting(url, archive=archive), policy=QUICK)
    assert not list(wanting(url).folder.glob("train2017.txt"))


def test_val2017_is_refused_unless_forced(url):
    options = {"count": 1, "seed": 0, "listed": None, "base_url": url}
    with pytest.raises(UsageError, match=r"evaluated on.*--allow-evaluation-images"):
        want("coco-val2017", allow_evaluation=False, **options)
    assert want("coco-val2017", allow_evaluation=True, **options).split == "val2017"


def test_a_list_of_val2017_images_is_no_list_of_train2017(tmp_path, url):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(listing("val2017")))
    with pytest.raises(InputError, match="lists images of val2017, not of train2017"):
        wanting(url, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not COCO json"),
        ('{"images": [{"file_name": 3}]}', "not COCO json"),
        ('{"images": []}', "names no image"),
        ('{"images": [{"file_name": "../x.jpg"}]}', r"images\[0\].*plain file name"),
        ('{"images": [{"file_name": "x.txt"}]}', "is no image"),
    ],
)
def test_a_bad_json_list_is_named(tmp_path, content, words):
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_names(path, "train2017")


def test_a_bad_text_list_is_named_with_its_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.jpg\n\n../../b.jpg\n")
    with pytest.raises(InputError, match=r"line 3: '\.\./\.\./b.jpg'"):
        read_names(path, "train2017")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_names(path, "train2017")
    with pytest.raises(InputError, match="cannot be read"):
        read_names(tmp_path / "none.txt", "train2017")


def test_one_image_that_the_server_does_not_have_is_named_and_the_others_are_kept(url, files, names_file):
    gone = wanting(url, names_file).names[1]
    del files.files[f"/train2017/{gone}"]
    with pytest.raises(InputError, match=f"1 of 5 images cannot be had: {url}/train2017/{gone}: HTTP 404") as caught:
        obtain(wanting(url, names_file), policy=QUICK)
    assert wanting(url, names_file).missing() == (gone,)
    assert f"images: 1 of 5 (4 are in {wanting(url, names_file).folder})" in str(caught.value)


def test_a_page_instead_of_an_image_gets_no_name(url, files, names_file):
    page = wanting(url, names_file).names[0]
    files.tricks[f"/train2017/{page}"].append("html")
    with pytest.raises(InputError, match="not an image"):
        obtain(wanting(url, names_file), policy=QUICK)
    assert not (wanting(url, names_file).folder / page).exists()


def test_a_server_that_stays_down_ends_the_download_at_once(url, files, names_file):
    names = wanting(url, names_file).names
    files.tricks[f"/train2017/{names[0]}"].extend([500, 500])
    with pytest.raises(InputError, match="HTTP 500"):
        obtain(wanting(url, names_file), policy=QUICK)
    assert len(files.asked) == 2
    assert len(obtain(wanting(url, names_file), policy=QUICK).missing()) == 0


def test_without_a_network_it_says_what_would_be_fetched_and_how_to_go_on(names_file):
    with serving(Files({}).handler()) as gone:
        pass
    with pytest.raises(InputError) as caught:
        obtain(wanting(gone, names_file), policy=QUICK)
    text = str(caught.value)
    first = wanting(gone, names_file).names[0]
    for words in (
        "refused",
        "images: 5 of 5",
        f"{gone}/train2017/{first}",
        "--calibration DIR",
        "--skip-calibration-download",
    ):
        assert words in text
    with pytest.raises(
        InputError, match=r"annotations_trainval2017.zip \(253 MB, once\).*images: 5 of train2017 by seed 3"
    ):
        obtain(wanting(gone), policy=QUICK)


def test_images_put_there_by_hand_are_enough(url, files, names_file):
    wanted = wanting(url, names_file)
    with pytest.raises(InputError, match="not all images are on this host"):
        require(wanted)
    wanted.folder.mkdir(parents=True)
    for name in wanted.names:
        (wanted.folder / name).write_bytes(files.files[f"/train2017/{name}"])
    assert require(wanted).missing() == ()
    assert files.asked == []


def test_two_at_once_do_not_write_into_one_folder(url, names_file):
    wanted = wanting(url, names_file)
    wanted.folder.mkdir(parents=True)
    with cocoimages.FileLock(wanted.folder / ".lock"), pytest.raises(InputError, match="another parity prepare"):
        obtain(wanted, policy=QUICK)


def test_the_mirror_of_the_environment_is_asked(monkeypatch, names_file):
    monkeypatch.setenv("PARITY_COCO_URL", "http://mirror.test/")
    assert wanting(None, names_file).url("a.jpg") == "http://mirror.test/train2017/a.jpg"

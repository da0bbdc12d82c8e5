"""Tables and folders as other programs leave them: read as they are meant, or refused in one exact line."""

import unicodedata

import pytest
from PIL import Image

from hdpainter.images import load_image, suffixes
from hdpainter.jobs.job_files import read_jobs
from ldm.util import UserError
from tests.hdpainter.fakes import make_mask, make_picture


def jobs_of(tmp_path, text, name="jobs.csv"):
    (tmp_path / name).write_bytes(text.encode())
    return read_jobs(tmp_path / name)


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_jobs(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'image,mask,prompt\na.png,m.png,"a clock, old"\n',
        "image;mask;prompt\na.png;m.png;a clock, old\n",
        "image\tmask\tprompt\na.png\tm.png\ta clock, old\n",
        'sep=,\nimage,mask,prompt\na.png,m.png,"a clock, old"\n',
        "sep=;\r\nimage;mask;prompt\r\na.png;m.png;a clock, old\r\n",
        '"sep=|"\nimage|mask|prompt\na.png|m.png|a clock, old\n',
        "SEP=\t\nimage\tmask\tprompt\na.png\tm.png\ta clock, old\n",
        'image, mask, prompt\na.png, m.png, "a clock, old"\n',
        'image , mask , prompt\na.png , m.png ,"a clock, old"\n',
        ',image,mask,prompt\n0,a.png,m.png,"a clock, old"\n',
        ';"image";"mask";"prompt"\n17;"a.png";"m.png";"a clock, old"\n',
        'image,mask,prompt,,\na.png,m.png,"a clock, old",,\n,,,,\n',
        '\ufeffprompt,image,mask\r\n"a clock, old",a.png,m.png\r\n',
        "\ufeffsep=;\r\nimage;mask;prompt\r\na.png;m.png;a clock, old\r\n",
        "sep=;\rimage;mask;prompt\ra.png;m.png;a clock, old\r",
        '\n \r\nimage,mask,prompt\n\na.png,m.png,"a clock, old"\n\n',
        'Unnamed: 0,image,mask,prompt\n0,a.png,m.png,"a clock, old"\n',
        '"",image,mask,prompt\n0.0,a.png,m.png,"a clock, old"\n',
        'image,mask,prompt\na.png,m.png,"a clock, old",,\n',
        'image,mask,prompt\na.png, m.png, "a clock, old"\n',
    ],
)
def test_one_job_in_many_dialects(tmp_path, text):
    file = jobs_of(tmp_path, text)
    assert not file.problems
    (job,) = file.jobs
    assert (job.image.name, job.mask.name, job.prompt) == ("a.png", "m.png", "a clock, old")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tables_of_spreadsheets_in_their_encodings(tmp_path, encoding, ending):
    text = ending.join(["image\tmask\tprompt", "a.png\tm.png\tun château", ""])
    (tmp_path / "jobs.csv").write_bytes(text.encode(encoding))
    (job,) = read_jobs(tmp_path / "jobs.csv").jobs
    assert job.prompt == "un château"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "cp1252"])
def test_other_encodings_are_one_line(tmp_path, encoding):
    (tmp_path / "jobs.csv").write_bytes("image,mask,prompt\na.png,m.png,un château\n".encode(encoding))
    assert "jobs.csv is not UTF-8 text" in refusal(tmp_path / "jobs.csv")


def test_spaces_belong_to_prompts_where_the_head_has_none(tmp_path):
    (job,) = jobs_of(tmp_path, "image,mask,prompt\na.png,m.png,  a clock \n").jobs
    assert job.prompt == "  a clock "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,mask,prompt,notes\na,b,c,d\n", "jobs.csv, line 1: unknown key 'notes'; known keys: "),
        ("image|mask|prompt\na|b|c\n", "jobs.csv, line 1: unknown key 'image|mask|prompt'"),
        (",image,mask,prompt\nx,a,b,c\n", "jobs.csv, line 1: column 1 has no name: give it one"),
        ("image,mask,prompt,\na,b,c,d\n", "jobs.csv, line 1: column 4 has no name"),
        ("image,,mask,prompt\na,1,b,c\n", "jobs.csv, line 1: column 2 has no name"),
        ("IMAGE,mask,prompt\na,b,c\n", "jobs.csv, line 1: unknown key 'IMAGE'; did you mean 'image'?"),
        ("\nimage,mask,promt\na,b,c\n", "jobs.csv, line 2: unknown key 'promt'; did you mean 'prompt'?"),
        ("sep=;\nimage;mask;promt\n", "jobs.csv, line 2: unknown key 'promt'; did you mean 'prompt'?"),
        ("image,image,mask,prompt\na,a,b,c\n", "jobs.csv, line 1: a column stands twice"),
        ('sep=;\nimage;mask;prompt\na;b;"c\n', "jobs.csv, line 3 is not valid CSV"),
        ("", "jobs.csv has no jobs"),
    ],
)
def test_other_tables_are_one_exact_line(tmp_path, text, says):
    (tmp_path / "jobs.csv").write_text(text)
    assert says in refusal(tmp_path / "jobs.csv")


def test_a_wrong_number_of_cells_names_line_and_divider(tmp_path):
    file = jobs_of(tmp_path, "sep=;\nimage;mask;prompt\na;b;c;d\na.png;m.png;x\n")
    assert [str(problem) for problem in file.problems] == [
        "jobs.csv, line 3: 4 cells under 3 columns; put text with semicolons in double quotes"
    ]
    assert [job.where for job in file.jobs] == ["jobs.csv, line 4"]


# --- folders ---


def folder_of(tmp_path, *names, prompts=None):
    for name in names:
        make_picture(tmp_path / name)
        make_mask(tmp_path / f"{name.rpartition('.')[0]}_mask.png")
    if prompts is not None:
        (tmp_path / "prompts.txt").write_bytes(prompts.encode())
    return tmp_path


def prompts_of(folder):
    file = read_jobs(folder)
    assert not file.problems
    return {job.image.name: job.prompt for job in file.jobs}


@pytest.mark.parametrize(
    "names", [("img1.jpg", "img2.jpg", "img10.jpg"), ("a9b.png", "a10b.png"), ("b.png", "C.png")]
)
def test_lines_of_prompts_are_refused_where_two_orders_differ(tmp_path, names):
    folder_of(tmp_path, *names, prompts="x\n" * len(names))
    text = refusal(tmp_path)
    assert "prompts.txt goes by the order of names" in text and "prompts.csv" in text


def test_lines_of_prompts_go_by_names_where_all_orders_agree(tmp_path):
    folder_of(tmp_path, "img10.jpg", "img02.jpg", "img01.jpg", prompts="one\r\ntwo\r\nten\r\n\r\n\n")
    assert prompts_of(tmp_path) == {"img01.jpg": "one", "img02.jpg": "two", "img10.jpg": "ten"}


def test_a_blank_line_within_is_an_empty_prompt_and_one_at_the_end_is_none(tmp_path):
    folder_of(tmp_path, "a.png", "b.png", "c.png", prompts="one\n\nthree\n")
    assert prompts_of(tmp_path) == {"a.png": "one", "b.png": "", "c.png": "three"}
    (tmp_path / "prompts.txt").write_text("one\n\nthree\n\n \n")
    assert prompts_of(tmp_path) == {"a.png": "one", "b.png": "", "c.png": "three"}
    (tmp_path / "prompts.txt").write_text("one\n\nthree\nfour\n\n")
    assert "has 4 lines for 3 images" in refusal(tmp_path)


def test_hidden_files_are_no_pictures(tmp_path):
    folder_of(tmp_path, "a.png", prompts="one")
    for name in ("._a.png", "._a_mask.png", ".hidden.png", ".trash_mask.png"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    assert prompts_of(tmp_path) == {"a.png": "one"}


def test_names_are_the_same_however_their_accents_are_stored(tmp_path):
    name = "Fähre"
    decomposed = unicodedata.normalize("NFD", name)
    assert decomposed != name
    make_picture(tmp_path / f"{decomposed}.png")
    make_mask(tmp_path / f"{name}_mask.png")
    (tmp_path / "prompts.csv").write_text(f"image,prompt\n{name}.png,a boat\n", encoding="utf-8")
    assert prompts_of(tmp_path) == {f"{decomposed}.png": "a boat"}


@pytest.mark.parametrize("suffix", sorted({*suffixes(), ".JPG"} - {".pfm", ".avifs", ".apng", ".pbm"}))
def test_every_format_that_is_read_is_found_in_folders(tmp_path, suffix):
    make_mask(tmp_path / "a_mask.png")
    Image.new("RGB" if suffix != ".pgm" else "L", (24, 16)).save(tmp_path / f"a{suffix}")
    assert load_image(tmp_path / f"a{suffix}").size == (24, 16)
    (job,) = read_jobs(tmp_path, {"prompt": "x"}).jobs
    assert job.image.name == f"a{suffix}" and job.mask.name == "a_mask.png"

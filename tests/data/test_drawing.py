"""Pictures of images with boxes and crops: frames where the boxes are, crops as they are, text of any script."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hart_lite.data import lettering
from hart_lite.data.contact_sheet import MAX_CARDS, contact_sheet
from hart_lite.data.drawing import COLOURS, LEAST_WIDTH, MARGIN, TRUTH, Mark, crop_of, framed, grid, numbered, panel
from hart_lite.data.images import ImageFile
from hart_lite.data.lettering import fitted
from hart_lite.errors import DataError
from hart_lite.report.answer_picture import answer_picture
from hart_lite.types import Box, Example

GREY = "#808080"


def colour(image: Image.Image, x: int, y: int) -> str:
    return "#{:02X}{:02X}{:02X}".format(*image.getpixel((x, y)))


def near(image: Image.Image, x: int, y: int, reach: int = 9) -> set[str]:
    """Colours within `reach` pixels to either side of a point, across and up."""
    points = [(x + d, y) for d in range(-reach, reach + 1)] + [(x, y + d) for d in range(-reach, reach + 1)]
    return {colour(image, *p) for p in points if 0 <= p[0] < image.width and 0 <= p[1] < image.height}


# -- frames --------------------------------------------------------------------------------------------------------


def test_a_frame_surrounds_its_box_and_leaves_what_is_inside():
    """4000 x 2000 scaled to 1000 x 500: the box (400, 400) .. (1200, 1200) lies at (100, 100) .. (300, 300)."""
    image = Image.new("RGB", (4000, 2000), GREY)
    drawn = framed(image, numbered([Box(400, 400, 1200, 1200)]), 0.25)
    assert drawn.size == (1000, 500)
    for x, y in ((100, 200), (300, 200), (200, 100), (200, 300)):
        assert COLOURS[0] in near(drawn, x, y, 8)
    pixels = np.asarray(drawn)[100:300, 100:300]
    assert (pixels == 128).all()
    assert image.getpixel((400, 400)) == (128, 128, 128)  # the original is untouched


def test_what_was_named_and_what_is_true_differ_without_their_colours():
    """The frame of a ground truth is broken by white, and it has no number."""
    boxes = [Box(60, 60, 240, 240)]
    named = framed(Image.new("RGB", (300, 300), GREY), numbered(boxes))
    truth = framed(Image.new("RGB", (300, 300), GREY), [Mark(box) for box in boxes])
    along = [colour(truth, x, 57) for x in range(60, 240)]
    assert {TRUTH, "#FFFFFF"} == set(along)
    assert 0.3 < along.count(TRUTH) / len(along) < 0.7
    assert {colour(named, x, 57) for x in range(90, 240)} == {COLOURS[0]}
    label = np.asarray(named)[20:52, 50:80]
    assert (label == (16, 16, 16)).all(axis=-1).sum() > 40  # the number's ink
    assert (np.asarray(truth)[:50] == 128).all()


def test_a_box_of_the_whole_image_is_seen_and_one_at_an_edge_keeps_its_number_inside():
    drawn = framed(Image.new("RGB", (300, 200), GREY), numbered([Box(0, 0, 300, 200)]))
    assert COLOURS[0] in near(drawn, 150, 3) & near(drawn, 150, 196) & near(drawn, 3, 100)
    corner = framed(Image.new("RGB", (300, 200), GREY), numbered([Box(0, 0, 20, 20)]))
    assert colour(corner, 3, 30) == COLOURS[0]  # the square of the number, below the box


def test_boxes_have_their_own_colours_and_crops():
    marks = numbered([Box(0, 0, 9, 9), Box(5, 5, 9, 9)], [Box(0, 0, 10, 10)])
    assert [(m.label, m.colour, m.crop) for m in marks] == [
        ("1", COLOURS[0], Box(0, 0, 10, 10)), ("2", COLOURS[1], None)
    ]  # fmt: skip
    assert len({*COLOURS, TRUTH}) == 7


def test_a_crop_has_the_images_own_pixels_unless_it_is_large():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(crop_of(image, Box(10, 20, 50, 60))), np.asarray(image)[20:60, 10:50])
    assert crop_of(image, Box(0, 0, 80, 60), 40).size == (40, 30)
    assert crop_of(image, Box(0, 0, 20, 10), 40).size == (20, 10)


# -- panels --------------------------------------------------------------------------------------------------------


def test_the_picture_of_an_answer_has_boxes_in_place_and_crops_below():
    """2560 x 1280 shown at half its size: the box (800, 400) .. (1200, 800) lies at (400, 200) .. (600, 400)."""
    photo = Image.new("RGB", (2560, 1280), GREY)
    photo.paste("#0000FF", (800, 400, 1200, 800))
    drawn = answer_picture(photo, [Box(800, 400, 1200, 800)], [Box(760, 360, 1240, 840)], ["What?", "It."])
    assert drawn.width == 1280 + 2 * MARGIN
    for x, y in ((400, 300), (600, 300), (500, 200), (500, 400)):
        assert COLOURS[0] in near(drawn, MARGIN + x, MARGIN + y)
    assert COLOURS[0] not in near(drawn, MARGIN + 500, MARGIN + 300)
    below = drawn.getpixel((MARGIN + 160, MARGIN + 640 + 160))
    assert below[2] > 240 and below[0] < 15  # the middle of the crop


@pytest.mark.parametrize("size", [(40, 30), (3000, 9), (9, 3000), (640, 640), (8000, 6000)])
def test_a_panel_of_any_shape_is_bounded_and_wide_enough_to_read(size):
    photo = Image.new("RGB", size, GREY)
    boxes = [Box(0, 0, *size), *(Box(0, 0, size[0] / 2, size[1] / 2) for _ in range(8))]
    drawn = panel(photo, numbered(boxes, boxes), ["What is it? " * 90, "x" * 3000])
    assert LEAST_WIDTH <= drawn.width <= 1700
    assert drawn.height <= 2100


def test_a_grid_holds_every_panel():
    panels = [
        Image.new("RGB", size, colour) for size, colour in (((30, 20), "red"), ((20, 40), "lime"), ((9, 9), "blue"))
    ]
    sheet = grid(panels, 2)
    assert sheet.size == (60, 49)
    assert [colour(sheet, *p) for p in ((0, 0), (30, 39), (0, 40))] == ["#FF0000", "#00FF00", "#0000FF"]


def test_contact_sheet(tmp_path):
    image = Image.new("RGB", (960, 540), "white")
    ImageDraw.Draw(image).rectangle((700, 400, 719, 409), fill="blue")
    image.save(tmp_path / "a.png")
    source = ImageFile(tmp_path / "a.png")
    long = Example("2", (source,) * 2, "a long question " * 90 + "w" * 300, "x" * 900)
    boxed = Example("1", (source,), "Which?", "B", ("one", "two"), (Box(700, 400, 720, 410),))
    contact_sheet([boxed], tmp_path / "one.png")
    card = np.asarray(Image.open(tmp_path / "one.png"), dtype=int)
    assert ((card == (0, 0x9E, 0x73)).all(axis=-1)).sum() > 50, "the box is framed"
    assert ((card == (0, 0, 255)).all(axis=-1)).sum() > 5000, "the box is shown enlarged"
    assert (card[-80:].sum(axis=-1) < 200).sum() > 50, "question and answer are written"
    contact_sheet([boxed, long], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 2 * 2 * 520, "two images lie side by side"
    assert (sheet[:, -8:] == 255).all() and (sheet[-8:] == 255).all(), "long texts stay inside their card"
    contact_sheet([boxed] * 500, tmp_path / "many.png")
    assert np.prod(Image.open(tmp_path / "many.png").size) < 10_000_000 and MAX_CARDS > 12
    with pytest.raises(DataError, match="cannot be written"):
        contact_sheet([boxed], tmp_path / "gone" / "sheet.png")
    with pytest.raises(DataError, match="no examples"):
        contact_sheet([], tmp_path / "sheet.png")


# -- text ----------------------------------------------------------------------------------------------------------


def test_lines_fit_and_what_is_left_out_is_marked():
    lines, font = fitted("one two three four five six seven eight nine ten", 150, 20, False, 3)
    assert len(lines) == 3 and lines[-1].endswith("\N{HORIZONTAL ELLIPSIS}")
    assert all(font.getlength(line) <= 150 for line in lines)
    lines, font = fitted("x" * 60, 150, 20, False, 9)
    assert "".join(lines) == "x" * 60 and all(font.getlength(line) <= 150 for line in lines)
    assert fitted("short", 150, 20, False, 3)[0] == ["short"]
    assert fitted("half \ud800 a pair", 400, 20, False, 3)[0] == ["half \N{REPLACEMENT CHARACTER} a pair"]


def test_letters_that_no_font_has_are_written_as_codes_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(lettering, "installed_fonts", lambda: [])
    with caplog.at_level(logging.WARNING):
        lines, _ = fitted("What is \U00012000\U00012001?", 900, 20, False, 3)
    assert lines == ["What is [U+12000][U+12001]?"]
    assert "no font here has CUNEIFORM letters: pictures show their code points" in caplog.text
    assert fitted("Ünï \u0416 \u03a9 \u2713", 900, 20, True, 3)[0] == ["Ünï \u0416 \u03a9 \u2713"]
    assert caplog.text.count("no font") == 1


def test_another_font_of_the_machine_is_taken_where_it_has_the_letters(monkeypatch, caplog):
    """matplotlib brings a font of symbols: here it stands for one of another script."""
    import matplotlib

    symbols = f"{matplotlib.get_data_path()}/fonts/ttf/STIXSizOneSymReg.ttf"
    monkeypatch.setattr(lettering, "installed_fonts", lambda: [symbols])
    only_there = next(
        chr(c) for c in sorted(lettering.letters(symbols) - lettering.letters(lettering.font_of(20).path))
    )
    lines, font = fitted(only_there, 900, 20, False, 3)
    assert lines == [only_there] and font.path == symbols
    assert not caplog.text


def two_scripts(monkeypatch) -> tuple[str, str, str]:
    """(a font of symbols, a letter that it alone has, another that it lacks); it stands for one of another script."""
    import matplotlib

    symbols = f"{matplotlib.get_data_path()}/fonts/ttf/STIXSizOneSymReg.ttf"
    monkeypatch.setattr(lettering, "installed_fonts", lambda: [symbols])
    usual = lettering.letters(lettering.font_of(20).path)
    there = lettering.letters(symbols)
    return symbols, chr(min(there - usual)), chr(max(usual - there - set(range(0x3000, 0x110000))))


def test_a_text_of_two_scripts_is_drawn_in_two_fonts(monkeypatch, caplog):
    symbols, foreign, own = two_scripts(monkeypatch)
    text = f"What is {foreign}{own}?"
    lines, font = fitted(text, 900, 20, False, 3)
    assert lines == [text] and font.path != symbols and not caplog.text
    assert [(part, run.path == symbols) for part, run in lettering.runs(text, font)] == [
        ("What is ", False), (foreign, True), (f"{own}?", False)
    ]  # fmt: skip
    sheet = Image.new("RGB", (400, 40), "white")
    lettering.draw_lines(sheet, (0, 0), [foreign], font, "black")
    alone = Image.new("RGB", (400, 40), "white")
    ImageDraw.Draw(alone).text((0, font.getmetrics()[0]), foreign, fill="black", font=font_at(symbols), anchor="ls")
    assert sheet.getbbox() and np.array_equal(np.asarray(sheet), np.asarray(alone))


def font_at(path: str):
    return lettering.font_of(20, path=path)


def test_lines_of_two_scripts_are_no_wider_than_their_room(monkeypatch):
    _, foreign, own = two_scripts(monkeypatch)
    lines, font = fitted(f"{foreign}{own} " * 40, 200, 20, False, 30)
    assert len(lines) > 3
    for line in lines:
        assert sum(run.getlength(part) for part, run in lettering.runs(line, font)) <= 200

"Repaint the aerial view: what the notebook does not show, and painting in a real browser"
import numpy as np
import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture
def stage():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.repaint import Repaint
    return Repaint()


def test_a_carpet_needs_four_tiles_and_leaves_others_random_numbers_alone():
    from crossview_nb.explore.repaint import lay_carpet
    picture, mask = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mask[10:12, 10:14] = True                                      # three tiles of 2 by 2
    assert lay_carpet(picture, mask) is None
    mask[10:12, 14] = True
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    assert lay_carpet(picture, mask).shape == (64, 64, 3)
    assert (np.random.random(3) == expected).all()
    assert (lay_carpet(picture, mask, 1) == lay_carpet(picture, mask, 1)).all()


def test_overpainting_is_the_same_in_any_order(stage):
    "A class's paint depends on where it lies, not on how it came there"
    stage.brush_over([(10, 10), (30, 14)])
    stage.brush_over([(30, 14), (10, 40)])
    once = stage.picture
    stage.reset.click()
    stage.brush_over([(10, 40), (30, 14), (10, 10)])
    assert (stage.picture == once).all()


def test_a_stroke_at_the_border_stays_inside(stage):
    stage.brush.value = 21
    stage.aerial.pointed.stroke = [1, [63, 63], [0, 63]]
    assert stage.fault is None
    changed = (stage.picture != stage.original.aerial).any(2)
    assert changed.any() and not changed[:53].any()


def test_a_roof_is_one_tile_and_plain_tiles_come_first():
    from crossview_nb.explore.repaint import lay_carpet
    picture, mask = np.full((64, 64, 3), 100, np.uint8), np.zeros((64, 64), bool)
    picture[20:28, 20:28], mask[20:28, 20:40] = 90, True
    picture[22, 22] = 255                                          # a shadow, a marking: not to be laid all over
    assert lay_carpet(picture, mask).max() == 100
    roof = lay_carpet(picture, mask, largest=16, least=1)
    assert (roof[:56, :56] == roof[8:, 8:]).all()


def test_a_stroke_does_not_go_on_after_undo_or_in_another_place(stage):
    for at, between in enumerate((stage.undo.click, lambda: setattr(stage.place, 'value', 3), stage.reset.click)):
        stage.aerial.pointed.stroke = [2*at + 1, [30, 30]]
        between()
        rest = len(stage.history)                                  # the button is still down: `begun` stays
        stage.aerial.pointed.stroke = [2*at + 2, [31, 30]]
        assert len(stage.history) == rest + 1 and stage.fault is None


def test_an_error_is_shown_and_the_stage_goes_on(stage, monkeypatch):
    monkeypatch.setattr(stage, 'tell', lambda difference: 1/0)
    stage.stamp.click()
    assert isinstance(stage.fault, ZeroDivisionError) and 'division by zero' in stage.status.value
    monkeypatch.undo()
    stage.undo.click()
    assert stage.fault is None and 'Paint something' in stage.status.value


def test_the_mouse_paints_and_the_street_follows(page):
    runs_quietly(page, 'nbs/explore/04_repaint.ipynb')
    stage = widgets(page).first
    aerial, now = stage.locator('img[alt="the aerial view: paint here"]'), stage.locator('img[alt="the street now"]')
    difference = stage.locator('img.widget-image').first
    glass = stage.locator('canvas').first
    glass.scroll_into_view_if_needed()
    box = glass.bounding_box()
    start, street, differs = pixels(page, aerial), pixels(page, now), pixels(page, difference)
    def drag(pause):
        page.mouse.move(box['x'] + 40, box['y'] + 40)
        page.mouse.down()
        page.mouse.move(box['x'] + 120, box['y'] + 80, steps=6)
        page.wait_for_timeout(pause)
        page.mouse.move(box['x'] + 200, box['y'] + 120, steps=6)
        page.mouse.up()
        wait_for_change(page, aerial, start)
        wait_idle(page)

    drag(1500)                                                               # however slow, it is one stroke
    for _ in range(2): stage.get_by_role('button', name='undo').click()
    stage.get_by_text('Nothing is left to undo').wait_for()
    start = pixels(page, aerial)
    drag(0)
    wait_for_change(page, now, street)
    wait_for_change(page, difference, differs)
    wait_idle(page)
    screenshot(page, 'repaint-stroke', of=stage)
    street = pixels(page, now)
    stage.get_by_role('button', name='a forest on the right').click()
    wait_for_change(page, now, street)
    wait_idle(page)
    before = pixels(page, stage.locator('img[alt="the street before"]'))
    stage.get_by_label('before').select_option('all painting')
    wait_for_change(page, stage.locator('img[alt="the street before"]'), before)
    stage.get_by_text('All changes together moved the street').wait_for()
    heat = stage.locator('img.widget-image').nth(1)
    before = pixels(page, heat)
    stage.locator('canvas').nth(2).click(position=dict(x=200, y=140))        # a spot in the street now
    wait_for_change(page, heat, before)
    wait_idle(page)
    screenshot(page, 'repaint-scene', of=stage)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)
    screenshot(page, 'repaint')

"Where to fork: what the notebook does not show, and one click in a real browser"
import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture(scope='module')
def stage():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.fork_explorer import ForkExplorer
    return ForkExplorer()


def test_each_channel_is_chosen_by_a_click_in_its_middle(stage):
    for channel in range(stage.parts.channels):
        stage.sheet.pointed.stroke = [channel + 1, [channel%8*16 + 8, channel//8*16 + 8]]
        assert stage.channel.value == channel and stage.fault is None


def test_as_it_is_nothing_differs(stage):
    stage.strength.value = 1
    for stage.place.value in range(8):
        for row in (stage.images, stage.segmentations): assert (row[0].picture == row[1].picture).all()
    stage.strength.value = 0


def test_a_fork_that_no_network_has():
    from crossview_nb.explore.fork_explorer import block_costs, fork_cost
    from crossview_nb.generators import ForkGenerator
    costs = block_costs(ForkGenerator(64, 4))
    assert len(costs) == 12
    for own in (0, 8, -1):
        with pytest.raises(ValueError, match=f'own is {own}'): fork_cost(costs, own)
    assert fork_cost(costs, 3, heads=1)[0].parameters + fork_cost(costs, 3, heads=1)[1].parameters == sum(cost.parameters for cost in costs)


def test_a_click_switches_a_channel_off(page):
    runs_quietly(page, 'nbs/explore/10_fork.ipynb')
    stage = widgets(page).last
    stage.get_by_role('button', name='most for the image').click()
    wait_idle(page)
    changed, sheet = stage.locator('img.widget-image').nth(2), stage.locator('canvas').first
    before, framed = pixels(page, changed), pixels(page, sheet)
    stage.get_by_role('button', name='most one-sided').click()
    wait_idle(page)
    sheet.click(position=dict(x=8*3 + 4, y=8*5 + 4))
    wait_for_change(page, changed, before)
    wait_for_change(page, sheet, framed)
    before = stage.locator('svg').last.inner_html()
    stage.get_by_role('slider').nth(3).press('ArrowRight')     # the fork, by the keyboard
    stage.get_by_text('Each head has the last 3 blocks').wait_for()
    wait_idle(page)
    assert stage.locator('svg').last.inner_html() != before
    screenshot(page, 'fork-stage', of=stage)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)

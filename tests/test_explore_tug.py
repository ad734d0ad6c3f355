"Tug of war: what the notebook does not show, and the weights in a real browser"
import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture(scope='module')
def war():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.tug import TugOfWar
    return TugOfWar()


def test_angles_are_known_angles_and_names_are_escaped():
    pytest.importorskip('anywidget')
    import torch
    from crossview_nb.explore.tug import Angles
    angles = Angles('<b>')
    angles.show({'<i>': torch.tensor([1., 0.]), 'up': torch.tensor([0., 2.]), 'both': torch.tensor([3., 3.]), 'back': torch.tensor([-1., 0.])})
    assert angles.cosines['up', '<i>'] == 0 and angles.cosines['back', '<i>'] == -1
    assert '45°' in angles.table.value and '180°' in angles.table.value and '135°' in angles.table.value
    assert '<i>' not in angles.table.value and '<b>' not in angles.children[0].value


def test_where_two_bars_are_equal_the_sum_lies_in_the_middle(war):
    import torch
    from crossview_nb.explore.tug import cosine, size_of, weighted_pulls
    units = {term: pull[0] for term, pull in war.units.items()}
    even = weighted_pulls(units, dict(GAN=1., L1=size_of(units['GAN'])/size_of(units['L1']), segmentation=0., feedback=0.))
    assert cosine(even['sum'], even['GAN']) == pytest.approx(cosine(even['sum'], even['L1']), abs=1e-4)
    assert torch.equal(even['feedback of L1'], torch.zeros(3, 64, 64))


def test_looking_leaves_networks_and_random_numbers_alone(war):
    import torch
    weights = {name: value.clone() for name, value in war.match.regime.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    war.place.value, war.follow.value = 2, 9
    war.look()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, weights[name]) for name, value in war.match.regime.state_dict().items())


def test_every_regime_start_and_place_can_be_shown_and_drawn(war):
    from matplotlib import pyplot
    for war.regime.value in war.regime.options:
        for war.start.value in war.start.options:
            for war.place.value in range(4): assert war.fault is None
        pyplot.close(war.still())
    war.regime.value = 'X-Fork'
    war.where.value = 'at the fork'
    pyplot.close(war.still())
    war.regime.value = 'X-Seq'
    assert war.where.value == 'at the picture' and war.fault is None


def test_weights_in_the_browser(page):
    runs_quietly(page, 'nbs/explore/06_tug_of_war.ipynb')
    stage = widgets(page).first
    screenshot(page, 'tug-stage', of=stage)
    followed = stage.locator('img').nth(1)
    before, bars = pixels(page, followed), stage.locator('svg').first.inner_html()
    weight = stage.get_by_role('slider').nth(1)                # L1
    for _ in range(30): weight.press('ArrowLeft')
    wait_for_change(page, followed, before)
    wait_idle(page)
    assert stage.locator('svg').first.inner_html() != bars
    before = pixels(page, followed)
    stage.get_by_label('regime').select_option('X-Fork')
    wait_for_change(page, followed, before)
    stage.get_by_label('where').select_option('at the fork')
    stage.get_by_text('segmentation: strength').wait_for()
    wait_idle(page)
    screenshot(page, 'tug-fork', of=stage)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)

"Cross-view explorer: what the notebook does not show, and a walk in a real browser"
import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture
def stage():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.places import CrossViewExplorer
    return CrossViewExplorer()


def test_a_slider_that_the_browser_sends_back_rounded_is_no_change(stage):
    from crossview_nb.toytown import toytown_scene
    for stage.place.value in range(32):
        for name in ('houses', 'trees'):
            value = stage.attributes[name].value
            assert value == float(f'{value:.2f}') == stage.own[name]      # a front end shows and sends two decimals
        assert stage.changed() == {} and stage.town == toytown_scene(stage.number)


def test_new_towns_and_samples_are_none_that_networks_learnt_from(stage):
    from crossview_nb.explore.places import TOWNS
    from crossview_nb.pairs import SPLITS, scene_seed
    numbers = {scene_seed(place, split) for split, many in TOWNS.values() for place in range(many)}
    assert len(numbers) == sum(many for _, many in TOWNS.values())
    assert not {number % len(SPLITS) for number in numbers} & {SPLITS.index('train'), SPLITS.index('test')}


def test_networks_are_loaded_once_and_the_first_time_they_are_needed(monkeypatch):
    pytest.importorskip('anywidget')
    from crossview_nb.explore import places
    loaded = []
    monkeypatch.setattr(places, 'network', places.lru_cache(lambda name: (loaded.append(name), places.load_pretrained(name))[1]))
    stage = places.CrossViewExplorer()
    assert loaded == ['pix2pix-a2g', 'fork-a2g', 'seq-a2g']
    stage.place.value = 3
    places.CrossViewExplorer()
    assert len(loaded) == 3
    for stage.direction.value in ('g2a', 'a2g', 'g2a'): pass
    assert loaded[3:] == ['pix2pix-g2a', 'fork-g2a', 'seq-g2a'] and stage.fault is None


def test_random_numbers_of_others_are_left_alone(stage):
    import torch
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    stage.attributes['trees'].value = 0.
    stage.direction.value = 'g2a'
    assert torch.equal(torch.rand(3), expected)


def test_each_extreme_of_each_slider_gives_a_town(stage):
    from crossview_nb.explore.places import CROSSING_WORDS
    for stage.direction.value in ('g2a', 'a2g'):
        for name, control in stage.attributes.items():
            for control.value in (CROSSING_WORDS.values() if name == 'crossing' else (control.min, control.max)): assert stage.fault is None
    for stage.direction.value in ('g2a', 'a2g'):           # next to nothing is there
        for name in ('houses', 'trees'): stage.attributes[name].value = 0.
        assert stage.fault is None and 'Found worst' in stage.status.value


def test_an_error_is_shown_and_the_stage_goes_on(stage, monkeypatch):
    from crossview_nb.explore import places
    monkeypatch.setattr(places, 'render_pair', lambda town: 1/0)
    stage.place.value = 4
    assert isinstance(stage.fault, ZeroDivisionError) and 'division by zero' in stage.status.value and not stage.moving
    monkeypatch.undo()
    stage.place.value = 3
    assert stage.fault is None and 'Found worst' in stage.status.value
    assert not any(control.disabled for row in stage.controls for control in row)


def test_a_change_of_the_town_is_imagined_anew(page):
    runs_quietly(page, 'nbs/explore/03_cross_view.ipynb')
    stage = widgets(page).first
    source, fork, below = (stage.locator('img.widget-image').nth(at) for at in (0, 3, 7))
    stage.scroll_into_view_if_needed()
    screenshot(page, 'places-start', of=stage)
    before, imagined = pixels(page, source), pixels(page, fork)
    trees = stage.locator('.widget-slider', has_text='trees').get_by_role('slider')
    trees.press('End')
    wait_for_change(page, source, before)
    wait_for_change(page, fork, imagined)
    stage.get_by_text('changed by you: trees').wait_for()
    wait_idle(page)
    screenshot(page, 'places-trees', of=stage)
    before = pixels(page, below)
    stage.get_by_label('sky').uncheck()
    wait_for_change(page, below, before)
    before = pixels(page, below)
    stage.get_by_label('second row').select_option('wrong classes')
    wait_for_change(page, below, before)
    wait_idle(page)
    screenshot(page, 'places-wrong', of=stage)
    before = pixels(page, source)
    stage.get_by_label('direction').select_option('street to air (g2a)')
    wait_for_change(page, source, before)
    wait_idle(page)
    screenshot(page, 'places-g2a', of=stage)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)
    screenshot(page, 'places')

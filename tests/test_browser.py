"JupyterLab and the results page in a real browser. browser.py has the helpers."
import json
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from browser import (ROOT, cell_errors, console_errors, free_port, isolated, messages_within, open_notebook, opened, pixels, run_all, screenshot, served,
                     too_wide, wait_for_change, wait_idle, widgets)

EXPLORE = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT/'nbs'/'explore').glob('*.ipynb'))

PROBE = '''
import asyncio, warnings
import anywidget, ipywidgets as W, traitlets
class Spot(anywidget.AnyWidget):
    _esm = """export default { render({model, el}) {
        const spot = document.createElement('canvas');
        spot.addEventListener('click', event => { model.set('at', [event.offsetX, event.offsetY]); model.save_changes(); });
        el.append(spot); } }"""
    at = traitlets.List([0, 0]).tag(sync=True)
spot, said, boom, menu, go = Spot(), W.Label('nothing'), W.Button(description='Boom'), W.Dropdown(options=['a', 'b'], description='letter'), W.Button(description='Go')
picture = W.Image(value=b'1', layout=dict(width='20px'))
def follow(change): said.value = f'clicked at {change.new}'
def choose(change): picture.value = change.new.encode()
def fail(_): raise ValueError('went boom')
async def count():
    for i in range(30):
        said.value = str(i)
        await asyncio.sleep(.1)
def start(_): globals().update(task=asyncio.ensure_future(count()))
spot.observe(follow, 'at'); menu.observe(choose, 'value'); boom.on_click(fail); go.on_click(start)
W.VBox([spot, said, boom, menu, go, picture])'''


def notebook(*sources):
    "A notebook's text"
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, outputs=[], execution_count=None, source=source) for i, source in enumerate(sources)]
    return json.dumps(dict(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), nbformat=4, nbformat_minor=5))


# --- the helpers themselves ------------------------------------------------------------------------------------

def test_helpers_see_what_they_should(lab, page):
    "Interactions arrive; what callbacks raise, what runs on, and what is too wide is found: else the tests below would prove nothing"
    (lab.root/'probe.ipynb').write_text(notebook(PROBE, "from IPython.display import HTML\nHTML('<div style=\"width: 3000px\">wide</div>')"))
    open_notebook(page, 'probe.ipynb')
    run_all(page)
    stage = widgets(page)
    assert stage.count() == 1 and not cell_errors(page) and not console_errors(page) and messages_within(page) == 0
    assert len(too_wide(page)) == 1 and 'wide' in too_wide(page)[0]
    stage.locator('canvas').click(position=dict(x=7, y=9))
    stage.get_by_text('clicked at [7, 9]').wait_for()
    before = pixels(page, stage.locator('img'))
    stage.get_by_label('letter').select_option('b')
    wait_for_change(page, stage.locator('img'), before)
    stage.get_by_role('button', name='Go').click()
    assert messages_within(page) > 3
    stage.get_by_text('29', exact=True).wait_for()
    assert messages_within(page) == 0 and not cell_errors(page)
    stage.get_by_role('button', name='Boom').click()
    wait_idle(page)
    page.wait_for_function('window.heard.errors.length')
    assert 'went boom' in cell_errors(page)[0]
    page.evaluate("console.error('went wrong'); fetch('http://example.org/').catch(() => 0)")
    page.wait_for_timeout(500)
    assert 'went wrong' in console_errors(page)[0] and 'ERR_NAME_NOT_RESOLVED' in console_errors(page)[1]
    assert screenshot(page, 'probe').stat().st_size > 1000


def test_learner_notebook(page):
    open_notebook(page, 'nbs/04_discriminators.ipynb')
    run_all(page)
    assert not cell_errors(page) and not console_errors(page)
    assert messages_within(page) == 0
    screenshot(page, '04_discriminators')


# --- explore notebooks: each is opened, run and played with in a file of its own, test_explore_*.py -------------

@pytest.mark.parametrize('path', EXPLORE, ids=lambda path: path.split('/')[-1].removesuffix('.ipynb'))
def test_a_browser_test_opens_it(path):
    assert any(f"runs_quietly(page, '{path}')" in test.read_text(encoding='utf-8') for test in (ROOT/'tests').glob('test_explore_*.py'))


# --- `make play` -----------------------------------------------------------------------------------------------

def test_play_shows_a_stage_without_its_code(chromium, lab, tmp_path):
    "As the Makefile starts it: Voila on all of nbs/, so that links from one notebook to another lead somewhere"
    recipe, = [line for line in (ROOT/'Makefile').read_text(encoding='utf-8').splitlines() if '/voila ' in line]
    served_folder, *options = recipe.split('/voila ')[1].split()
    port = free_port()
    command = [sys.executable, '-m', 'voila', str(lab.root/served_folder), *[option for option in options if option != '--token'], f'--port={port}', '--no-browser', '--Voila.port_retries=0']
    env = os.environ | isolated(tmp_path/'jupyter') | dict(PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])))
    url = f'http://127.0.0.1:{port}'
    with served(command, url, tmp_path/'voila.log', env), opened(url, tmp_path) as page:
        page.goto('/voila/render/explore/10_fork.ipynb', timeout=240_000)
        stage = page.locator('.jupyter-widgets').first
        stage.wait_for(timeout=60_000)
        assert 'ForkExplorer(' not in page.inner_text('body') and page.get_by_role('heading', name='Where to fork').is_visible()
        image = stage.locator('img').first
        before = pixels(page, image)
        stage.get_by_role('slider').first.press('ArrowRight')                                   # another place
        wait_for_change(page, image, before)
        page.goto('/')
        page.get_by_text('explore', exact=True).dblclick()
        page.get_by_text('01_step_the_game').wait_for()
    linked = {link for path in EXPLORE for link in re.findall(r'\]\((?:\./)?([^)#:]+\.ipynb)', (ROOT/path).read_text(encoding='utf-8'))}
    assert len(linked) > 5 and all((lab.root/served_folder/'explore'/link).resolve().is_relative_to((lab.root/served_folder).resolve()) for link in linked)


# --- the results page, from the disk ---------------------------------------------------------------------------

@pytest.fixture
def results(tmp_path):
    "The page of a run over four places, with two measures: one place has no SSIM"
    from crossview_nb.data import CITYSCAPES
    from crossview_nb.regime import RegimeConfig
    from crossview_nb.results import add_to_page, write_results
    from crossview_nb.training import Trainer, TrainingConfig, build_loader, build_regime
    noise, colours = np.random.default_rng(0), np.array(list(CITYSCAPES.values()), np.uint8)
    for phase in ('train', 'val'):
        (tmp_path/'data'/phase).mkdir(parents=True)
        for name in 'abcd':
            pixels = np.concatenate([noise.integers(0, 256, (64, 128, 3), dtype=np.uint8), colours[noise.integers(0, len(colours), (64, 128))]], 1)
            Image.fromarray(pixels).save(tmp_path/'data'/phase/f'{name}.png')
    config = TrainingConfig(name='run', regime='fork', data_root=str(tmp_path/'data'), batch_size=4, epochs=1, workers=0, device='cpu', precision='fp32',
                            checkpoints=str(tmp_path/'checkpoints'), networks=RegimeConfig(size=64, ngf=2, ndf=2))
    trainer = Trainer(build_regime(config), build_loader(config), device='cpu', precision='fp32')
    trainer.fit(1)
    trainer.save(config, 'epoch-0001')
    folder = write_results('run', data_root=str(tmp_path/'data'), checkpoints=str(tmp_path/'checkpoints'), results=str(tmp_path/'results'), device='cpu')
    return add_to_page(folder, {'SSIM': dict(a=.5, b=.9, d=.1), 'KL': dict(a=4., b=3., c=2., d=1.)}, {'SSIM': 'high', 'KL': 'low'})


def test_results_page_sorts(results, page):
    page.context.set_offline(True)
    page.goto(results.as_uri())
    def order(): return [text[0] for text in page.locator('section h2').all_text_contents()]
    menu = page.get_by_label('order')
    assert order() == list('abcd')
    for choice, expected in (('SSIM: best first', 'badc'), ('SSIM: worst first', 'dabc'), ('KL: best first', 'dcba'), ('name', 'abcd')):
        menu.select_option(choice)
        assert order() == list(expected), choice
    menu.focus()
    for key in ('ArrowDown', 'ArrowDown'): menu.press(key)   # the same, by the keyboard
    assert order() == list('badc')
    page.get_by_placeholder('find a place').fill('c')
    assert page.locator('section:visible').count() == 1
    page.get_by_placeholder('find a place').fill('')
    page.locator('section figure').first.click()
    assert page.locator('dialog').is_visible()
    page.keyboard.press('Escape')
    assert not page.locator('dialog').is_visible()
    loaded = page.evaluate('Promise.all([...document.images].map(image => { image.loading = "eager"; return image.src && image.decode().then(() => image.naturalWidth > 0); }))')
    assert len(loaded) >= 20 and not console_errors(page)
    screenshot(page, 'results_page')

"What all tests share: the repository, its tools, and where data that is not ours to ship may lie."
import os
import subprocess
import sys
from pathlib import Path

import browser
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def root():
    "The repository"
    return ROOT


@pytest.fixture(scope='session')
def shared():
    "The folder with real photographs and the authors' recorded numbers; a test that needs it is skipped without it"
    folder = Path(os.environ.get('CROSSVIEW_SHARED', ROOT/'../shared')).resolve()
    if not folder.is_dir(): pytest.skip(f'{folder} is missing (CROSSVIEW_SHARED)')
    return folder


@pytest.fixture(scope='session')
def python():
    "Run a program text, or arguments, in a Python of its own; its output"
    def run(*args, cwd=None, timeout=600, **env):
        if len(args) == 1: args = ('-c', *args)
        done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=timeout,
                              stdin=subprocess.DEVNULL, env=os.environ | env)
        assert done.returncode == 0, f'{args} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}'
        return done.stdout
    return run


def pytest_collection_modifyitems(items):
    "With several workers (`make test` has two) the tests of a file stay together, for they share what is dear to make; only notebooks are dealt out one by one"
    for item in items:
        if item.originalname != 'test_runs_on_colab': item.add_marker(pytest.mark.xdist_group(item.path.stem))


# --- notebooks in a real browser (browser.py) --------------------------------------------------------------------

@pytest.fixture(scope='session')
def chromium():
    "Skips a test where there is no Chromium or no Playwright, and says so"
    pytest.importorskip('playwright.sync_api', reason='Playwright is missing (pip install playwright): no test in a real browser')
    if not browser.find_chromium(): pytest.skip('no Chromium (Debian, Ubuntu: apt install chromium; CHROMIUM=/path names another): no test in a real browser')


@pytest.fixture(scope='session')
def lab(chromium, tmp_path_factory):
    "One JupyterLab for all tests, on a copy of nbs/: `lab.url`; a notebook written into `lab.root` can be opened too"
    with browser.jupyterlab(tmp_path_factory.mktemp('lab')) as server: yield server


@pytest.fixture
def page(lab, tmp_path):
    """A browser page, 1280 pixels wide, that reaches JupyterLab (`open_notebook(page, 'nbs/x.ipynb')`) and nothing else.

    A fresh browser for each test: Playwright keeps an event loop going in this thread while it is open, and asyncio.run in another
    test would refuse to start beside it. So a test that asks for `page` can't call asyncio.run, any other can.
    """
    with browser.opened(lab.url, os.environ.get('CROSSVIEW_SCREENSHOTS', tmp_path/'screenshots')) as page: yield page


# --- the package as others get it ------------------------------------------------------------------------------

def tool(*args, cwd):
    done = subprocess.run([sys.executable, '-m', *map(str, args)], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f'{args}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'


@pytest.fixture(scope='session')
def sdist(tmp_path_factory):
    "The sdist, from a copy of the files that git would hand on: building leaves traces that a checkout should not have"
    here = tmp_path_factory.mktemp('sdist')
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, capture_output=True)
    if listed.returncode: pytest.skip('this is no git checkout')
    for name in listed.stdout.decode().split('\0'):
        if name and not name.startswith(('nbs/', 'tests/')) and (ROOT/name).is_file():
            (here/'source'/name).parent.mkdir(parents=True, exist_ok=True)
            (here/'source'/name).write_bytes((ROOT/name).read_bytes())
    tool('build', '--sdist', '--no-isolation', '--outdir', here, here/'source', cwd=here)
    return next(here.glob('*.tar.gz'))


@pytest.fixture(scope='session')
def wheel(sdist, tmp_path_factory):
    here = tmp_path_factory.mktemp('wheel')
    tool('pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--no-index', '-w', here, sdist, cwd=here)
    return next(here.glob('*.whl'))


@pytest.fixture(scope='session')
def installed(wheel, tmp_path_factory):
    "A folder with nothing but the installed wheel"
    here = tmp_path_factory.mktemp('installed')
    tool('pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', here, wheel, cwd=here)
    return here

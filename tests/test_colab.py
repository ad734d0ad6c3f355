"""Notebooks as on Colab: the wheel, no checkout, no notebook tools of ours, an empty folder.

Each learner and explore notebook is run once, here; the others by nbdev in test_notebooks.py. CROSSVIEW_EVERY_WAY=1 (`make test-all`)
runs every notebook in every way.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted([*(ROOT/'nbs').glob('[0-9]*.ipynb'), *(ROOT/'nbs'/'explore').glob('*.ipynb')])

# The kernel has the packages of this environment, for a second one with PyTorch in it would take minutes and gigabytes. What Colab does
# not have is refused: the tools with which notebooks are exported, and the checkout, which an editable install would bring in.
SITE = '''
import importlib.abc, importlib.util, os, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('nbdev', 'execnb', 'jupytext', 'ghapi'): raise ModuleNotFoundError(f'No module named {name!r} (Colab has none)', name=name)
sys.meta_path.insert(0, Refuse())
checkout = os.environ['NOT_HERE']
sys.path[:] = [path for path in sys.path if os.path.realpath(path or '.') != checkout]
sys.meta_path[:] = [finder for finder in sys.meta_path if '__editable__' not in getattr(finder, '__module__', '') + type(finder).__name__ + getattr(finder, '__name__', '')]
if os.environ.get('ON_COLAB'): import google.colab
'''
STUB = '''
def enable_custom_widget_manager(): open('widgets-enabled', 'w').close()
'''
PIP = '''#!/bin/sh
echo "$@" >> "$PIP_CALLS"
'''


@pytest.fixture(scope='module')
def colabs_widgets(tmp_path_factory):
    "A folder with the ipywidgets that Colab has, a major version behind; None where no package index can be reached"
    here = tmp_path_factory.mktemp('widgets')
    done = subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--retries', '1', '--target', here, 'ipywidgets==7.7.1', 'ipython_genutils==0.2.0'])
    return here if done.returncode == 0 else None


@pytest.fixture(scope='module')
def colab(installed, colabs_widgets, tmp_path_factory):
    "Variables of a kernel that sees the wheel, Colab's widgets, a stub of google.colab, and a pip that only takes notes"
    here = tmp_path_factory.mktemp('colab')
    (here/'site'/'google'/'colab').mkdir(parents=True)
    (here/'site'/'sitecustomize.py').write_text(SITE)
    for name in ('google/__init__.py', 'google/colab/__init__.py'): (here/'site'/name).write_text('')
    (here/'site'/'google'/'colab'/'output.py').write_text(STUB)
    (here/'bin').mkdir()
    (here/'bin'/'pip').write_text(PIP)
    (here/'bin'/'pip').chmod(0o755)
    return dict(PYTHONPATH=os.pathsep.join(map(str, filter(None, (here/'site', installed, colabs_widgets)))), PATH=f"{here/'bin'}{os.pathsep}{os.environ['PATH']}", NOT_HERE=str(ROOT), ON_COLAB='1',
                PIP_CALLS=str(here/'calls'))


def kernel_python(colab, program, cwd):
    done = subprocess.run([sys.executable, '-c', program], env=os.environ | colab, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_simulation_is_one(colab, tmp_path):
    "Else the tests below would prove nothing"
    assert str(ROOT) not in kernel_python(colab, 'import crossview_nb; print(crossview_nb.__file__)', tmp_path)
    assert 'no nbdev' in kernel_python(colab, 'try: import nbdev\nexcept ImportError: print("no nbdev")', tmp_path)
    assert kernel_python(colab, 'import sys; print("google.colab" in sys.modules)', tmp_path) == 'True\n'


def test_the_widgets_are_colabs(colab, colabs_widgets, tmp_path):
    if not colabs_widgets: pytest.skip('no package index: the notebooks below run with the ipywidgets that is installed')
    assert kernel_python(colab, 'import ipywidgets; print(ipywidgets.__version__)', tmp_path) == '7.7.1\n'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT/'nbs').with_suffix('')))
def test_runs_on_colab(path, colab, tmp_path, monkeypatch):
    for name, value in colab.items(): monkeypatch.setenv(name, value)
    monkeypatch.setenv('PIP_CALLS', str(tmp_path/'pip-calls'))
    (tmp_path/'empty').mkdir()
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    nb = nbformat.read(path, 4)
    try: NotebookClient(nb, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(tmp_path/'empty')}}).execute()
    except CellExecutionError as error: pytest.fail(f'{path.name}: {str(error)[-3000:]}', pytrace=False)
    assert 'crossview_nb[notebooks] @ git+https://github.com/' in (tmp_path/'pip-calls').read_text(), 'the first cell did not install the package'
    if path.parent.name == 'explore': assert (tmp_path/'empty'/'widgets-enabled').exists(), 'Colab was not asked to show widgets'


def test_settings_alone_name_the_repository():
    "Badges and first cells are those that tools/colab.py makes of settings.ini"
    sys.path.insert(0, str(ROOT/'tools'))
    try: import colab as maker
    finally: sys.path.remove(str(ROOT/'tools'))
    cfg = maker.settings()
    assert maker.notebooks() == NOTEBOOKS
    for path in NOTEBOOKS:
        nb = json.loads(path.read_text(encoding='utf-8'))
        assert maker.with_colab(json.loads(json.dumps(nb)), path, cfg) == nb, f'{path.name}: run python tools/colab.py'
        assert f"/{cfg['user']}/{cfg['repo']}/blob/" in ''.join(nb['cells'][0]['source'])

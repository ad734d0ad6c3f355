"Every notebook: how it is stored, and that it runs."
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path for path in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)
every_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT/'nbs').with_suffix('')))

RUN = '''
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
good, seconds = test_nb(Path(sys.argv[1]), skip_flags=get_config().tst_flags.split())
sys.exit(not good)'''


def cells(path, kind='code'):
    return [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells']
            if cell['cell_type'] == kind and ''.join(cell['source']).strip()]


def outputs(path):
    return [output for cell in cells(path) for output in cell['outputs']]


@every_notebook
def test_reader_sees_outputs(path):
    assert outputs(path), 'no outputs are stored: a reader on the web sees nothing; run it and save it'
    assert not [o['ename'] for o in outputs(path) if o['output_type'] == 'error'], 'an error is stored among the outputs'


@every_notebook
def test_opens_without_questions(path):
    nb = json.loads(path.read_text(encoding='utf-8'))
    assert nb['metadata'].get('kernelspec', {}).get('name') == 'python3', 'without a kernelspec JupyterLab stops and asks'
    ids = [cell.get('id') for cell in nb['cells']]
    assert None not in ids, 'a cell has no id: the export would change at every load'
    assert len(set(ids)) == len(ids), 'two cells have the same id'


@every_notebook
def test_is_light(path):
    size = path.stat().st_size
    assert size < 2*2**20, f'{size/2**20:.1f} MB: at most 2 (fewer or smaller pictures)'
    assert 'widgets' not in json.loads(path.read_text(encoding='utf-8'))['metadata'], 'widget state is stored: clear it, show a picture'
    views = [o for o in outputs(path) if 'application/vnd.jupyter.widget-view+json' in o.get('data', {})]
    assert not views, 'views of widgets are stored, which no kernel stands behind: python tools/without_views.py takes them out'
    png = [o for o in outputs(path) if 'image/png' in o.get('data', {})]
    assert not png, f"{len(png)} PNG pictures are stored: set_matplotlib_formats('jpeg', pil_kwargs=...) makes them a tenth of that"


@every_notebook
def test_needs_no_notebook_tools_of_ours(path):
    source = '\n'.join(''.join(cell['source']) for cell in cells(path))
    assert not re.search(r'^\s*(import nbdev|from nbdev)', source, re.M), 'imports nbdev, which a reader on Colab does not have'


@every_notebook
def test_title_says_what_it_is(path):
    first = ''.join(cells(path, 'markdown')[0]['source'])
    assert re.match(r'# .+\n+> .+', first), 'a notebook opens with "# Title" and "> what it is in one line"'


@every_notebook
def test_no_text_waits_to_be_written(path):
    "Placeholders, which one puts where a sentence needs an output that is not there yet, have stood in committed pages before"
    for cell in cells(path, 'markdown'):
        text = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|\$[^$]*\$', '', ''.join(cell['source']), flags=re.S)
        assert re.search(r'[a-z]', text), f'{cell["id"]}: no text, but {text!r}'
        found = re.findall(r'\b(?:TODO|FIXME|XXX|TIME|SEEN|HONEST|[A-Z]{3,}_[A-Z_]+)\b', text)
        assert not found, f'{cell["id"]}: {found}'


# Learner and explore notebooks are run from the wheel, in test_colab.py.
OTHERS = [path for path in NOTEBOOKS if os.environ.get('CROSSVIEW_EVERY_WAY') or not (path.parent.name == 'explore' or path.name[0].isdigit() and path.parent.name == 'nbs')]


@pytest.mark.parametrize('path', OTHERS, ids=lambda path: str(path.relative_to(ROOT/'nbs').with_suffix('')))
def test_runs(path, python, tmp_path):
    "Top to bottom, through nbdev, in a process of its own: one notebook's modules and settings don't leak into the next"
    python('-c', RUN, path, cwd=ROOT, TMPDIR=str(tmp_path))
